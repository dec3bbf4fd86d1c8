"""What a step does that no program can hold is refused, with its line, and happens at every step, as in Python."""

import argparse
import array
import collections
import cProfile
import datetime
import functools
import io
import logging
import os
import queue
import random
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from treadle import engines

COUNT = 0
LOG: list = []
CACHE: dict = {}


class Plain:
    count = 0

    def __init__(self):
        self.count, self.log = 0, {"a": []}


def counting():
    number = 0.0
    while True:
        number += 1
        yield number


class Acting(nn.Module):
    """A cell that does something beside computing."""

    steps = 0

    def __init__(self, act):
        super().__init__()
        self.input_size, self.act = 3, act
        self.linear = nn.Linear(7, 4)
        self.log, self.logs, self.queue, self.plain = [], {"a": {"b": []}}, collections.deque(maxlen=99), Plain()
        self.generator = torch.Generator()
        self.array, self.file, self.number = np.zeros(3), io.StringIO(), 0
        self.slotted, self.bytes, self.waiting, self.steps = Slotted(), bytearray(1), queue.Queue(), [counting()]
        self.doubles, self.sparse = array.array("d", [1.0]), memoryview(bytearray(4))[::2]
        for number in range(20):
            self.waiting.put(float(number))

    def initial_state(self, rows):
        return (torch.zeros(rows, 4, dtype=self.linear.weight.dtype),)

    def forward(self, x, state):
        h = torch.tanh(self.linear(torch.cat([x, state[0]], 1)))
        h = self.act(self, h)
        return h, (h,)


def returning(h, *_):
    return h


def count_global(cell, h):
    global COUNT
    COUNT += 1
    return h * COUNT


def counter():
    count = 0

    def act(cell, h):
        nonlocal count
        count += 1
        return h * count

    return act


def attribute(cell, h):
    cell.number += 1
    return h * cell.number


def of_an_object(cell, h):
    cell.plain.count += 1
    return h * cell.plain.count


def of_the_class(cell, h):
    type(cell).steps += 1
    return h * type(cell).steps


def of_an_array(cell, h):
    cell.array[0] += 1
    return h * float(cell.array[0])


def default(cell, h, seen=[]):  # noqa: B006
    seen.append(1)
    return h * len(seen)


def inner_gradient(cell, h):
    return h + torch.autograd.grad(h.pow(3).sum(), h, create_graph=True)[0]


def hooked(cell, h):
    h.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return h


def hooked_if_wanted(cell, h):
    if h.requires_grad:
        h.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return h


def of_a_mode(cell, h):
    return 2 * h if torch.is_grad_enabled() else h


def saved(cell, h):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: 2 * t, lambda t: t):
        return h * h


def seeded(cell, h):
    torch.manual_seed(7)
    return h * torch.rand_like(h)


def seeded_by_another_generator(cell, h):
    cell.generator.manual_seed(7)
    return h * torch.rand(h.shape, generator=cell.generator, dtype=h.dtype)


class Slotted:
    __slots__ = ("count",)

    def __init__(self):
        self.count = 0


def of_a_slot(cell, h):
    cell.slotted.count += 1
    return h * cell.slotted.count


def of_bytes(cell, h):
    cell.bytes[0] += 1
    return h * cell.bytes[0]


def of_longer_bytes(cell, h):
    cell.bytes.append(1)
    return h * len(cell.bytes)


def of_longer_bytes_in_view(cell, h):
    cell.number = None  # lets go of the view before
    cell.bytes.append(1)
    cell.number = memoryview(cell.bytes)
    return h * len(cell.number)


def of_longer_doubles(cell, h):
    cell.doubles.append(1.0)
    return h * len(cell.doubles)


def of_another_shape(cell, h):
    cell.array.resize((3, 1) if cell.array.ndim == 1 else (3,), refcheck=False)
    return h * cell.array.ndim


def of_a_view(cell, h):
    cell.sparse[1] += 1
    return h * cell.sparse[1]


def from_a_queue(cell, h):
    return h * cell.waiting.get()


def of_a_setting(cell, h):
    return 2 * h if torch.backends.mkldnn.enabled else h


def of_all_globals(cell, h):
    return h * (1 + globals()["COUNT"])


def of_a_level(cell, h):
    return 2 * h if logging.getLogger("tests").isEnabledFor(logging.DEBUG) else h


def catching(cell, h):
    try:
        return h + torch.cholesky_inverse(h[:, :, None] @ h[:, None] + torch.eye(4, dtype=h.dtype))[:, 0]
    except Exception:
        return 2 * h


