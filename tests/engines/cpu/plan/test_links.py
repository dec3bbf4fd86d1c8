"""Links of a chain: whose values are whose, which states belong to which link, and where gradients flow."""

import pytest
import torch

from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Section
from treadle.engines.cpu.plan.links import Links, SharedValues
from treadle.engines.cpu.plan.section import CompiledSection

x = p.placeholder("x", (p.BATCH, 3), torch.float64)
weight, other = (p.placeholder(name, (3, 3), torch.float64) for name in ("weight", "other"))
old, high_old = (p.placeholder(f"state/{name}", (p.BATCH, 3), torch.float64) for name in ("low", "high"))
low = p.elementwise("tanh", p.elementwise("add", p.dot(x, p.permute(weight, (1, 0))), old))
product = p.dot(low, other)
high = p.elementwise("tanh", p.elementwise("add", p.elementwise("add", product, low), high_old))

SECTIONS = (
    Section(Kind.LOOP, (x, weight), (low,), ("low",), (old,), (low,)),
    Section(Kind.PARALLEL, (low, other), (product,)),
    Section(Kind.LOOP, (product, low), (high,), ("high",), (high_old,), (high,)),
)


@pytest.fixture
def links():
    return Links(SECTIONS, [CompiledSection(section) for section in SECTIONS], {low, high})


def test_own_values_and_those_of_the_chain(links):
    for link, section in zip(links, SECTIONS, strict=True):
        assert tuple(link.inputs.values()) == section.inputs
        assert tuple(link.outputs.values()) == section.outputs
        assert tuple(link.inputs) == link.own.inputs
        assert [own.shape for own in link.inputs] == [value.shape for value in section.inputs]


def test_what_comes_from_outside_and_what_is_visible(links):
    assert links.inputs == (x, weight, other)
    assert [links.index[value] for value in links.inputs] == [0, 1, 2]
    assert links.outputs == (low, high)
    assert links.dtype == torch.float64


def test_states_are_numbered_through(links):
    assert [list(link.states) for link in links] == [[0], [], [1]]
    assert links.states == 2
    assert links.divided("xwoabAB") == ("xwo", "ab", "AB")


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ("", {}),
        ("x", {0: [x], 1: [low], 2: [product, low]}),
        ("weight", {0: [weight], 1: [low], 2: [product, low]}),
        ("other", {1: [other], 2: [product]}),
        ("start low", {0: [], 1: [low], 2: [product, low]}),
        ("start high", {2: []}),
        ("fresh high", {2: []}),
        ("x other", {0: [x], 1: [low, other], 2: [product, low]}),
    ],
)
def test_where_gradients_flow(links, needs, expected):
    words = needs.replace("start ", "start").replace("fresh ", "fresh").split()
    names = "x weight other startlow starthigh freshlow freshhigh".split()
    found = links.derivatives([name in words for name in names])
    order = list(links)
    wanted = {order.index(link): [link.inputs[v] for v in d.wanted] for link, d in found.items()}
    assert wanted == expected
    for link, derivative in found.items():
        gradients = link.gradients(derivative)
        assert [value for value, _ in gradients] == expected[order.index(link)]
        assert [gradient.shape for _, gradient in gradients] == [value.shape for value, _ in gradients]


def test_values_without_rows_are_made_of_the_inputs_of_the_chain(links):
    first = next(iter(links))
    (matrix,) = first.compiled.plain.matrices
    tensors = [torch.randn(3, 3, dtype=torch.float64) for _ in links.inputs]
    known = {}
    SharedValues(links, first, [matrix]).compute(tensors, known)
    assert torch.equal(known[matrix], tensors[1].t())


def test_what_is_known_is_not_computed(links):
    first = next(iter(links))
    (matrix,) = first.compiled.plain.matrices
    total = p.elementwise("add", matrix, matrix)
    known = {matrix: torch.ones(3, 3)}
    SharedValues(links, first, [total], known).compute([torch.zeros(3, 3)] * 3, known)
    assert (known[total] == 2).all()
