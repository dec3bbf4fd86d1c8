"""What a module's program depends on is noticed, and nothing else; and a glance notices all that a walk does."""

import copy
import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, build
from treadle.engines import signature
from treadle.engines.signature import Signature, signature_of


@dataclass(frozen=True)
class Fixed:
    number: int


@dataclass
class Loose:
    number: int


class Odd(nn.Module):
    """A module with attributes of every kind."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3))
        self.register_buffer("offset", torch.zeros(3))
        self.register_parameter("absent", None)
        self.inner = nn.Linear(3, 3)
        self.number, self.flag, self.name, self.nothing = 3, True, "odd", None
        self.listed, self.table, self.loose = [1, [2, 3]], {"a": [1]}, Loose(1)
        self.fixed, self.pair, self.names = Fixed(1), (1, (2, 3)), {"a": Fixed(1), "b": Fixed(2)}
        self.tensor = torch.zeros(2)
        self.function = torch.tanh


def child(module):
    module.inner = nn.Linear(3, 3, bias=False)


def rename(module):
    module.other = module.__dict__.pop("function")


CHANGES = {
    "a number": lambda m: setattr(m, "number", 4),
    "a number's type": lambda m: setattr(m, "flag", 1),
    "a string": lambda m: setattr(m, "name", "even"),
    "None": lambda m: setattr(m, "nothing", 0),
    "a list's end": lambda m: m.listed.append(4),
    "inside a list": lambda m: m.listed[1].append(4),
    "inside a dict": lambda m: m.table["a"].append(2),
    "a dict's value": lambda m: m.names.update(a=Fixed(3)),
    "a dict's order": lambda m: m.names.update(a=m.names.pop("a")),
    "a dict's new key": lambda m: m.names.update(c=Fixed(3)),
    "a dataclass": lambda m: setattr(m.loose, "number", 2),
    "a frozen dataclass": lambda m: setattr(m, "fixed", Fixed(2)),
    "a tuple": lambda m: setattr(m, "pair", (1, (2, 4))),
    "a function": lambda m: setattr(m, "function", torch.sigmoid),
    "a new attribute": lambda m: setattr(m, "more", 1),
    "an attribute less": lambda m: delattr(m, "number"),
    "an attribute's name": rename,
    "a parameter's shape": lambda m: setattr(m.weight, "data", torch.zeros(2, 4)),
    "a parameter's precision": lambda m: m.double(),
    "whether a parameter learns": lambda m: m.weight.requires_grad_(False),
    "a parameter": lambda m: setattr(m, "weight", nn.Parameter(torch.zeros(2, 5))),
    "a parameter that was None": lambda m: setattr(m, "absent", nn.Parameter(torch.zeros(1))),
    "shared parameters": lambda m: setattr(m.inner, "bias", nn.Parameter(m.inner.bias.detach())) or share(m),
    "a buffer's shape": lambda m: setattr(m, "offset", torch.zeros(4)),
    "a tensor's shape": lambda m: setattr(m, "tensor", torch.zeros(3)),
    "training": lambda m: m.eval(),
    "a child's training": lambda m: m.inner.eval(),
    "a child": child,
    "a child's size": lambda m: setattr(m.inner, "out_features", 4),
    "one child more": lambda m: m.add_module("more", nn.Identity()),
    "a child less": lambda m: delattr(m, "inner"),
    "the class": lambda m: setattr(m, "__class__", type("Other", (Odd,), {})),
    "a hook": lambda m: m.register_forward_hook(lambda *_: None),
    "a child's hook": lambda m: m.inner.register_forward_pre_hook(lambda *_: None),
}


def share(module):
    module.offset_like = module.inner.bias
    module.register_parameter("twice", module.inner.bias)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed(change):
    module = Odd()
    before = signature_of(module)
    assert signature_of(module) is before
    change(module)
    after = signature_of(module)
    assert after != before
    assert after == Signature(signature._walk(module))


def test_what_does_not_matter_is_not():
    module = Odd()
    before = signature_of(module)
    with torch.no_grad():
        module.weight.fill_(3)
    module.weight.data = torch.ones(2, 3)
    module.number = int("3")
    assert signature_of(module) == before
    module.weight = nn.Parameter(torch.ones(2, 3))
    assert signature_of(module) == before
    assert hash(signature_of(module)) == hash(before)


def test_what_is_changed_back_is_known_again():
    module = Odd()
    before = signature_of(module)
    module.eval()
    assert signature_of(module) != before
    assert signature_of(module.train()) == before


@pytest.mark.share(12)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_glance_does_for_everything_that_we_have(subject, monkeypatch):
    cell = build(subject).cell
    before = signature_of(cell)
    monkeypatch.setattr(signature, "_walk", None)
    assert signature_of(cell) is before


def test_a_copy_has_a_signature_of_its_own():
    cell = td.LSTMCell(2, 3)
    assert signature_of(copy.deepcopy(cell)) == signature_of(cell)


def test_nothing_is_kept_alive():
    module = Odd()
    module.inner.above = [module]
    module.inner.__dict__["parent"] = module
    signature_of(module)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None
