"""A program stands for a step only as long as what the step read is as it was: whatever that is, and nothing else."""

import argparse
import array
import collections
import copy
import ctypes
import enum
import functools
import gc
import itertools
import logging
import math
import operator
import random
import sys
import types
import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, build, random_state, sequence
from treadle import engines
from treadle.compiler.guards import Guards
from treadle.compiler.reads import Reads
from treadle.engines import network

OUTSIDE = 1.0
SETTINGS = types.SimpleNamespace(factor=1.0, inner={"factors": [1.0, 1.0]})


@dataclass(frozen=True)
class Fixed:
    number: float


@dataclass
class Loose:
    number: float
    parts: list = field(default_factory=lambda: [1.0])


class Slotted:
    __slots__ = ("number", "other")

    def __init__(self):
        self.number, self.other = 1.0, 0


class WithProperty:
    def __init__(self):
        self._number = 1.0

    @property
    def number(self):
        return 2 * self._number


class WithNumber(type):
    @property
    def number(cls):
        return cls._number


class OfAClass(metaclass=WithNumber):
    _number = 1.0


class Mode(enum.Enum):
    DOUBLE, HALF = 2.0, 0.5


def scaled(x, by=None):
    return x * (scaled.factor if by is None else by)


scaled.factor = 1.0


def doubled(x):
    return x * 2.0


def closure():
    inside = 1.0

    def function():
        return inside

    def change():
        nonlocal inside
        inside = 3.0

    return function, change


class Outside(nn.Module):
    """A cell that computes with something from outside: ``of(self)`` is a number or a tensor."""

    shared, table = 1.0, {"factor": 1.0}

    def __init__(self, of):
        super().__init__()
        self.input_size, self.of = 3, of
        self.linear = nn.Linear(7, 4)
        self.number, self.flag, self.none, self.big = 1.0, False, None, list(range(200))
        self.listed, self.table_of_lists = [1.0, [2.0, 3.0]], {"a": {"b": [1.0]}}
        self.pair, self.names, self.queue = (1.0, (2.0, 3.0)), {"a": Fixed(1.0)}, collections.deque([1.0])
        self.fixed, self.loose, self.slotted, self.property = Fixed(1.0), Loose(1.0), Slotted(), WithProperty()
        self.options, self.mode = argparse.Namespace(factor=1.0, inner=Loose(1.0)), Mode.DOUBLE
        self.function, self.change = closure()
        self.partial, self.array = functools.partial(scaled, by=1.0), np.ones(4, np.float32)
        self.tensor, self.tensors = torch.ones(4), [torch.ones(4)]
        self.by_name, self.held = {"t": torch.ones(4)}, types.SimpleNamespace(t=torch.ones(4))
        self.zero_d = {"t": torch.tensor(1.0)}
        self.others, self.dropout = [nn.Linear(4, 4)], nn.Dropout(0.0)
        self.kinds, self.unread = {"x", "y"}, 5
        self.key, self.weak = Key(), weakref.WeakKeyDictionary()
        self.weak[self.key] = 1.0
        self.of_users, self.chained = collections.UserDict(a=1.0), collections.ChainMap({}, {"a": 1.0})
        self.within, self.called, self.matched = {"a": 1.0}, Called(), Matched()
        self.only_read, self.reference = types.MappingProxyType(self.within), weakref.ref(self.loose)
        self.bytes, self.doubles, self.of_c = bytearray([1]), array.array("d", [1.0]), ctypes.c_double(1.0)
        self.view, self.zeros = memoryview(self.bytes), [0.0] * 100

    def initial_state(self, rows):
        return (torch.zeros(rows, 4),)

    def forward(self, x, state):
        h = torch.tanh(self.linear(torch.cat([x, state[0]], 1)) * self.of(self))
        return h, (h,)


class Called:
    """An object whose class says how it is called, and how it takes part in a product."""

    number = 1.0

    def __call__(self):
        return self.number

    def __float__(self):
        return self.number


