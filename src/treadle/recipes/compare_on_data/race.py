"""Many fits of one data set, side by side in worker processes: one process a core, one thread a process."""

import bisect
import dataclasses
import itertools
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch

from treadle.errors import ShapeError, TreadleError, WorkerError
from treadle.recipes.end_with_parent import end_with_parent
from treadle.training.budget import EarlyStopping, ShareDone
from treadle.training.layered_networks import parameter_count
from treadle.training.task import Design, Habits, Verdict
from treadle.training.training_loop import Step

SHARE = 0.8
"""How much of the time that is left is planned to be used."""
PILOT_STEPS = 4
LEAST_STEPS = 20
VALIDATIONS = 10
"""How often a fit is validated, at most: on few rows an epoch is a few steps, and validating after each would take the
time of the training."""

EPOCHS = 100
"""A fit is no longer than that."""
HIGHEST_RATE = 0.005
"""The peak learning rate of a short fit, at most."""

T = TypeVar("T")


class Learned(Protocol):
    """What is learned, as much of `treadle.training.task.Task` as a comparison needs."""

    epoch_steps: int
    evaluate_every: int

    def build(self, design: Design) -> Any:
        """A network to be trained."""
        ...

    def validate(self, model: Any) -> float:
        """The score that tells when to stop, the lower the better."""
        ...

    @property
    def score_of_constant(self) -> float:
        """The score of a network that says the same at every step: what the training set says without inputs."""
        ...

    def judge(self, model: Any) -> Verdict:
        """How good the network is on what was never used."""
        ...

    def save(self, path: str | os.PathLike[str], model: Any) -> None:
        """Write the network to a file."""
        ...


class Run(Protocol):
    """A fit that can begin; `treadle.training.fit_run.Run` is one.

    Attributes:
        settings: of the fit.
        model: the network.
        stopping: the scores of validation.
        done: steps done, when it is over.
    """

    settings: Any
    model: Any
    stopping: EarlyStopping
    done: int

    @property
    def task(self) -> Learned:
        """What is learned."""
        ...

    def steps(
        self, share_done: Callable[[int], float], *, validated: bool = ..., checkpoint: Any = ..., **options: Any
    ) -> Generator[Step, None, None]:
        """Train, a step each time that the iterator is asked."""
        ...


