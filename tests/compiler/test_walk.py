"""The walk: each node once, in the order promised, no further than it should, however deep."""

import pytest
import torch

from treadle.compiler.program import between, elementwise, ordered, placeholder
from treadle.compiler.walk import postorder, preorder

# "a" is made of "b" and "c", both of them of "d".
MADE_OF = {"a": ("b", "c"), "b": ("d", "e"), "c": ("f", "d"), "d": (), "e": (), "f": ()}


def test_operands_come_first_and_each_node_once():
    assert "".join(postorder("a", MADE_OF.__getitem__)) == "debfca"
    assert "".join(postorder("ca", MADE_OF.__getitem__)) == "fdceba"


def test_nodes_come_before_their_operands_each_node_once():
    assert "".join(preorder("a", MADE_OF.__getitem__)) == "abdecf"
    assert "".join(preorder("ca", MADE_OF.__getitem__)) == "cfdabe"


@pytest.mark.parametrize("walk", [postorder, preorder])
def test_what_is_known_is_neither_met_nor_entered(walk):
    assert set(walk("a", MADE_OF.__getitem__, "c")) == set("abde")
    assert list(walk("a", MADE_OF.__getitem__, "a")) == []


@pytest.mark.parametrize("walk", [postorder, preorder])
def test_operands_say_where_the_walk_stops(walk):
    assert set(walk("a", lambda node: () if node == "b" else MADE_OF[node])) == set("abcfd")


def test_a_walk_goes_no_further_than_its_caller():
    entered = []
    met = preorder("a", lambda node: entered.append(node) or MADE_OF[node])
    assert [next(met), next(met)] == ["a", "b"]
    assert entered == ["a"]


@pytest.mark.parametrize("walk", [postorder, preorder])
def test_a_diamond_on_a_diamond_is_walked_in_linear_time(walk):
    asked = []
    met = list(walk([60], lambda n: asked.append(n) or ([n - 1, n - 1] if n else [])))
    assert len(met) == len(asked) == 61


def test_a_program_may_be_ten_thousand_operations_deep():
    x = value = placeholder("deep", (3,), torch.float32)
    for _ in range(10_000):
        value = elementwise("add", value, x)
    everything = ordered([value])
    assert len(everything) == 10_001
    assert everything[0] is x
    assert everything[-1] is value
    assert between([], [value]) == everything
    assert list(preorder([value], lambda v: v.inputs)) == [*everything[:0:-1], x]


def test_between_takes_the_last_operand_first():
    a, b = (placeholder(name, (3,), torch.float32) for name in "ab")
    left, right = elementwise("exp", a), elementwise("exp", b)
    total = elementwise("mul", left, right)
    assert between([a, b], [total]) == [right, left, total]
    assert ordered([total]) == [a, left, b, right, total]
