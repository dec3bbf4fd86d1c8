"""Small runs, to be killed and to be shared; this module is run as a process of its own, whose children they are.

Children are forked from a process that has imported everything and started nothing, so that each costs no start.
"""

import functools
import itertools
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import distributed

from tests import tolerances
from treadle.errors import ModelFileError, WorkerError
from treadle.files import model_file
from treadle.files.checkpoint import KIND, previous_checkpoint
from treadle.files.lock import locked
from treadle.training import (
    EarlyStopping,
    Sequences,
    SequenceTask,
    TextTask,
    language_model,
    parameter_groups,
    sequence_model,
    train,
    training_loop,
)
from treadle.training.budget import ShareDone, every
from treadle.training.processes import rank_and_ranks
from treadle.training.text import text_of
from treadle.training.training_loop import Step

STEPS = 12
PROSE = b"Now is the time for all good men to come to the aid of the party. " * 60


def sequences(count: int = 45) -> Sequences:
    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn(1 + i % 7, 2, generator=generator) + i % 3 for i in range(count)]
    labels = ["abc"[i % 3] for i in range(count)]
    return Sequences(
        "s", xs, labels, ("p", "q"), ("label",), ("a", "b", "c"), False, [f"row {i}" for i in range(count)]
    )


def run(kind: str, checkpoint: str | None = None, random_masks: bool = True, **options) -> Iterator[Step]:
    """A run with all that can differ: carried state or shuffled epochs, masks, noise, early stopping."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kind == "text":
        task = TextTask(text_of("t", PROSE[:3000], PROSE[3000:]), window=5, share=rank_and_ranks())
        model = language_model("gru", "residual", hidden_size=8)
    else:
        whole = sequences()
        task = SequenceTask(whole, whole.subset(range(9)), rows=11, share=rank_and_ranks())
        model = sequence_model(2, 3, hidden_size=7, dropout=0.2 if random_masks else 0.0)
        model.engine = "reference"  # in Python, which starts at once; the text's network is compiled
    return train(
        model,
        task.batches,
        torch.optim.AdamW(parameter_groups(model)),
        ShareDone(steps=STEPS),
        learning_rate=0.01,
        carry_state=task.carry_state,
        noise=0.1 if kind != "text" and random_masks else 0.0,
        validate=task.validate,
        evaluate_at=lambda step: step % 5 == 0,
        stopping=EarlyStopping(),
        checkpoint=checkpoint,
        checkpoint_at=every(steps=2),
        about={"kind": kind},
        **options,
    )


def child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def listen(kind: str, checkpoint: str | None) -> tuple[int, Iterator[str]]:
    """A run in a child: its pid, and its lines as they come: number and bits of the loss of each step."""
    reader, writer = os.pipe()

    def work() -> None:
        for step in run(kind, checkpoint):
            os.write(writer, f"{step.step} {step.loss.hex()} {step.score}\n".encode())

    pid = child(work)
    os.close(writer)
    return pid, os.fdopen(reader)


def killed(kind: str, folder: Path, times: int) -> None:
    """A run that is killed at random moments and started again: every line must be that of the run that was not."""
    wanted, moments = {}, []
    for line in listen(kind, None)[1]:
        step, wanted[step] = line.split(" ", 1)
        moments.append(time.perf_counter())
    assert len(wanted) == STEPS
    step_seconds = statistics.median(after - before for before, after in itertools.pairwise(moments))
    dice = random.Random(0)
    path = str(folder / "run.checkpoint")
    seen, kills = {}, 0
    while len(seen) < STEPS or kills < times:
        if kills == times:
            last = STEPS
        elif len(seen) == STEPS:  # it went by too fast: once more from the start
            for file in folder.iterdir():
                file.unlink()
            seen.clear()
            continue
        else:
            last = dice.randint(0, 4)
        pid, lines = listen(kind, path)
        for line in lines:
            step, rest = line.split(" ", 1)
            assert rest == wanted[step], f"step {step} after {kills} kills: {rest} is not {wanted[step]}"
            seen[step] = rest
            last -= 1
            if last < 0 and kills < times:
                # Anywhere in what follows: in a step, or while a checkpoint is written.
                moment = time.perf_counter() + dice.uniform(0, step_seconds)
                while time.perf_counter() < moment:
                    pass
                os.kill(pid, signal.SIGKILL)
                break
        os.waitpid(pid, 0)
        kills += 1 if kills < times else 0
    print("killed", kills, "times")


def contested(kind: str, folder: Path, times: int) -> None:
    """Two runs on one checkpoint, both killed again and again: one at a time trains, nothing is lost, nothing stays."""
    training_loop.locked = functools.partial(locked, patience=0)  # runs are short: who waits may find them over
    wanted = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in listen(kind, None)[1]}
    path, dice, kept = folder / "run.checkpoint", random.Random(0), 0

    def work(writer: int) -> Callable[[], None]:
        def inside() -> None:
            try:
                for step in run(kind, str(path)):
                    os.write(writer, f"{step.step} {step.loss.hex()} {step.score}\n".encode())
            except ModelFileError as error:
                os.write(writer, f"{error}\n".encode())

        return inside

    for number in range(times + 1):
        reader, writer = os.pipe()
        pids = [child(work(writer)) for _ in range(2)]
        os.close(writer)
        last = dice.randint(1, 5)
        with os.fdopen(reader) as lines:
            for line in lines:
                step, rest = line.rstrip("\n").split(" ", 1) if "in use by another run" not in line else ("", line)
                if step:
                    assert f"{rest}\n" == wanted[step], f"step {step} after {number} kills is {rest}"
                last -= 1
                if last < 0 and number < times:
                    moment = time.perf_counter() + dice.uniform(0, 0.01)
                    while time.perf_counter() < moment:
                        pass
                    for pid in dice.sample(pids, 2):
                        os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
        before, kept = kept, step_kept(path)
        assert kept >= before, f"step {before} was kept, but is lost after {number + 1} kills"
        if kept == STEPS and number < times - 1:
            for file in folder.iterdir():
                file.unlink()
            kept = 0
    assert kept == STEPS
    assert {file.name for file in folder.iterdir()} == {"run.checkpoint", "run.checkpoint.previous"}
    print("contested", times, "times")  # whether two meet, so that one is refused, is a matter of chance


def step_kept(path: Path) -> int:
    """The step of the last good checkpoint; 0 if there is none yet."""
    for one in (path, previous_checkpoint(path)):
        if one.exists():
            return json.loads(model_file.read(one, KIND)[1]["parts"])["step"]
    return 0


def shared(kind: str, folder: Path, ranks: int, checkpoint: str | None = None, until: int = STEPS) -> list[float]:
    """The losses of a run over several processes, up to a step."""
    for file in folder.glob("rank*"):
        file.unlink()
    (folder / "meeting").unlink(missing_ok=True)

    def work(rank: int) -> Callable[[], None]:
        def inside() -> None:
            if ranks > 1:
                distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=ranks)
            losses = []
            for step in run(kind, checkpoint, random_masks=False):
                losses.append(step.loss)
                if step.step == until:
                    break
            (folder / f"rank{rank}").write_text(" ".join(map(str, losses)))
            if ranks > 1:
                distributed.destroy_process_group()

        return inside

    for pid in [child(work(rank)) for rank in range(ranks)]:
        assert os.waitpid(pid, 0)[1] == 0
    found = [(folder / f"rank{rank}").read_text() for rank in range(ranks)]
    assert len(set(found)) == 1, "processes see different losses"
    return [float(word) for word in found[0].split()]


def several(kind: str, folder: Path) -> None:
    """A run over one process, and one over several that goes on over one."""
    wanted = shared(kind, folder, 1)
    path = str(folder / "run.checkpoint")
    got = []
    for ranks, until in ((2 if kind == "text" else 3, 8), (1, STEPS)):
        got += shared(kind, folder, ranks, path, until)
    assert_close(got, wanted)
    print("shared")


def died(kind: str, folder: Path) -> None:
    """Two processes, of which one is killed: the other ends and says why, and what was kept is good to go on from."""
    wanted = shared(kind, folder, 1)
    path = str(folder / "run.checkpoint")
    (folder / "meeting").unlink(missing_ok=True)
    reader, writer = os.pipe()

    def work(rank: int) -> Callable[[], None]:
        def inside() -> None:
            distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
            try:
                for step in run(kind, path, random_masks=False):
                    if rank == 0:
                        os.write(writer, f"{step.step}\n".encode())
            except WorkerError as error:
                os.write(writer, f"{error}\n".encode())

        return inside

    first, second = (child(work(rank)) for rank in range(2))
    os.close(writer)
    with os.fdopen(reader) as lines:
        for line in lines:
            if line == "5\n":
                os.kill(second, signal.SIGKILL)
                break
        *_, last = lines
    assert os.waitpid(second, 0)[1] == signal.SIGKILL
    assert os.waitpid(first, 0)[1] == 0
    assert last.startswith("process 0 of 2 lost contact with the others"), last
    got = shared(kind, folder, 1, path)
    assert STEPS - 8 <= len(got) <= STEPS - 4, f"{len(got)} steps were left"
    assert_close(got, wanted[-len(got) :])
    print("died")


def assert_close(got: list[float], wanted: list[float]) -> None:
    assert len(got) == len(wanted), f"{len(got)} steps, not {len(wanted)}"
    tolerances.assert_close(torch.tensor(got), torch.tensor(wanted))


if __name__ == "__main__":
    what, kind, folder, *rest = sys.argv[1:]
    {"killed": killed, "several": several, "died": died, "contested": contested}[what](
        kind, Path(folder), *map(int, rest)
    )
