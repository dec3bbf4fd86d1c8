"""The loop is that of a textbook, survives being killed, and is the same over several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import treadle as td
from tests.tolerances import assert_close
from treadle.errors import ModelFileError
from treadle.training import Batch, EarlyStopping, parameter_groups, total_loss, train
from treadle.training.budget import ShareDone, warm_up_and_cosine
from treadle.training.sequences import IGNORED

ROOT = Path(__file__).parent.parent.parent


def process(*arguments) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.runs", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "sequences"])
def test_killed_at_random_moments_it_takes_the_same_steps_bit_for_bit(kind, tmp_path):
    times = os.environ.get("TREADLE_KILLS", "2")
    assert process("killed", kind, tmp_path, times) == f"killed {times} times\n"


@pytest.mark.slow
def test_of_two_runs_that_are_killed_one_at_a_time_keeps_the_checkpoint(tmp_path):
    times = os.environ.get("TREADLE_KILLS", "3")
    assert process("contested", "sequences", tmp_path, times) == f"contested {times} times\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "sequences"])
def test_several_processes_are_one(kind, tmp_path):
    assert process("several", kind, tmp_path) == "shared\n"


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_loses_nothing_that_was_kept(tmp_path):
    assert process("died", "sequences", tmp_path) == "died\n"


class Repeated:
    def __init__(self, batches):
        self.batches, self.at = batches, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        return self.batches[(self.at - 1) % len(self.batches)]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def batches():
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(torch.randn(3, 5, 2, generator=generator), torch.randn(3, 5, 4, generator=generator), lengths, resets)
        for lengths, resets in [
            (torch.tensor([5, 0, 2]), None),
            (None, torch.rand(3, 5, generator=generator) < 0.3),
        ]
    ]


def network():
    torch.manual_seed(0)
    return td.Recurrent(td.Stack([td.LSTMCell(2, 3), td.LSTMCell(3, 4)]))


@pytest.mark.parametrize("carry", [False, True])
def test_the_steps_are_those_of_a_textbook(carry):
    data, model, twin = batches(), network(), network()
    data[0].y[0, 0, 0] = torch.nan
    data[0].y[1:, 2:] = torch.nan
    steps = train(
        model,
        Repeated(data),
        torch.optim.SGD(model.parameters(), 0.1),
        ShareDone(steps=4),
        learning_rate=0.5,
        carry_state=carry,
        clip=0.1,
    )
    got = list(steps)

    optimiser, state = torch.optim.SGD(twin.parameters(), 0.1), None
    for number, step in enumerate(got, 1):
        batch = data[(number - 1) % 2]
        ys, after = twin(batch.x, state, lengths=batch.lengths, resets=batch.resets)
        there = ~batch.y.isnan()
        loss = (ys[there] - batch.y[there]).square().mean()
        twin.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        optimiser.param_groups[0]["lr"] = 0.5 * warm_up_and_cosine(number, (number - 1) / 4)
        optimiser.step()
        state = td.detach(after) if carry else None
        assert_close(torch.tensor(step.loss), loss)
        assert step.step == number
    for name, parameter in twin.named_parameters():
        assert_close(dict(model.named_parameters())[name], parameter, what=name)
    assert [step.inputs for step in got] == [7, 15, 7, 15]


def test_another_loss_takes_the_place_of_the_usual_one():
    def steps(loss_of):
        model = network()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        options = {"learning_rate": 0.5, "loss_of": loss_of, "clip": 1e9}
        losses = [step.loss for step in train(model, Repeated(batches()), optimiser, ShareDone(steps=1), **options)]
        return losses, model.state_dict()

    def doubled(ys, y):
        total, count = total_loss(ys, y)
        return 2 * total, count

    (plain,), after = steps(None)
    (twice,), farther = steps(doubled)
    assert twice == pytest.approx(2 * plain)
    before = network().state_dict()
    for name, start in before.items():
        assert_close(farther[name], start + 2 * (after[name] - start), what=name)
        assert not torch.equal(farther[name], after[name])


def test_a_loss_of_one_s_own_is_not_smoothed_unheard():
    model = network()
    options = {"learning_rate": 0.5, "loss_of": total_loss, "label_smoothing": 0.1}
    steps = train(model, Repeated(batches()), torch.optim.SGD(model.parameters(), 0.1), ShareDone(steps=1), **options)
    with pytest.raises(ValueError, match=r"label_smoothing is 0.1, but loss_of takes the place"):
        next(steps)


def test_labels_count_where_there_are_any():
    torch.manual_seed(0)
    ys, y = torch.randn(2, 3, 5), torch.tensor([[1, IGNORED, 4], [IGNORED, IGNORED, 0]])
    total, count = total_loss(ys, y)
    kept = y != IGNORED
    assert count == 3
    assert_close(total / count, F.cross_entropy(ys[kept], y[kept]))
    smooth, _ = total_loss(ys, y, 0.2)
    assert_close(smooth / count, F.cross_entropy(ys[kept], y[kept], label_smoothing=0.2))


def test_early_stopping_ends_and_gives_the_best_weights_back():
    model = network()
    scores, seen = iter([3.0, 1.0, 2.0, 2.0, 0.0]), []

    def validate(model):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(scores)

    steps = train(
        model,
        Repeated(batches()),
        torch.optim.SGD(model.parameters(), 0.1),
        ShareDone(steps=100),
        learning_rate=0.5,
        validate=validate,
        evaluate_at=lambda step: step % 2 == 0,
        stopping=EarlyStopping(patience=2),
    )
    got = list(steps)
    assert [step.score for step in got] == [None, 3.0, None, 1.0, None, 2.0, None, 2.0]
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in model.state_dict().items())


def test_noise_and_bfloat16_change_what_is_learned_but_not_much():
    losses = {}
    for options in ({}, {"noise": 0.01}, {"bfloat16": True}):
        model = network()
        steps = train(
            model,
            Repeated(batches()[1:]),
            torch.optim.AdamW(parameter_groups(model)),
            ShareDone(steps=5),
            learning_rate=0.01,
            **options,
        )
        losses[str(options)] = torch.tensor([step.loss for step in steps])
    plain, *others = losses.values()
    for other in others:
        assert not torch.equal(other, plain)
        assert_close(other, plain, torch.bfloat16)  # noise of a hundredth stays within it as well


def test_a_run_goes_on_only_as_itself(tmp_path):
    model = network()

    def steps(about):
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        path = tmp_path / "run.checkpoint"
        options = {"learning_rate": 0.1, "checkpoint": path, "about": about}
        found, seen = train(model, Repeated(batches()), optimiser, ShareDone(steps=3), **options), []
        while True:
            try:
                seen.append(next(found).step)
            except StopIteration as end:
                return seen, end.value

    assert steps({"rows": 4, "file": None}) == ([1, 2, 3], 3)
    assert steps({"rows": 4, "file": None}) == ([], 3)  # it is over
    with pytest.raises(ModelFileError, match="the checkpoint of another run: rows was 4 there, but is 5 here"):
        steps({"rows": 5, "file": None})


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    def steps():
        model = network()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        stopping = EarlyStopping(patience=1)
        found = train(
            model,
            Repeated(batches()),
            optimiser,
            ShareDone(steps=9),
            learning_rate=0.1,
            validate=lambda model: 1.0,
            evaluate_at=lambda step: True,
            stopping=stopping,
            checkpoint=tmp_path / "run.checkpoint",
        )
        return len(list(found)), stopping.score

    assert steps() == (2, 1.0)
    assert steps() == (0, 1.0)


def test_the_time_of_a_run_is_counted_on():
    clock = ShareDone(seconds=1000)
    assert clock(0) == 0
    clock.load_state_dict({"seconds": 600})
    assert 0.6 <= clock(1) < 0.7
    assert 600 <= clock.state_dict()["seconds"] < 700
    with pytest.raises(ValueError, match="pass one of the two"):
        ShareDone()