class Matched:
    __match_args__ = ("number",)

    def __init__(self):
        self.number = 1.0


class Key:
    """A key that a dictionary does not keep alive."""


def unlisted():
    try:
        return LATER  # pyright: ignore[reportUndefinedVariable]
    except NameError:
        return 1.0


def matched(value):
    match value:
        case Matched(number):
            return number


def imported_within():
    import settings_of_a_test  # pyright: ignore[reportMissingImports]

    return settings_of_a_test.factor


def change_code(of, by):
    of.__code__ = by.__code__


def tripled(function):
    return lambda *given: 3 * function(*given)


def set_item(of, key, value):
    of[key] = value


def change_global(cell):
    global OUTSIDE
    OUTSIDE = 3.0


CHANGES = {
    "a number": (lambda c: c.number, lambda c: setattr(c, "number", 3.0)),
    "a number's type": (lambda c: 3 if c.flag is False else 1, lambda c: setattr(c, "flag", 0)),
    "None": (lambda c: 2 if c.none is None else 1, lambda c: setattr(c, "none", 0)),
    "minus zero": (lambda c: torch.full((4,), c.number).sign() / (c.number or 1), lambda c: setattr(c, "number", -2.0)),
    "a list's item": (lambda c: c.listed[0], lambda c: set_item(c.listed, 0, 3.0)),
    "inside a list": (lambda c: c.listed[1][0], lambda c: set_item(c.listed[1], 0, 3.0)),
    "a list's length": (lambda c: len(c.listed), lambda c: c.listed.append(1)),
    "a long list": (lambda c: c.big[150] / 10, lambda c: set_item(c.big, 150, 3)),
    "a dict in dicts": (
        lambda c: c.table_of_lists["a"]["b"][0],
        lambda c: set_item(c.table_of_lists["a"]["b"], 0, 3.0),
    ),
    "a dict's value": (lambda c: c.names["a"].number, lambda c: set_item(c.names, "a", Fixed(3.0))),
    "a dict's order": (lambda c: 1.0 + (next(iter(c.names)) == "a"), lambda c: c.names.update(b=1, a=c.names.pop("a"))),
    "a deque": (lambda c: c.queue[0], lambda c: c.queue.appendleft(3.0)),
    "a set": (lambda c: len(c.kinds), lambda c: c.kinds.add("z")),
    "a tuple": (lambda c: c.pair[1][0], lambda c: setattr(c, "pair", (1.0, (5.0, 3.0)))),
    "a dataclass": (lambda c: c.loose.number, lambda c: setattr(c.loose, "number", 3.0)),
    "a list of a dataclass": (lambda c: c.loose.parts[0], lambda c: set_item(c.loose.parts, 0, 3.0)),
    "a frozen dataclass": (lambda c: c.fixed.number, lambda c: setattr(c, "fixed", Fixed(3.0))),
    "an object with slots": (lambda c: c.slotted.number, lambda c: setattr(c.slotted, "number", 3.0)),
    "a property": (lambda c: c.property.number, lambda c: setattr(c.property, "_number", 3.0)),
    "a namespace": (lambda c: c.options.factor, lambda c: setattr(c.options, "factor", 3.0)),
    "an object in a namespace": (lambda c: c.options.inner.number, lambda c: setattr(c.options.inner, "number", 3.0)),
    "an attribute by a name": (
        lambda c: getattr(c.options, "fac" + "tor"),
        lambda c: setattr(c.options, "factor", 3.0),
    ),
    "an attribute in vars": (lambda c: vars(c.options)["factor"], lambda c: setattr(c.options, "factor", 3.0)),
    "an enumeration": (lambda c: c.mode.value, lambda c: setattr(c, "mode", Mode.HALF)),
    "a class attribute": (lambda c: type(c).shared, lambda c: setattr(type(c), "shared", 3.0)),
    "a class attribute by self": (lambda c: c.shared, lambda c: setattr(type(c), "shared", 3.0)),
    "a class attribute hidden": (lambda c: c.shared, lambda c: setattr(c, "shared", 3.0)),
    "a dict of a class": (lambda c: c.table["factor"], lambda c: set_item(type(c).table, "factor", 3.0)),
    "a global": (lambda c: OUTSIDE, change_global),
    "an object that is a global": (lambda c: SETTINGS.factor, lambda c: setattr(SETTINGS, "factor", 3.0)),
    "a list in a global": (
        lambda c: SETTINGS.inner["factors"][1],
        lambda c: set_item(SETTINGS.inner["factors"], 1, 3.0),
    ),
    "a closure": (lambda c: c.function(), lambda c: c.change()),
    "an attribute of a function": (lambda c: scaled(1.0), lambda c: setattr(scaled, "factor", 3.0)),
    "the defaults of a function": (lambda c: scaled(2.0), lambda c: setattr(scaled, "__defaults__", (3.0,))),
    "a partial function": (
        lambda c: c.partial(1.0),
        lambda c: setattr(c, "partial", functools.partial(scaled, by=3.0)),
    ),
    "a partial function's arguments": (lambda c: c.partial(1.0), lambda c: c.partial.keywords.update(by=3.0)),
    "a function": (lambda c: c.function(), lambda c: setattr(c, "function", lambda: 3.0)),
    "a method": (lambda c: c.property.number, lambda c: setattr(WithProperty, "number", property(lambda self: 5.0))),
    "an array": (lambda c: torch.from_numpy(c.array), lambda c: c.array.fill(3.0)),
    "a tensor's numbers": (lambda c: c.tensor, lambda c: c.tensor.fill_(3.0)),
    "a tensor": (lambda c: c.tensor, lambda c: setattr(c, "tensor", torch.full((4,), 3.0))),
    "a tensor in a list": (lambda c: c.tensors[0], lambda c: set_item(c.tensors, 0, torch.full((4,), 3.0))),
    "a tensor's numbers in a list": (lambda c: c.tensors[0], lambda c: c.tensors[0].fill_(3.0)),
    "a tensor in a dict": (lambda c: c.by_name["t"], lambda c: set_item(c.by_name, "t", torch.full((4,), 3.0))),
    "a tensor of an object": (lambda c: c.held.t, lambda c: setattr(c.held, "t", torch.full((4,), 3.0))),
    "a tensor without axes": (
        lambda c: c.zero_d["t"],
        lambda c: set_item(c.zero_d, "t", torch.tensor(3.0)),
    ),
    "the number of a tensor without axes": (lambda c: c.zero_d["t"], lambda c: c.zero_d["t"].fill_(3.0)),
    "a property of a class": (lambda c: OfAClass.number, lambda c: setattr(OfAClass, "_number", 3.0)),
    "a module in a list": (lambda c: c.others[0].weight[0], lambda c: set_item(c.others, 0, nn.Linear(4, 4))),
    "a parameter of a module in a list": (
        lambda c: c.others[0].weight[0],
        lambda c: setattr(c.others[0], "weight", nn.Parameter(torch.ones(4, 4))),
    ),
    "whether it trains": (lambda c: 1.0 + c.training, lambda c: c.eval()),
    "whether a child trains": (lambda c: 1.0 + c.dropout.training, lambda c: c.dropout.eval()),
    "a child": (lambda c: c.dropout.p + 1.0, lambda c: setattr(c, "dropout", nn.Dropout(1.0))),
    "a weak dictionary": (lambda c: c.weak[c.key], lambda c: set_item(c.weak, c.key, 3.0)),
    "a dictionary that is written in Python": (lambda c: c.of_users["a"], lambda c: set_item(c.of_users, "a", 3.0)),
    "a chain of dictionaries": (lambda c: c.chained["a"], lambda c: set_item(c.chained.maps[1], "a", 3.0)),
    "a dictionary that is only read": (lambda c: c.only_read["a"], lambda c: set_item(c.within, "a", 3.0)),
    "what a weak reference leads to": (lambda c: c.reference().number, lambda c: setattr(c.loose, "number", 3.0)),
    "how a class is called": (lambda c: c.called(), lambda c: setattr(Called, "__call__", lambda self: 3.0)),
    "a number of a class": (lambda c: float(c.called), lambda c: setattr(Called, "__float__", lambda self: 3.0)),
    "a pattern": (lambda c: matched(c.matched), lambda c: setattr(c.matched, "number", 3.0)),
    "a global that was not there": (lambda c: unlisted(), lambda c: globals().update(LATER=3.0)),
    "a constant in code": (lambda c: doubled(1.0), lambda c: change_code(doubled, lambda x: x * 5.0)),
    "memory of bytes": (lambda c: float(c.bytes[0]), lambda c: set_item(c.bytes, 0, 3)),
    "a view of bytes": (lambda c: float(c.view[0]), lambda c: set_item(c.bytes, 0, 3)),
    "an array of Python's": (lambda c: c.doubles[0], lambda c: set_item(c.doubles, 0, 3.0)),
    "a number of C": (lambda c: c.of_c.value, lambda c: setattr(c.of_c, "value", 3.0)),
    "the sign of a zero in a long list": (
        lambda c: math.copysign(1.0, c.zeros[50]),
        lambda c: set_item(c.zeros, 50, -0.0),
    ),
    "a module that is imported within": (
        lambda c: imported_within(),
        lambda c: setattr(sys.modules["settings_of_a_test"], "factor", 3.0),
    ),
    "a function of PyTorch's": (
        lambda c: nn.functional.gelu(c.tensor),
        lambda c: setattr(nn.functional, "gelu", tripled(nn.functional.gelu)),
    ),
    "a class of PyTorch's": (
        lambda c: c.others[0](c.tensor[None]),
        lambda c: setattr(nn.Linear, "forward", tripled(nn.Linear.forward)),
    ),
    "the default precision": (
        lambda c: 1.0 + (torch.get_default_dtype() == torch.float64),
        lambda c: torch.set_default_dtype(torch.float64),
    ),
}


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    global OUTSIDE
    kept = dict(vars(Outside)), copy.deepcopy(Outside.table), copy.deepcopy(SETTINGS), vars(WithProperty)["number"]
    dtype = torch.get_default_dtype()
    for owner, name in (
        (nn.functional, "gelu"),
        (nn.Linear, "forward"),
        (Called, "__call__"),
        (doubled, "__code__"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(Called, "__float__", vars(Called)["__float__"])
    monkeypatch.setitem(sys.modules, "settings_of_a_test", types.ModuleType("settings_of_a_test"))
    sys.modules["settings_of_a_test"].factor = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    yield
    globals().pop("LATER", None)
    Outside.shared, Outside.table, WithProperty.number = kept[0]["shared"], kept[1], kept[3]
    OfAClass._number = 1.0
    vars(SETTINGS).update(vars(kept[2]))
    OUTSIDE, scaled.factor, scaled.__defaults__ = 1.0, 1.0, (None,)
    torch.set_default_dtype(dtype)


def both(cell, xs):
    return td.Recurrent(cell, engine="auto")(xs)[0], td.Recurrent(cell, engine="reference")(xs)[0]


@pytest.mark.share(36)
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed(name, caplog):
    of, change = CHANGES[name]
    cell, xs = Outside(of), torch.randn(2, 5, 3)
    engines.say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "treadle"):
        before, expected = both(cell, xs)
        torch.testing.assert_close(before, expected)
        both(cell, xs)  # a second call is verified
        change(cell)
        after, expected = both(cell, xs)
    torch.testing.assert_close(after, expected)
    if name not in ("a dict's order",):  # iterators are refused
        assert not caplog.records


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_makes_a_difference(name):
    of, change = CHANGES[name]
    cell, xs = Outside(of), torch.randn(2, 5, 3)
    before = td.Recurrent(cell, engine="reference")(xs)[0]
    change(cell)
    after = td.Recurrent(cell, engine="reference")(xs)[0]
    assert name == "a number's type" or not torch.equal(before, after.to(before.dtype))


def program_of(cell):
    return network.network_of(cell, torch.zeros(2, 3), cell.initial_state(2))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: setattr(c, "unread", 7),
        lambda c: setattr(c, "more", 7),
        lambda c: delattr(c, "unread"),
        lambda c: setattr(c, "number", float("1")),
        lambda c: c.linear.weight.detach().fill_(3),
        lambda c: setattr(c.linear.weight, "data", torch.ones(4, 7)),
        lambda c: setattr(c.linear, "weight", nn.Parameter(torch.ones(4, 7))),
    ],
)
def test_what_does_not_matter_is_not(change):
    cell = Outside(lambda c: c.number)
    before = program_of(cell)
    change(cell)
    assert program_of(cell) is before