class Settings(Protocol):
    """A dataclass with the settings of a fit; `treadle.training.fit_run.Settings` is one."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def cell(self) -> str | None:
        """Of every layer."""
        ...

    @property
    def wiring(self) -> str | None:
        """How the layers connect."""
        ...

    @property
    def layers(self) -> int | None:
        """How many."""
        ...

    @property
    def parameters(self) -> int | None:
        """How many; None for the habit."""
        ...

    @property
    def seed(self) -> int:
        """Random seed."""
        ...

    @property
    def habits(self) -> Habits:
        """What suits the data."""
        ...

    def option(self, name: str) -> Any:
        """A value, or the habit if there is none."""
        ...

    def started(self) -> Run:
        """A fit that can begin."""
        ...


class Trained(NamedTuple):
    """A fit that is over."""

    settings: Settings
    score: float
    """The best of validation, the start and a constant answer included; lower is better, infinite if it diverged.

    So what learns nothing from the data has the same score as others that learn nothing.
    """
    parameters: int
    steps: int
    curve: tuple[tuple[int, float], ...]
    """Steps and scores of validation."""
    sentence: str
    """What the test set says."""
    model: bytes
    """The file that keeps the network."""


class _Pace(NamedTuple):
    """How long a fit takes, in seconds: to begin, for a step, for a validation; and its epochs."""

    begin: float
    step: float
    validation: float
    epoch_steps: int
    evaluate_every: int

    def seconds(self, steps: int) -> float:
        """Those of a fit of so many steps: validated at the start and the end, too, and once more on the test set."""
        validations = 3 + min(steps / self.evaluate_every, VALIDATIONS)
        return self.begin + steps * self.step + validations * self.validation


def interval(evaluate_every: int, steps: int) -> int:
    """After how many steps a fit of so many is validated: as often as by habit, but at most `VALIDATIONS` times.

    Example:
        >>> from treadle.recipes.compare_on_data.race import interval
        >>> interval(evaluate_every=3, steps=20), interval(evaluate_every=3, steps=600)
        (3, 60)
    """
    return max(evaluate_every, -(-steps // VALIDATIONS))


class Pool(Protocol):
    """Where fits run."""

    count: int
    """How many at a time."""

    def submit(self, work: Callable[..., T], /, *arguments: Any) -> "Future[T]":
        """Begin something, as soon as there is room."""
        ...

    def shutdown(self) -> None:
        """End, whatever still runs."""
        ...


class ProcessPool:
    """Processes of this machine."""

    def __init__(self, count: int):
        self.count = count
        context = multiprocessing.get_context("spawn")  # a fork of a process that has run PyTorch's threads may hang
        self._executor = ProcessPoolExecutor(count, context, initializer=end_with_parent)

    def submit(self, work: Callable[..., T], /, *arguments: Any) -> "Future[T]":
        """Begin something, as soon as there is room."""
        return self._executor.submit(work, *arguments)

    def shutdown(self) -> None:
        """Wait for what runs, and end."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class Race:
    """Fits of the same data with several networks and seeds.

    Args:
        settings: of each fit; those with the same seed have the same split and the same batches.
        pool: where they run; it is shut down at the end.
        folder: of checkpoints, a file for each fit, to resume from and to write at each validation.

    Example:
        ::

            with Race(settings, ProcessPool(2)) as race:
                for trained in race.run(race.affordable_steps(100.0)):
                    ...
    """

    def __init__(self, settings: Sequence[Settings], pool: Pool, folder: Path | None = None):
        self.settings, self._pool, self._folder = list(settings), pool, folder

    def __enter__(self) -> "Race":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def affordable_steps(self, seconds: float) -> int:
        """How many steps each fit can have in a time, by the pace of one of each kind of network.

        Raises:
            ShapeError: too few to say anything.
            WorkerError: a worker failed.
            TreadleError: what a fit says of the data.
        """
        start, kinds = time.monotonic(), {(one.wiring, one.cell): one for one in self.settings}
        paces = self._all([self._pool.submit(_pace, one) for one in kinds.values()])
        left = SHARE * (seconds - (time.monotonic() - start)) * min(self._pool.count, len(self.settings))
        fits, most = len(self.settings) / len(paces), whole_fit(self.settings[0], paces[0].epoch_steps)
        steps = bisect.bisect(range(most + 1), left, key=lambda n: fits * sum(pace.seconds(n) for pace in paces)) - 1
        if steps < LEAST_STEPS:
            raise ShapeError(
                f"the time is too short for {len(self.settings)} fits: pass a longer `budget`, fewer `seeds`, or name"
                " fewer networks (`wiring`)"
            )
        return steps

    def run(self, steps: int, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Trained]:
        """Train all, each for so many steps, and give them as they end; those that have not begun can be stopped.

        Raises:
            WorkerError: a worker failed.
        """
        folder = self._folder
        files = [None if folder is None else folder / f"{one.wiring}-{one.cell}-{one.seed}" for one in self.settings]
        waiting = {self._pool.submit(_train, *one, steps) for one in zip(self.settings, files, strict=True)}
        while waiting:
            done, waiting = wait(waiting, 0.2, FIRST_COMPLETED)
            yield from self._all(done)
            if should_stop():
                for future in waiting:
                    future.cancel()
                return

    @staticmethod
    def _all(futures: "Iterable[Future[T]]") -> list[T]:
        try:
            return [future.result() for future in futures]
        except BrokenProcessPool:
            raise WorkerError("a worker process ended unexpectedly, perhaps for want of memory") from None
        except Exception as error:
            cause = getattr(error, "cause", None) or error  # Ray wraps what a fit has to say
            if isinstance(cause, TreadleError | OSError):
                raise cause from None
            raise WorkerError(f"a fit failed: {type(cause).__name__}: {' '.join(str(cause).split())[:300]}") from error