ACTS = {
    "a seed": seeded,
    "a seed of another generator": seeded_by_another_generator,
    "an error that is caught": catching,
    "a list": lambda c, h: returning(h, c.log.append(h.detach())),
    "a list in dicts": lambda c, h: returning(h, c.logs["a"]["b"].append(h.detach())),
    "a deque": lambda c, h: returning(h, c.queue.append(h.detach())),
    "a list of an object": lambda c, h: returning(h, c.plain.log["a"].append(h.detach())),
    "a global list": lambda c, h: returning(h * (1 + len(LOG)), LOG.append(1)),
    "an attribute": attribute,
    "an attribute of an object": of_an_object,
    "an attribute of the class": of_the_class,
    "a global number": count_global,
    "a number in a closure": counter(),
    "a default": default,
    "a slot": of_a_slot,
    "memory of bytes": of_bytes,
    "longer memory": of_longer_bytes,
    "longer memory that is looked into": of_longer_bytes_in_view,
    "a longer array of Python's": of_longer_doubles,
    "an array of another shape": of_another_shape,
    "a view that is not dense": of_a_view,
    "a queue": from_a_queue,
    "a generator in a list": lambda c, h: h * next(c.steps[0]),
    "whether there is a file": lambda c, h: h * (2 if os.path.exists(__file__) else 1),
    "a setting of PyTorch's": of_a_setting,
    "all globals": of_all_globals,
    "the level of a log": of_a_level,
    "an array": of_an_array,
    "Python's random numbers": lambda c, h: h * random.random(),
    "Python's choice": lambda c, h: h * random.choice([1.0, 1.0, 2.0]),
    "NumPy's random numbers": lambda c, h: h * float(np.random.rand()),
    "the time": lambda c, h: h + 0 * time.time(),
    "the date": lambda c, h: h + 0 * datetime.datetime.now().year,
    "an environment variable": lambda c, h: h * len(os.environ.get("HOME", "")),
    "print": lambda c, h: returning(h, print("step", file=c.file)),
    "a file": lambda c, h: returning(h, c.file.write("step")),
    "a log": lambda c, h: returning(h, logging.getLogger("tests").warning("step")),
    "a hook on a tensor": hooked,
    "a hook where a gradient is wanted": hooked_if_wanted,
    "an inner gradient": inner_gradient,
    "whether gradients are recorded": of_a_mode,
    "hooks on what is saved": saved,
}


def run(act, engine, dtype=torch.float64):
    """Values, gradients, and what the cell has done."""
    global COUNT
    COUNT, Acting.steps = 0, 0
    LOG.clear()
    default.__defaults__[0].clear()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    cell = Acting(counter() if getattr(act, "__closure__", None) else act).to(dtype)
    ys, (h,) = td.Recurrent(cell, engine=engine)(torch.randn(2, 6, 3, dtype=dtype))
    gradients = torch.autograd.grad(ys.square().sum() + h.sum(), cell.parameters())
    done = cell.log, cell.logs["a"]["b"], list(cell.queue), cell.plain.log["a"], LOG
    counts = (
        bytes(cell.number or b"") if not isinstance(cell.number, int) else cell.number,
        bytes(cell.bytes),
        bytes(cell.sparse),
        list(cell.doubles),
        cell.array.shape,
        cell.plain.count,
        Acting.steps,
        COUNT,
        float(cell.array.flat[0]),
        cell.file.getvalue(),
        list(map(len, done)),
    )
    return [ys, *gradients], counts, [type(t) for part in done for t in part]


@pytest.mark.parametrize("name", ACTS)
def test_a_step_that_acts_runs_as_python(name, caplog):
    engines.say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "treadle"):
        ours, counts, kinds = run(ACTS[name], "auto")
    assert "runs step by step in Python" in caplog.text
    assert "test_reads.py:" in caplog.text
    expected, right, right_kinds = run(ACTS[name], "reference")
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one, other)
    assert counts == right
    assert kinds == right_kinds


def test_memory_that_cannot_be_put_back_is_a_reason(monkeypatch):
    monkeypatch.setattr(sys, "list_of_another_thread", [], raising=False)

    def act(cell, h):
        cell.bytes.append(1)
        sys.list_of_another_thread.append(memoryview(cell.bytes))
        return h

    with pytest.raises(td.errors.EngineError, match=r"test_reads\.py:\d+: the step resizes or closes self\.bytes"):
        td.Recurrent(Acting(act), engine="cpu")(torch.randn(2, 6, 3))


@pytest.mark.parametrize("name", ["Python's random numbers", "NumPy's random numbers"])
def test_tracing_draws_no_random_numbers(name):
    cell = Acting(ACTS[name])
    for generator in (random.random, np.random.rand):
        random.seed(1)
        np.random.seed(1)
        expected = generator()
        random.seed(1)
        np.random.seed(1)
        with pytest.raises(td.errors.EngineError, match="random numbers"):
            td.Recurrent(cell, engine="cpu")(torch.randn(2, 6, 3))
        assert generator() == expected


def test_what_is_refused_does_not_happen_in_tracing(capsys):
    rnn = td.Recurrent(Acting(lambda cell, h: returning(h, print("step"))), engine="cpu")
    with pytest.raises(td.errors.EngineError, match="reads or writes outside"):
        rnn(torch.randn(2, 6, 3))
    assert not capsys.readouterr().out
    rnn.engine = "auto"
    rnn(torch.randn(2, 6, 3))
    assert capsys.readouterr().out == "step\n" * 6