@pytest.mark.parametrize(
    "change",
    [
        lambda c: setattr(c.linear.weight, "data", torch.ones(4, 8)),
        lambda c: c.linear.weight.requires_grad_(False),
        lambda c: c.double(),
        lambda c: setattr(c, "linear", nn.Linear(7, 4, bias=False)),
        lambda c: setattr(c.linear, "bias", None),
        lambda c: setattr(c, "__class__", type("Other", (Outside,), {})),
        lambda c: c.add_module("more", nn.Identity()),
    ],
)
def test_the_form_of_a_module_matters(change):
    cell = Outside(lambda c: c.number)
    program_of(cell)
    (kinds,) = network._networks[cell].values()
    change(cell)
    assert kinds.now() is None


def test_weights_that_were_one_and_are_two():
    cell = td.Stack([td.LSTMCell(3, 3), td.LSTMCell(3, 3)])
    cell.cells[1].weight_hh = cell.cells[0].weight_hh
    rnn, expected, xs = td.Recurrent(cell), td.Recurrent(cell, engine="reference"), torch.randn(2, 4, 3)
    torch.testing.assert_close(rnn(xs)[0], expected(xs)[0])
    cell.cells[1].weight_hh = nn.Parameter(torch.randn(12, 3))
    torch.testing.assert_close(rnn(xs)[0], expected(xs)[0])


