"""Text to learn from, as bytes: read, split into what is learned and what judges, laid out in windows."""

import dataclasses
import gzip
import hashlib
import math
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from treadle.errors import ShapeError
from treadle.training.batches import Batch, share_of

HELD_OUT = 10
"""One part in ten is held out."""

MOST_BYTES = 64_000_000
"""More than this of one file is left unread: it would only fill memory, no budget gets through it."""

ROWS, ROW_BYTES = 64, 128
"""The held-out text is judged by this many rows of this many bytes, spread evenly over it."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text in two parts.

    Attributes:
        name: how messages call it.
        training: what is learned from, uint8 [N].
        held_out: what is never trained on, uint8 [M].
        unread: bytes at the end of the file that were too many to read.
    """

    name: str
    training: Tensor
    held_out: Tensor
    unread: int = 0

    def scored_rows(self) -> Tensor:
        """What networks are judged by: [R, S + 1] bytes of held-out text; all but each row's first are scored.

        64 rows of 128 scored bytes, fewer rows where the held-out text is short.
        """
        rows = min(ROWS, len(self.held_out) // (ROW_BYTES + 1))
        starts = torch.arange(rows) * (len(self.held_out) - ROW_BYTES - 1) // max(rows - 1, 1)
        return self.held_out[starts[:, None] + torch.arange(ROW_BYTES + 1)].long()

    def unigram_bits(self) -> float:
        """Bits per byte of the scored text for a model that knows how frequent each byte is, and nothing else."""
        scored = self.scored_rows()[:, 1:].flatten()
        return -log_frequencies(self.training)[scored].mean().item() / math.log(2)

    def gzip_bits(self) -> float:
        """Bits per byte of the whole held-out text as ``gzip -9`` packs it.

        The whole, not the scored rows: in short pieces, gzip has nothing to look back to.
        """
        return 8 * len(gzip.compress(self.held_out.numpy().tobytes(), 9, mtime=0)) / len(self.held_out)

    def fingerprint(self) -> str:
        """SHA-256 of both parts: equal for equal texts."""
        digest = hashlib.sha256()
        for part in (self.training, self.held_out):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.numpy().data)
        return digest.hexdigest()

    def __reduce__(self) -> Any:
        # As bytes. On its way to another process torch would put a tensor into shared memory, which containers lack.
        parts = (self.training.numpy().tobytes(), self.held_out.numpy().tobytes())
        return _from_bytes, (self.name, *parts, self.unread)

    def check_length(self, rows: int, window: int) -> None:
        """Refuse a text that is too short for windows of ``window`` bytes in ``rows`` rows.

        Raises:
            ShapeError: with the arithmetic.
        """
        learned, judged = rows * window + 1, ROW_BYTES + 1
        needed = max(learned + (learned - 1) // (HELD_OUT - 1), judged * HELD_OUT)
        if len(self.training) < learned or len(self.held_out) < judged:
            raise ShapeError(
                f"{self.name} has {len(self.training) + len(self.held_out):,} bytes, but {needed:,} are needed:"
                f" {rows} rows x {window} bytes + 1 = {learned:,} to learn from, which are {HELD_OUT - 1} parts in"
                f" {HELD_OUT}, and {ROW_BYTES} + 1 = {judged} held out"
            )


def _from_bytes(name: str, training: bytes, held_out: bytes, unread: int) -> Text:
    return Text(name, as_bytes(training), as_bytes(held_out), unread)


def log_frequencies(text: Tensor) -> Tensor:
    """The natural logarithm of how often each of the 256 bytes occurs, float64 [256]; each is counted once too often.

    That keeps bytes which did not occur from being impossible.
    """
    counts = torch.bincount(text, minlength=256).double() + 1
    return (counts / counts.sum()).log()


def read_text(path: str | os.PathLike[str]) -> Text:
    """A file as a text. Its last tenth is held out.

    By position, never at random: a random part would have its own surroundings in the training text.

    Args:
        path: any file; its bytes are taken as they are.

    Raises:
        OSError: it cannot be read.
        ShapeError: it is empty.
    """
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES)
        unread = max(os.fstat(file.fileno()).st_size - len(data), 0)
    if not data:
        raise ShapeError(f"{path} is empty: pass a text file")
    cut = len(data) - len(data) // HELD_OUT
    return _from_bytes(str(path), data[:cut], data[cut:], unread)


def standard_library() -> Text:
    """The source text of this Python's own standard library, without its tests; every tenth file is held out.

    About 12 MB. Files are taken in the order of their paths, so that equal Pythons have equal texts.

    Raises:
        ShapeError: this Python keeps no source text of its library.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    paths = [path for path in folder.rglob("*.py") if left_out.isdisjoint(path.relative_to(folder).parts)]
    paths.sort(key=lambda path: path.relative_to(folder).parts)
    training, held_out = bytearray(), bytearray()
    for i, path in enumerate(paths):
        part = held_out if i % HELD_OUT == HELD_OUT - 1 else training
        part += path.read_bytes()
    if not held_out:
        raise ShapeError(
            f"this Python has no source text of its standard library ({len(paths)} files): pass a text file"
        )
    name = f"the source text of Python {sysconfig.get_python_version()}'s standard library"
    return _from_bytes(name, bytes(training), bytes(held_out), 0)


def as_bytes(data: bytes) -> Tensor:
    """Bytes as uint8 [N]."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


class TextWindows:
    """A text as an endless row of windows, for a state that is carried from each to the next.

    ``rows`` readers start at equal distances in the text and read on, each from where it stopped. The text is a circle:
    a reader who comes to the end goes on at the beginning. Together they read all of it before anything is read twice.

    Args:
        text: bytes [N].
        rows: ``B``, how many readers.
        window: ``T``, how many bytes each reads at a time.
        seed: where the first reader starts.
        share: ``(rank, ranks)``: of the readers, only those of this process.

    Each batch has ``x`` and ``y`` [B, T], whole numbers: the bytes, and the one after each. The last of ``y`` is the
    first of the next batch's ``x``.

    Example:
        >>> import torch
        >>> from treadle.training.text import TextWindows
        >>> reader = TextWindows(torch.zeros(10, dtype=torch.uint8), rows=2, window=3, seed=0)
        >>> next(reader).x.shape, reader.state_dict()
        (torch.Size([2, 3]), {'window': 1})
    """

    def __init__(self, text: Tensor, rows: int, window: int, seed: int = 0, share: tuple[int, int] = (0, 1)):
        offset = int(torch.randint(len(text), (), generator=torch.Generator().manual_seed(seed)))
        self._text, self._rows, self._window, self.next = text, rows, window, 0
        self._starts = (offset + torch.arange(rows) * len(text) // rows)[share_of(rows, *share)]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        at = self._starts + self.next * self._window
        self.next += 1
        found = self._text[(at[:, None] + torch.arange(self._window + 1)) % len(self._text)].long()
        return Batch(found[:, :-1], found[:, 1:])

    def __len__(self) -> int:
        """Batches in which all of the text is read once."""
        return -(-len(self._text) // (self._rows * self._window))

    def state_dict(self) -> dict[str, int]:
        """Which window is next."""
        return {"window": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go there."""
        self.next = state["window"]
