"""Text as streams of bytes of any length, split into a training set and a held-out part."""

import dataclasses
import hashlib
import math
import os
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from treadle.errors import DataError, ShapeError
from treadle.streams import Array, Span, Stream, TextFile, Windows, count
from treadle.streams.cursor import Cursor
from treadle.training.side_by_side import side_by_side

HELD_OUT = 10
"""One part in ten is held out."""

ROWS, ROW_BYTES = 64, 128
"""The held-out text is scored by this many rows of this many bytes, spread evenly over it."""

SAMPLE = 1 << 24
"""Of longer texts, so many bytes say how frequent each byte is, and how well gzip packs: both would take minutes."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text in two parts, which may be larger than the memory.

    Attributes:
        name: its name in messages.
        training: the training set, a stream of bytes.
        held_out: the held-out text, a stream of bytes.
    """

    name: str
    training: Stream
    held_out: Stream

    @property
    def training_bytes(self) -> int:
        """How many bytes the training set has."""
        return count(self.training)

    @property
    def held_out_bytes(self) -> int:
        """How many are held out."""
        return count(self.held_out)

    def windows(self, rows: int, steps: int, seed: int = 0, share: tuple[int, int] = (0, 1)) -> Windows:
        """Endless windows of the training set, for a state that is carried from window to window.

        The text is cut into ``rows`` equal parts, which are read side by side; all of it is read before anything is
        read twice. The seed says where the first cut is, so other seeds see other windows.

        Args:
            rows: ``B``, batch size.
            steps: ``T``, bytes of a window.
            seed: random seed of where the text is cut, and of the order of the parts.
            share: ``(rank, ranks)``: of the rows, only those of this process.
        """
        return side_by_side(self.training, rows, steps, seed, share)

    def scored_rows(self) -> Tensor:
        """What networks are scored on: [R, S + 1] bytes of held-out text; all but each row's first are scored.

        64 rows of 128 scored bytes, fewer rows where the held-out text is short.
        """
        length = self.held_out_bytes
        rows = min(ROWS, length // (ROW_BYTES + 1))
        starts = [row * (length - ROW_BYTES - 1) // max(rows - 1, 1) for row in range(rows)]
        found = [Cursor(self.held_out, 0, start).read(ROW_BYTES + 1)[0] for start in starts]
        return torch.from_numpy(np.stack(found)).long()

    def unigram_bits(self) -> float:
        """Bits per byte of the scored text for a model that knows how frequent each byte is, and nothing else."""
        scored = self.scored_rows()[:, 1:].flatten()
        return -self.log_frequencies()[scored].mean().item() / math.log(2)

    def log_frequencies(self) -> Tensor:
        """The natural logarithm of how often each of the 256 bytes is in the training text, float64 [256].

        Each is counted once too often, which keeps bytes that did not occur from being impossible. Of a text of more
        than 16 MB, pieces are counted that are spread evenly over it.
        """
        counts, length, pieces = np.ones(256), self.training_bytes, 256
        if length <= SAMPLE:
            parts = (piece.x for piece in self.training.pieces())
        else:
            starts = (length * piece // pieces for piece in range(pieces))
            parts = (Cursor(self.training, 0, start).read(SAMPLE // pieces)[0] for start in starts)
        for part in parts:
            counts += np.bincount(part, minlength=256)
        return torch.from_numpy(np.log(counts / counts.sum()))

    def gzip_bits(self) -> float:
        """Bits per byte of the held-out text as ``gzip -9`` packs it; of more than 16 MB, the first.

        The whole, not the scored rows: in short pieces, gzip has nothing to look back to.
        """
        packer = zlib.compressobj(9, wbits=31)  # 31: gzip's own format
        length = min(self.held_out_bytes, SAMPLE)
        size = sum(len(packer.compress(part)) for part in _parts(Span(self.held_out, 0, length)))
        return 8 * (size + len(packer.flush())) / length

    def fingerprint(self) -> str:
        """SHA-256 of both parts: equal for equal texts."""
        digest = hashlib.sha256()
        for stream in (self.training, self.held_out):
            digest.update(count(stream).to_bytes(8, "little"))
            for part in _parts(stream):
                digest.update(part)
        return digest.hexdigest()

    def check_content(self) -> None:
        """Refuse a file that was never written: nothing but zero bytes.

        Raises:
            DataError: it is such a file.
        """
        if not any(piece.x.any() for piece in self.training.pieces()):  # of any other, the first piece says it
            raise DataError(f"{self.name} holds nothing but zero bytes: pass a text file")

    def check_length(self, rows: int, window: int) -> None:
        """Refuse a text that is too short for windows of ``window`` bytes in ``rows`` rows.

        Raises:
            ShapeError: with the arithmetic.
        """
        learned, judged = rows * (window + 1), ROW_BYTES + 1
        needed = max(learned + (learned - 1) // (HELD_OUT - 1), judged * HELD_OUT)
        if self.training_bytes < learned or self.held_out_bytes < judged:
            raise ShapeError(
                f"{self.name} has {self.training_bytes + self.held_out_bytes:,} bytes, but {needed:,} are needed:"
                f" {rows} rows x ({window} bytes + 1) = {learned:,} for training, which are {HELD_OUT - 1} parts in"
                f" {HELD_OUT}, and {ROW_BYTES} + 1 = {judged} held out"
            )


def _parts(stream: Stream) -> Iterator[bytes]:
    return (piece.x.tobytes() for piece in stream.pieces())


def text_of(name: str, training: bytes, held_out: bytes) -> Text:
    """A text that lies in memory."""
    parts = zip(("training", "held out"), (training, held_out), strict=True)
    return Text(name, *(Array(np.frombuffer(part, np.uint8), id=id_) for id_, part in parts))


def read_text(path: str | os.PathLike[str]) -> Text:
    """A file as a text. Its last tenth is held out; nothing of it is read yet, so it may be larger than the memory.

    By position, never at random: a random part would have its own surroundings in the training text.

    Args:
        path: any file; its bytes are taken as they are.

    Raises:
        OSError: it cannot be read.
        ShapeError: it is empty.
        DataError: it is a pipe or a device, which can be read once only, and not from the middle; or a saved network.

    Example:
        >>> import pathlib
        >>> from treadle.training import read_text
        >>> _ = pathlib.Path("long.txt").write_text("Now is the time for all good men to come. " * 1000)
        >>> text = read_text("long.txt")
        >>> text.training_bytes, text.held_out_bytes
        (37800, 4200)
        >>> batch = next(iter(text.windows(rows=4, steps=16)))
        >>> batch.x.shape, bool((batch.x[:, 1:] == batch.y[:, :-1]).all())
        (torch.Size([4, 16]), True)
    """
    refuse_network(path)
    whole = TextFile(path, id="text")  # not by its path, so that a run is resumed with a file that was moved
    if not whole.length:
        raise ShapeError(f"{path} is empty: pass a text file")
    cut = whole.length - whole.length // HELD_OUT
    return Text(str(path), Span(whole, 0, cut), Span(whole, cut))


def refuse_network(path: str | os.PathLike[str]) -> None:
    """Refuse a saved network as a text, which any file could be."""
    if Path(path).suffix == ".safetensors":
        raise DataError(f"{path} is a saved network, not a text: pass the text that is to be learned")


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
    return text_of(name, bytes(training), bytes(held_out))
