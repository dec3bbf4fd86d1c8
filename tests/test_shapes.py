"""The annotated shapes of the engines are checked while the tests run; this shows that they are."""

import pytest
import torch
from jaxtyping import TypeCheckError

import treadle as td
from treadle.engines import Call


def test_a_shape_that_breaks_its_annotation_is_noticed():
    cell = td.GRUCell(2, 3)
    xs, initial = torch.randn(5, 4, 2), cell.initial_state(4)
    with pytest.raises(TypeCheckError, match="resets"):
        Call(cell, initial, xs, initial, resets=torch.zeros(4, 5, dtype=torch.bool))
    with pytest.raises(TypeCheckError, match="lengths"):
        Call(cell, initial, xs, initial, lengths=torch.ones(5, dtype=torch.long))
