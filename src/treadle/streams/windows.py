"""Windows over many streams: which stream goes to which row, and the batches."""

import copy
import hashlib
import heapq
import itertools
import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from treadle.errors import DataError, ShapeError, StateError
from treadle.streams.ahead import ahead
from treadle.streams.batch import Batch, Kind, Page
from treadle.streams.cursor import Cursor
from treadle.streams.stream import Stream


class Windows(IterableDataset[Batch]):
    """Lays streams of any lengths over the rows of batches, ``T`` steps at a time.

    Every row reads a stream from beginning to end, window after window. Then it reads the next stream that no row has
    read yet, in the same window, after a reset. So no step is wasted, and every step of every stream comes once per
    epoch, in order. Each epoch has its own random order of streams; steps are never shuffled.

    A stream may be shorter than a window; it needs one step.

    Iterating once gives ``epochs`` epochs; iterating again gives the next ones. An iteration that was left in the
    middle is resumed there; `set_epoch` goes elsewhere.

    **What y is.** Where streams have targets, y is the target of each step; elsewhere, the element after it.
    ``horizon`` says how many elements later: forecasting an hour ahead from minutes is ``horizon=60``, with targets or
    without. A stream of N elements has N - ``horizon`` steps.

    **Resuming.** ``state_dict()`` is small and made of numbers and text. It says where reading is after the last batch
    that came out, however far ahead a thread has read. Processes of a ``DataLoader`` read ahead as well, and this
    object does not see it: there, ``batch.after`` of the last batch that was used is the state.

    **Several processes.** Which step comes in which batch and row depends on the streams, ``rows``, ``steps`` and
    ``seed`` alone; every process works this out for itself, and reads only its share:

    - a *rank* of ``torch.distributed`` reads rows ``rows / ranks * rank`` and following. A stream lies in one row, so
      it belongs to one rank; all ranks have equally many batches; and two ranks read together just what one would, so
      that states of reading move between any numbers of ranks. The rows of others are not read, unless a stream does
      not know its length.
    - a *worker* of ``DataLoader(windows, batch_size=None, num_workers=W)`` makes every W-th batch, which is how a
      DataLoader puts them together again: for any W the batches are the same, in the same order. Use ``set_epoch``
      before each epoch, as with a ``DistributedSampler``: what workers have read, this object does not know.

    Args:
        streams: what to read; names must differ.
        rows: ``B``, the batch size over all ranks: how many streams are read side by side.
        steps: ``T``, the steps of a window.
        horizon: how many elements y is later than x; 0 where streams have targets, else 1, unless given.
        seed: random seed of the order of streams; ``None`` keeps the order given.
        epochs: how many per iteration; ``None`` for endless ones, where the last streams of an epoch and the first of
            the next lie in the same windows.
        dtype: of what is not a whole number; PyTorch's default unless given. Whole numbers and bytes become int64.
        prefetch: how many batches a thread makes in advance; 0 for none. Workers have none.
        rank: which process this is; that of ``torch.distributed`` or of ``torchrun`` unless given.
        ranks: how many there are.

    Raises:
        ShapeError: no streams, sizes that are not positive, fewer streams than rows for several epochs, rows that the
            ranks cannot share equally, a stream too short for one step, streams whose elements differ.
        DataError: two streams of one name, or some with targets and some without; what the sources say, when read.

    Example:
        >>> import torch, treadle as td
        >>> streams = [td.streams.Array(range(10 * n, 11 * n), id=f"from {10 * n}") for n in (3, 4, 6)]
        >>> windows = td.streams.Windows(streams, rows=2, steps=3, seed=None)
        >>> for batch in windows:
        ...     print(batch.x.tolist(), batch.lengths.tolist(), *batch.stream_ids, sep="; ")
        [[30, 31, 60], [40, 41, 42]]; [3, 3]; ('from 30', 'from 60'); ('from 40',)
        [[61, 62, 63], [0, 0, 0]]; [3, 0]; ('from 60',); ()
        [[64, 0, 0], [0, 0, 0]]; [1, 0]; ('from 60',); ()
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        rows: int,
        steps: int,
        *,
        horizon: int | None = None,
        seed: int | None = 0,
        epochs: int | None = 1,
        dtype: torch.dtype | None = None,
        prefetch: int = 2,
        rank: int | None = None,
        ranks: int | None = None,
    ):
        self.streams = list(streams)
        check_streams(self.streams)
        self.horizon = (0 if self.streams[0].has_targets else 1) if horizon is None else horizon
        least = {"rows": 1, "steps": 1, "epochs": 1, "prefetch": 0, "horizon": 0, "seed": 0}
        given = {"rows": rows, "steps": steps, "prefetch": prefetch, "horizon": self.horizon}
        given |= {name: value for name, value in (("epochs", epochs), ("seed", seed)) if value is not None}
        for name, value in given.items():
            if not isinstance(value, int) or value < least[name]:
                raise ShapeError(f"{name} is a whole number from {least[name]} on, but {name}={value!r} was passed")
        if epochs != 1 and len(self.streams) < rows:
            raise ShapeError(
                f"{rows} rows for {epochs or 'endless'} epochs need {rows} streams, or several rows read the same, but"
                f" there {'is 1' if len(self.streams) == 1 else f'are {len(self.streams)}'}: cut with td.streams.split,"
                " or take fewer rows"
            )
        self.rank, self.ranks = _processes(rank, ranks)
        if rows % self.ranks:
            raise ShapeError(
                f"{rows} rows cannot be shared equally by {self.ranks} ranks, whose gradients count alike: pass rows,"
                f" of all ranks together, as a multiple of {self.ranks}"
            )
        for stream in self.streams:
            if stream.length is not None and stream.length <= self.horizon:
                raise _too_short(stream, stream.length, self.horizon)
        self.rows, self.steps, self.seed, self.epochs, self.prefetch = rows, steps, seed, epochs, prefetch
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        self._digest = hashlib.sha256("\0".join(stream.id for stream in self.streams).encode()).hexdigest()[:16]
        self._state = self._start(0)

    @property
    def epoch(self) -> int:
        """The epoch whose streams are being handed out to rows, from 0; the next one, where one has been read out."""
        state = self._state
        return state["epoch"] + (state["next"] == len(self.streams) and not any(state["rows"]))

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        if not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epochs count from 0, but epoch={epoch!r} was passed")
        self._state = self._start(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where reading is, after the last batch that came out: numbers and text, for JSON."""
        return copy.deepcopy(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from where ``state_dict()`` or ``batch.after`` was taken, with any number of ranks and workers.

        Raises:
            StateError: it is the state of reading other streams, or of laying them out otherwise.
        """
        here = self._start(0)
        if not isinstance(state, dict) or state.keys() != here.keys():
            raise StateError("this is not a state of windows: pass what state_dict() gave, or batch.after")
        if state["streams"] != here["streams"]:
            raise StateError(
                f"this is the reading state of other streams than these {len(self.streams)}: pass the same ones, under"
                " the same names, in the same order"
            )
        for name in ("horizon", "seed"):
            if state[name] != here[name]:
                raise StateError(
                    f"this is the state of windows with {name}={state[name]}, but these have {name}={here[name]}: make"
                    " them alike"
                )
        if len(state["rows"]) != self.rows:
            raise StateError(
                f"this is the state of windows with {len(state['rows'])} rows, but these have {self.rows}, over all"
                " ranks together: make them alike"
            )
        self._state = copy.deepcopy(state)

    def __iter__(self) -> Iterator[Batch]:
        state, worker = self._state, get_worker_info()
        if self._is_over(state):
            state = self._start(state["epoch"] + 1)
        if worker is None:
            batches = ahead(self._batches(state, 0, 1), self.prefetch)
        else:
            batches = self._batches(state, worker.id, worker.num_workers)
        try:
            for batch in batches:
                if not isinstance(batch, Batch):
                    self._state = batch
                    return
                if worker is None:  # a worker's batches may never be used, so only their end counts
                    self._state = batch.after
                yield batch
        finally:
            batches.close()

    def _start(self, epoch: int) -> dict[str, Any]:
        """The state at the beginning of an epoch."""
        return {
            "streams": self._digest,
            "horizon": self.horizon,
            "seed": self.seed,
            "first": epoch,  # the epoch with which this pass began
            "epoch": epoch,
            "next": 0,  # how many streams of the epoch have been handed out
            "rows": [None] * self.rows,  # of each row, its stream's number and the step that it comes to
        }

    def _is_over(self, state: dict[str, Any]) -> bool:
        """Whether a pass is at its end."""
        at_end = state["next"] == len(self.streams) and not any(state["rows"])
        return at_end and self.epochs is not None and state["epoch"] + 1 >= state["first"] + self.epochs

    def _batches(
        self, state: dict[str, Any], offset: int, stride: int
    ) -> Generator[Batch | dict[str, Any], None, None]:
        """Every ``stride``-th batch from a state on, beginning with number ``offset``; then the state at the end."""
        queue = _Queue(len(self.streams), self.seed, state, self.epochs)
        numbers: list[int] = [-1 if row is None else row[0] for row in state["rows"]]
        cursors = [None if row is None else self._cursor(*row) for row in state["rows"]]
        share = self.rows // self.ranks
        first = self.rank * share
        kind: Kind | None = None
        for number in itertools.count():
            page: Page | None = None
            wanted = number % stride == offset
            # The row that is free first is served first, as if all rows were read step by step.
            free = [(0, row) for row in range(self.rows)]
            moved = False
            while free:
                filled, row = heapq.heappop(free)
                cursor = cursors[row]
                if cursor is None:
                    numbers[row] = queue.take()
                    if numbers[row] < 0:
                        continue
                    cursors[row] = cursor = self._cursor(numbers[row])
                moved = True
                position, count = cursor.position, cursor.follow(self.steps - filled)
                if wanted and first <= row < first + share:
                    xs, ys = cursor.read(count)
                    kind = kind or Kind(cursor.stream.id, xs, ys)
                    kind.require(cursor.stream.id, xs, ys)
                    page = page or Page(share, self.steps, kind, self.dtype)
                    page.write(row - first, cursor.stream.id, position, xs, ys, not cursor.follow(1))
                else:
                    cursor.skip(count)
                if not cursor.follow(1):
                    cursors[row] = None
                if filled + count < self.steps:
                    heapq.heappush(free, (filled + count, row))
            after = {
                **state,
                "epoch": queue.epoch,
                "next": queue.given,
                "rows": [
                    None if cursor is None else [numbers[row], cursor.position] for row, cursor in enumerate(cursors)
                ],
            }
            if not moved:
                yield after
                return
            if wanted:
                if page is None:  # other ranks have rows that go on
                    kind = kind or Kind(self.streams[0].id, *self._cursor(0).read(1))
                    page = Page(share, self.steps, kind, self.dtype)
                yield page.batch(after)

    def _cursor(self, number: int, position: int = 0) -> Cursor:
        """A place in a stream, at which there is at least one step."""
        cursor = Cursor(self.streams[number], self.horizon, position)
        if not cursor.follow(1):
            raise _too_short(cursor.stream, cursor.elements, self.horizon)
        return cursor


class _Queue:
    """Which stream is next: those of an epoch in the order that was drawn for it, then those of the next epoch."""

    def __init__(self, count: int, seed: int | None, state: dict[str, Any], epochs: int | None):
        self.count, self.seed = count, seed
        self.epoch, self.given = state["epoch"], state["next"]
        self.until = None if epochs is None else state["first"] + epochs
        self._order = self._draw()

    def take(self) -> int:
        """The number of the next stream; -1 if there is none left."""
        if self.given == self.count:
            if self.until is not None and self.epoch + 1 >= self.until:
                return -1
            self.epoch, self.given = self.epoch + 1, 0
            self._order = self._draw()
        self.given += 1
        return int(self._order[self.given - 1])

    def _draw(self) -> np.ndarray:
        if self.seed is None:
            return np.arange(self.count)
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.count)


def check_streams(streams: Sequence[Stream]) -> None:
    """Refuse what cannot be read together: no streams at all, things that are none, equal names, some with targets."""
    if not streams:
        raise ShapeError("there are no streams to read: pass at least one")
    for number, stream in enumerate(streams):
        if not isinstance(stream, Stream):
            raise TypeError(
                f"streams[{number}] is a {type(stream).__name__}, which is no stream: wrap it, as in"
                " td.streams.Array(x, id='name') or td.streams.TextFile(path)"
            )
    seen: set[str] = set()
    for stream in streams:
        if stream.id in seen:
            raise DataError(f"two streams are called {stream.id!r}, but states are kept by name: pass another id=")
        seen.add(stream.id)
        if stream.has_targets != streams[0].has_targets:
            some, none = (stream, streams[0]) if stream.has_targets else (streams[0], stream)
            raise DataError(f"stream {some.id!r} has targets, but {none.id!r} has none: give them to all or to none")


def _too_short(stream: Stream, elements: int, horizon: int) -> ShapeError:
    path = getattr(stream, "path", stream.id)  # a series of a table goes by its own name
    name = f"{stream.id!r}{'' if path == stream.id else f' of {path}'}"
    return ShapeError(
        f"stream {name} has {elements} {'element' if elements == 1 else 'elements'}, but needs {horizon + 1} for"
        f" a single step with horizon={horizon}: leave it out"
    )


def _processes(rank: int | None, ranks: int | None) -> tuple[int, int]:
    """This process's number and how many there are."""
    if (rank is None) != (ranks is None):
        raise ValueError(f"rank={rank} and ranks={ranks} were passed: pass both, or neither")
    if rank is None or ranks is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:  # torchrun says so before anything is initialised
            rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= rank < ranks:
        raise ValueError(f"rank={rank} of ranks={ranks} was passed: ranks count from 0")
    return rank, ranks
