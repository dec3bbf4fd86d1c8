"""Training on many machines: each worker of Ray Train runs the loop, and the first one reports."""

import dataclasses
import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import torch

from treadle.errors import TreadleError, WorkerError
from treadle.training.budget import ShareDone, every
from treadle.training.fit_run import Run
from treadle.training.processes import SILENCE, rank_and_ranks
from treadle.training.ray_cluster import check_installed, cluster, open_line
from treadle.training.training_loop import Step

TELL_EVERY = 0.2
"""Seconds between two messages of the first worker."""


def steps_on_ray(
    run: Run,
    workers: int,
    *,
    length: dict[str, Any],
    stop: Callable[[], bool] = lambda: False,
    validated: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    often: dict[str, Any] | None = None,
) -> Generator[Step, None, None]:
    """Train ``run.model`` by workers of Ray Train, each of which gets its share of the rows of every batch.

    They meet in ``torch.distributed`` over gloo, so that the steps are those of ``torchrun``, and of one process. Each
    reads the data, and all read the checkpoint that the first one writes, so these lie where all machines see them. It
    goes to the cluster that Ray finds (``RAY_ADDRESS``, or one that runs on this machine), or starts one here.

    Args:
        run: the run to train; it has the trained weights at the end.
        workers: how many; each has a core.
        length: what `ShareDone` takes; seconds count from when the workers have started.
        stop: asked several times a second whether to end early.
        validated: as in `Run.steps`.
        checkpoint: as in `Run.steps`.
        often: what `every` takes: how often to keep it.

    Yields:
        `Step`, after each.

    Raises:
        TreadleError: Ray is not installed; what a worker refused.
        WorkerError: a worker died.
        OSError: what a worker had to say of a file.

    Example:
        ::

            run = Run(Settings("data.csv", target=("y",)))  # both of treadle.training.fit_run
            for step in steps_on_ray(run, workers=8, length={"steps": 500}):
                print(step.loss)
            run.task.save("m.safetensors", run.model)
    """
    check_installed()
    import ray

    with cluster(workers), tempfile.TemporaryDirectory(prefix="treadle-") as folder:
        line = open_line()
        options = {"validated": validated, "checkpoint": checkpoint and os.path.abspath(checkpoint)}
        todo = {"line": line, "settings": absolute(run.settings), "length": length, "often": often, "options": options}
        fit = threading.Thread(target=_train, args=(todo, workers, folder, line), daemon=True)
        fit.start()
        while True:
            over = not fit.is_alive()  # asked first, so that its last words are heard
            for said in ray.get(line.hear.remote(stop())):
                if isinstance(said, Exception):
                    raise said
                if isinstance(said, dict):
                    run.done = said["done"]
                    run.model.load_state_dict(said["weights"])
                else:
                    yield said
            if over:
                return
            fit.join(TELL_EVERY)


def _train(todo: dict[str, Any], workers: int, folder: str, line: Any) -> None:
    """Let Ray Train do it; what goes wrong is said like everything else."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _work,
        train_loop_config=todo,
        torch_config=TorchConfig(backend="gloo", timeout_s=int(SILENCE.total_seconds())),
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=0)),
    )
    try:
        trainer.fit()
    except Exception as error:
        # A worker says itself what it refuses, but the others may fail for it, and sooner: so that is looked for here.
        failures = list(getattr(error, "worker_failures", {}).values()) or [error]
        causes = [getattr(one, "cause", None) or one for one in failures]
        known = [one for one in causes if isinstance(one, TreadleError | OSError)]
        known.sort(key=lambda one: isinstance(one, WorkerError))  # that another one is gone is the last of reasons
        first = " ".join(str(causes[0]).split())[:300]
        said = known[0] if known else WorkerError(f"a worker of Ray ended: {first}")
        ray.get(line.tell.remote([said]))


def _work(todo: dict[str, Any]) -> None:
    """A worker: one of several processes that have met already."""
    import ray

    torch.set_num_threads(1)
    first, line = rank_and_ranks()[0] == 0, todo["line"]
    stopped = False
    run = Run(todo["settings"])
    share_done = ShareDone(**todo["length"], stop=lambda: stopped)
    due = every(**todo["often"]) if todo["often"] else lambda step: False
    untold: list[Any] = []
    told_at = time.monotonic()
    for step in run.steps(share_done, checkpoint_at=due, **todo["options"]):
        untold.append(step)
        if first and time.monotonic() - told_at > TELL_EVERY:
            stopped = bool(ray.get(line.tell.remote(untold)))
            untold, told_at = [], time.monotonic()
    if first:
        end = {"done": run.done, "weights": run.model.state_dict()}
        ray.get(line.tell.remote([*untold, end]))


def absolute(settings: Any) -> Any:
    """The same settings, for where the working directory is another."""
    paths = {name: getattr(settings, name, None) for name in ("file", "test", "resume")}
    known = {name: os.path.abspath(path) for name, path in paths.items() if path and os.path.exists(path)}
    return dataclasses.replace(settings, **known)