def _pace(settings: Settings) -> _Pace:
    torch.set_num_threads(1)
    start = time.monotonic()
    run = settings.started()
    begin = time.monotonic() - start  # what is compiled in the pilot's first step is kept for the others
    steps = list(run.steps(ShareDone(steps=PILOT_STEPS)))
    before = time.monotonic()
    run.task.validate(run.model)
    now = time.monotonic()
    step = min(one.seconds for one in steps)
    return _Pace(begin, step, now - before, run.task.epoch_steps, run.task.evaluate_every)


def _train(settings: Settings, checkpoint: Path | None, steps: int) -> Trained:
    torch.set_num_threads(1)
    run = settings.started()
    run.settings = hurried(settings, steps, run.task.epoch_steps)
    first, every = run.task.validate(run.model), interval(run.task.evaluate_every, steps)
    run.task.evaluate_every = every
    kept: dict[str, Any] = {"checkpoint": checkpoint, "checkpoint_at": lambda step: step % every == 0}
    for step in run.steps(ShareDone(steps=steps), validated=True, **kept):
        if not math.isfinite(step.loss):
            return Trained(settings, math.inf, parameter_count(run.model), step.step, (), "training diverged", b"")
    scores = [score if math.isfinite(score) else math.inf for score in run.stopping.scores]
    curve = tuple((every * i, score) for i, score in enumerate(scores, start=1))
    best = min(first, run.task.score_of_constant, *scores, run.task.validate(run.model))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        run.task.save(path, run.model)
        sentence = run.task.judge(run.model).sentence
        return Trained(settings, best, parameter_count(run.model), run.done, curve, sentence, path.read_bytes())


def whole_fit(settings: Settings, epoch_steps: int) -> int:
    """How many steps `treadle fit` would train, if nothing stops it early."""
    return settings.habits.scaled(EPOCHS, epoch_steps) * epoch_steps


def hurried(settings: Settings, steps: int, epoch_steps: int) -> Settings:
    """The settings of a fit that has only so many steps: in so far as they are fewer than those of a whole fit, the
    peak learning rate is higher, so that what can be learned is seen earlier."""
    usual = settings.option("learning_rate")
    rate = usual * max(whole_fit(settings, epoch_steps) / steps, 1)
    return dataclasses.replace(settings, learning_rate=min(rate, max(usual, HIGHEST_RATE)))


def contenders(
    settings: Settings, wirings: Sequence[str], cells: Sequence[str], seeds: Sequence[int]
) -> list[Settings]:
    """The settings of all fits: each wiring of each cell with each seed."""
    return [
        dataclasses.replace(settings, wiring=wiring, cell=cell, seed=seed)
        for seed in seeds
        for wiring in wirings
        for cell in cells
    ]


def common_size(task: Learned, settings: Settings, wirings: Sequence[str], cells: Sequence[str]) -> int:
    """A number of parameters that all networks can have: that of the settings, or near the habit of the kind of data.

    Raises:
        ShapeError: one of them cannot have it.
    """
    shares = [1.0] if settings.parameters is not None else [1 + sign * i * 0.02 for i in range(20) for sign in (1, -1)]
    refused: ShapeError | None = None
    for share in shares:
        parameters = round(share * settings.option("parameters"))
        try:
            for wiring, cell in itertools.product(wirings, cells):
                task.build(Design(cell, wiring, settings.layers or 2, parameters))
            return parameters
        except ShapeError as error:
            refused = refused or error
    assert refused is not None
    raise refused