def test_what_is_changed_back_is_known_again():
    cell = Outside(lambda c: 1.0 + c.training)
    before = program_of(cell)
    assert program_of(cell.eval()) is not before
    assert program_of(cell.train()) is before


def test_a_number_that_changes_becomes_an_input(monkeypatch):
    compiled = []
    made = network.plan
    monkeypatch.setattr(network, "plan", lambda *args: compiled.append(args) or made(*args))
    cell, xs = Outside(lambda c: c.number / (1 + c.options.factor)), torch.randn(2, 5, 3)
    for number in (1.0, 0.7, 0.3, 2.0, 0.7, -5.0, 1e-3):
        cell.number, cell.options.factor = number, 2 * number
        ours, expected = both(cell, xs)
        torch.testing.assert_close(ours, expected)
        ours, expected = (torch.autograd.grad(y.sum(), cell.linear.weight)[0] for y in (ours, expected))
        torch.testing.assert_close(ours, expected)
    assert len(compiled) <= 3  # of the first number, of numbers as inputs, and of one that is 1


def test_numbers_may_be_none_and_zeros_of_either_sign():
    cell, xs = Outside(lambda c: c.tensor / c.number + c.options.factor), torch.randn(2, 3, 3)
    for number in (1.0, 0.5, math.nan, 0.0, -0.0, math.nan, math.inf, 2.0):
        cell.number = cell.options.factor = number
        torch.testing.assert_close(*both(cell, xs), equal_nan=True)