def test_hooks_are_called_at_every_step_and_no_more():
    cell, xs, seen = Acting(returning_h), torch.randn(2, 6, 3), []
    rnn = td.Recurrent(cell)
    compiled = rnn(xs)[0]
    handle = cell.linear.register_forward_hook(lambda module, given, result: seen.append(type(result)))
    torch.testing.assert_close(rnn(xs)[0], compiled)
    assert seen == [torch.Tensor] * 6
    handle.remove()
    rnn(xs)
    assert len(seen) == 6
    assert td.explain(rnn).engine == "cpu"


def test_variables_around_a_method_are_left_as_they_were():
    count, seen = 0, []

    class Counting(Acting):
        def forward(self, x, state):
            nonlocal count
            count += 1
            seen.append(count)
            return super().forward(x, state)

    td.Recurrent(Counting(returning_h))(torch.randn(2, 6, 3))
    assert (count, seen) == (6, [1, 2, 3, 4, 5, 6])


def test_what_the_step_does_not_name_is_left_to_other_threads(monkeypatch):
    others = [0]
    monkeypatch.setattr(sys, "list_of_another_thread", others, raising=False)
    cell = Acting(while_others_work)
    cell.held = argparse.Namespace(elsewhere=others)
    td.Recurrent(cell, engine="cpu")(torch.randn(2, 6, 3))
    assert len(others) > 2  # in tracing, and in Python for verification


def while_others_work(cell, h):
    """A step during which another thread changes something that can be reached from the cell."""
    worker = threading.Thread(target=sys.list_of_another_thread.append, args=(1,))
    worker.start()
    worker.join()
    return h


@functools.lru_cache
def mask(size):
    return torch.ones(size, size).tril()


def kept(size):
    if size not in CACHE:
        CACHE[size] = torch.ones(size, size).tril()
    return CACHE[size]


@pytest.mark.parametrize("function", [mask, kept])
def test_what_a_step_keeps_for_later_is_real(function):
    mask.cache_clear()
    CACHE.clear()
    cell, xs = Acting(lambda c, h: h @ function(4)), torch.randn(2, 6, 3)
    for _ in range(2):
        torch.testing.assert_close(td.Recurrent(cell)(xs), td.Recurrent(cell, engine="reference")(xs))
    assert type(function(4)) is torch.Tensor


@pytest.mark.filterwarnings("always")
def test_a_warning_is_no_act():
    def act(cell, h):
        warnings.warn("said once", stacklevel=1)
        return h

    td.Recurrent(Acting(act), engine="cpu")(torch.randn(2, 6, 3))


def test_an_import_within_a_step_is_no_act():
    def act(cell, h):
        import colorsys

        return h * colorsys.ONE_THIRD

    td.Recurrent(Acting(act), engine="cpu")(torch.randn(2, 6, 3))


def test_profilers_of_the_user_go_on():
    def profile(*_):
        return None

    sys.setprofile(profile)
    try:
        td.Recurrent(Acting(returning_h))(torch.randn(2, 6, 3))
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    profiler = cProfile.Profile()
    with profiler:
        td.Recurrent(Acting(returning_h))(torch.randn(2, 6, 3))
        datetime.date(2000, 1, 1).isoformat()
    assert "isoformat" in str(profiler.getstats())


def returning_h(cell, h):
    return h


def packed(tensor):
    """A copy that begins within a cache line."""
    tensor = tensor.detach()
    return torch.cat([tensor.flatten()[:1], tensor.flatten()]) if tensor.ndim == 1 else torch.cat([tensor[:1], tensor])


MODES = {
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "anomalies": torch.autograd.detect_anomaly,
    "a device": lambda: torch.device("meta"),
    "weights kept": torch.nn.utils.parametrize.cached,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "hooks on what is saved": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t),
    "what is saved goes elsewhere": torch.autograd.graph.save_on_cpu,
    "what is saved goes anywhere": lambda: torch.autograd.graph.saved_tensors_hooks(packed, lambda part: part[1:]),
}


@pytest.mark.share(9)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("parametrised", [False, True])
@pytest.mark.parametrize("name", MODES)
def test_a_first_call_in_a_mode_spoils_nothing(name, parametrised):
    cell = td.Stack([td.LSTMCell(3, 4), td.SLSTMCell(4, 4)])
    if parametrised:
        torch.nn.utils.parametrizations.weight_norm(cell.cells[0], "weight_hh")
    xs, rnn, expected = torch.randn(2, 5, 3), td.Recurrent(cell), td.Recurrent(cell, engine="reference")
    state = rnn.initial_state(2)
    with MODES[name]():
        first = rnn(xs, state)[0]
    assert first.device.type == "cpu"
    torch.testing.assert_close(first.detach().clone(), expected(xs)[0].detach(), atol=2e-2, rtol=2e-2)
    for _ in range(2):
        ours, theirs = rnn(xs)[0], expected(xs)[0]
        torch.testing.assert_close(ours, theirs)
        ours, theirs = (torch.autograd.grad(y.square().sum(), cell.parameters()) for y in (ours, theirs))
        torch.testing.assert_close(ours, theirs)
    assert {s.engine for s in td.explain(rnn).sections if s.kind == "loop"} == {"cpu"}
