"""The race on many machines: trials of Ray Tune, a CPU each, which may be stopped early by ASHA.

A trial that dies with its machine is begun again elsewhere, from the latest checkpoint of its runs. What a run computes
depends on its seed and its one thread alone, so its numbers are those of the same run on this machine, bit for bit
where CPUs and versions of libraries are alike.
"""

import logging
import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from treadle.errors import WorkerError
from treadle.recipes.compare.plan import Plan, available_cores
from treadle.recipes.compare.runs import TELL_EVERY, Evaluated, GivenUp, Run, Stepped, file_name, train_runs
from treadle.training.ray_cluster import check_installed, cluster, open_line
from treadle.training.text import Text

RESTARTS = 3
"""How often a trial whose machine is gone is begun again."""


class _Failed(NamedTuple):
    reason: str


class RayWorkers:
    """Runs of a plan as trials of Ray Tune, on the cluster that there is, or on one for as long as the block lasts.

    Args:
        reduction_factor: of ASHA: of the networks at each rung, one in so many trains on, by the mean over its seeds.
            None trains all of them to the end.

    Raises:
        TreadleError: Ray is not installed.

    Example:
        ::

            with RayWorkers() as workers:
                for event in workers.race(plan, text, should_stop=lambda: False):
                    ...
    """

    def __init__(self, reduction_factor: int | None = None):
        check_installed()
        self._reduction_factor = reduction_factor
        self._stack = ExitStack()

    def __enter__(self) -> "RayWorkers":
        self._folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="treadle-"))
        self._stack.enter_context(cluster(available_cores()))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def count(self) -> int:
        """How many CPUs the cluster has."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def race(
        self, plan: Plan, text: Text, should_stop: Callable[[], bool], folder: Path | None = None
    ) -> Iterator[Stepped | Evaluated | GivenUp]:
        """Train all runs of a plan; as `Workers.race`, but for the runs that ASHA gives up.

        The text is read by every machine: a file has to lie where all of them see it, under the same path, and the
        folder of checkpoints, if there is one, as well.

        Raises:
            WorkerError: a trial failed, or its machine was gone too often.
        """
        import ray

        line, stopping, failures = open_line(), threading.Event(), []
        tuner = self._tuner(plan, text, line, stopping, folder and folder.absolute())
        fit = threading.Thread(target=_fit, args=(tuner, failures), daemon=True)
        reached = dict.fromkeys(range(len(plan.runs)), 0)
        fit.start()
        while True:
            over = not fit.is_alive()  # asked first, so that its last words are heard
            if should_stop():
                stopping.set()
            for said in ray.get(line.hear.remote(stopping.is_set())):
                if isinstance(said, _Failed):
                    stopping.set()
                    failures.append(said.reason)
                elif not isinstance(said, Evaluated):
                    yield said
                elif said.step > reached[said.run]:  # a trial that was begun again may say it twice
                    reached[said.run] = said.step
                    yield said
            if over:
                break
            fit.join(TELL_EVERY)
        if failures:
            raise WorkerError(f"a trial of Ray failed: {failures[0]}")
        if not stopping.is_set():
            yield from (GivenUp(run) for run, step in reached.items() if step < plan.steps)

    def _tuner(self, plan: Plan, text: Text, line: Any, stopping: threading.Event, folder: Path | None) -> Any:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
        logging.getLogger("ray.tune").setLevel(logging.ERROR)

        seeds, runs = len(plan.seeds), range(len(plan.runs))
        scheduler, shares = None, [[run] for run in runs]
        if self._reduction_factor is not None:
            # ASHA compares networks by the mean over their seeds, so one trial trains all of these.
            shares = [list(runs[start : start + seeds]) for start in runs[::seeds]]
            scheduler = ASHAScheduler(
                "step",
                metric="bits",
                mode="min",
                max_t=plan.steps,
                grace_period=plan.evaluate_at[0],
                reduction_factor=self._reduction_factor,
            )
        trial = tune.with_parameters(_trial, plan=plan, text=text, line=line, folder=folder)
        return tune.Tuner(
            tune.with_resources(trial, {"CPU": 1}),
            param_space={"share": tune.grid_search(shares)},
            tune_config=tune.TuneConfig(scheduler=scheduler),
            run_config=tune.RunConfig(
                storage_path=self._folder,
                stop=_stopper(stopping),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
            ),
        )


def _stopper(stopping: threading.Event) -> Any:
    """Lets Ray Tune stop, and not begin what waits for a CPU, once the event is set."""
    from ray.tune import Stopper
    from ray.tune.stopper import NoopStopper

    class StopAll(Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return stopping.is_set()

        def __reduce__(self) -> Any:  # Ray Tune writes it down, to resume a whole experiment, which nobody does
            return NoopStopper, ()

    return StopAll()


def _fit(tuner: Any, failures: list[str]) -> None:
    """Let Ray Tune do it, in a thread."""
    try:
        errors = tuner.fit().errors
    except Exception as error:
        errors = [error]
    failures += [" ".join(str(error).split())[-300:] or type(error).__name__ for error in errors]


def _trial(config: dict[str, Any], *, plan: Plan, text: Text, line: Any, folder: Path | None) -> None:
    """A trial: some runs in a process of their own."""
    import ray

    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="treadle-") as own:
            keeper = None if folder is not None else _Keeper(line)
            _train(config["share"], plan, text, line, folder or Path(own), keeper)
    except Exception as error:
        ray.get(line.tell.remote([_Failed(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}")]))


class _Keeper:
    """Keeps checkpoints in the line, where no folder is seen by all machines."""

    def __init__(self, line: Any):
        self._line = line

    def keep(self, file: Path) -> None:
        """Keep what is in a file."""
        import ray

        ray.get(self._line.keep.remote(file.name, file.read_bytes()))

    def put_back(self, file: Path) -> None:
        """Put back what was kept of a file, perhaps by a trial on a machine that is gone."""
        import ray

        content: Any = ray.get(self._line.kept_as.remote(file.name))
        if content is not None:
            file.write_bytes(content)


def _train(share: Sequence[int], plan: Plan, text: Text, line: Any, folder: Path, keeper: _Keeper | None) -> None:
    """Train some runs from their checkpoints, which are written at each evaluation point."""
    import ray
    from ray import tune

    stopped, bits = threading.Event(), dict[int, float]()
    files = {number: folder / file_name(plan, number) for number in share}
    runs = []
    for number, file in files.items():
        if keeper is not None:
            keeper.put_back(file)
        runs.append(Run(number, plan, text, checkpoint=file))
        events = runs[-1].resumed()
        bits |= {event.run: event.bits for event in events}
        ray.get(line.tell.remote([*events, Stepped(runs[-1].done)]))
    for event in train_runs(plan, runs, stopped.is_set):
        if ray.get(line.tell.remote([event])):
            stopped.set()
        if isinstance(event, Evaluated):
            bits[event.run] = event.bits
            if keeper is not None:
                keeper.keep(files[event.run])
            if event.run == share[-1]:
                tune.report({"step": event.step, "bits": statistics.fmean(bits.values())})