def test_a_property_that_was_kept_stays():
    class Kept(Outside):
        @functools.cached_property
        def factor(self):
            return 2 * self.number

    cell, xs = Kept(lambda c: c.factor), torch.randn(2, 3, 3)
    before = both(cell, xs)[0]
    cell.number = 3.0
    torch.testing.assert_close(*both(cell, xs))
    assert torch.equal(both(cell, xs)[0], before)


def test_numbers_that_make_another_step():
    cell, xs = Outside(lambda c: c.number if c.number > 0.5 else 3.0 - c.number), torch.randn(2, 5, 3)
    for number in (1.0, 0.7, 0.6, 0.4, 0.3, 0.8, 0.0, 1.0):
        cell.number = number
        torch.testing.assert_close(*both(cell, xs))


def test_programs_without_end_are_given_up(caplog):
    cell, xs = Outside(lambda c: sum([c.tensor] * int(c.number))), torch.randn(2, 3, 3)
    engines.say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "treadle"):
        for number in range(1, 30):
            cell.number = float(number)
            torch.testing.assert_close(*both(cell, xs))
    assert "what it reads from outside made" in caplog.text


REFUSED = {
    "an iterator": (lambda c: next(c.steps), lambda c: setattr(c, "steps", itertools.count(1.0)), "an iterator"),
    "a generator of Python's": (
        lambda c: 1.0 if c.random is None else 2.0, lambda c: setattr(c, "random", random.Random(1)), "random numbers"),
    "a generator of NumPy's": (
        lambda c: c.random.random(), lambda c: setattr(c, "random", np.random.default_rng(1)), "random numbers"),
    "names that are hidden": (
        lambda c: c.getter(c), lambda c: setattr(c, "getter", operator.attrgetter("loose.number")), "attrgetter"),
    "an iterator in a list": (
        lambda c: next(c.steps[0]), lambda c: setattr(c, "steps", [itertools.count(1.0)]), "an iterator"),
    "a large array": (
        lambda c: float(c.large[0]), lambda c: setattr(c, "large", np.ones(10**6)), "large array of NumPy"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_guarded_is_refused(name):
    of, prepare, words = REFUSED[name]
    cell = Outside(of)
    prepare(cell)
    with pytest.raises(td.errors.EngineError, match=words):
        td.Recurrent(cell, engine="cpu")(torch.randn(2, 5, 3))
    td.Recurrent(cell)(torch.randn(2, 5, 3))


@pytest.mark.share(12)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_what_was_traced_holds_for_everything_that_we_have(subject, monkeypatch):
    rnn = build(subject)
    x, state = sequence(rnn, 2, 1)[:, 0], random_state(rnn, 2)
    before = network.network_of(rnn.cell, x, state)
    monkeypatch.setattr(network, "traced", None)
    assert network.network_of(rnn.cell, x, state) is before


def test_nothing_is_kept_alive():
    cell = Outside(lambda c: c.number)
    cell.others[0].above = [cell]
    cell.linear.__dict__["parent"] = cell
    cell.function = lambda cell=cell: cell
    cell.of = lambda c: 1.0 if c.function() is c.linear.parent else 2.0
    td.Recurrent(cell)(torch.randn(2, 5, 3))
    gone = weakref.ref(cell)
    del cell
    gc.collect()
    assert gone() is None


def test_no_class_is_kept_alive():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.input_size = nn.Linear(7, 4), 3

        def initial_state(self, rows):
            return (torch.zeros(rows, 4),)

        def forward(self, x, state):
            h = self.linear(torch.cat([x, state[0]], 1))
            return h, (h,)

    cell = Own()
    guards = Guards(cell, Reads())
    assert guards.hold()
    gone = weakref.ref(Own)
    del cell, Own
    gc.collect()
    assert gone() is None
    assert not guards.hold()


class OfTheClass(nn.Linear):
    @classmethod
    def forward(cls, x):
        return x


def test_a_forward_of_the_class_is_the_same_at_each_look():
    module = OfTheClass(2, 2)
    assert Guards(module, Reads()).hold()


def test_memory_that_was_released_is_missed_by_the_step_itself():
    cell, xs = Outside(lambda c: float(c.view[0])), torch.randn(2, 5, 3)
    both(cell, xs)
    cell.view.release()
    with pytest.raises(ValueError, match="released memoryview"):
        td.Recurrent(cell)(xs)
