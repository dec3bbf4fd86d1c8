"""Copies, the rows that steps begin with, and sums of several threads: what plain PyTorch does."""

import pytest
import torch

from tests.tolerances import assert_close
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.routines import copies
from treadle.engines.layout import Layout

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(params=[1, 3])
def shares(request, monkeypatch, set_num_threads):
    """Even a few bytes are split between threads."""
    set_num_threads(request.param)
    monkeypatch.setattr(copies, "ALONE", 64)
    return request.param


@pytest.mark.parametrize("size", [0, 1, 7, 63, 64, 65, 127, 128, 1000, 4096, 12345])
def test_copies_each_byte_once(size, shares):
    recipe = Recipe()
    source = torch.randint(1, 256, (size + 20,), dtype=torch.uint8)
    to = torch.zeros(size + 20, dtype=torch.uint8)
    copies.copy(recipe, recipe.tensor("to")[0] + 10, recipe.tensor("source")[0] + 3, size)
    assert recipe.threads == min(shares, size // 64 or bool(size))
    recipe.follow({"to": to, "source": source})
    assert torch.equal(to[10 : 10 + size], source[3 : 3 + size])
    assert not to[:10].any()
    assert not to[10 + size :].any()


def test_small_copies_are_not_split(set_num_threads):
    set_num_threads(3)
    recipe = Recipe()
    copies.copy(recipe, recipe.tensor("to")[0], recipe.tensor("source")[0], 1000)
    assert recipe.threads == 1


LAYOUTS = {
    "whole": (5, 3, None, False),
    "one row": (7, 1, None, False),
    "one step": (1, 6, None, False),
    "lengths": (7, 4, [3, 0, 7, 5], False),
    "resets": (6, 5, None, True),
    "lengths and resets": (9, 5, [9, 1, 0, 4, 4], True),
    "nothing": (3, 2, [0, 0], False),
}


@pytest.mark.share(24)
@pytest.mark.parametrize("row", [(1,), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.usefixtures("shares")
def test_each_step_begins_with_the_rows_that_the_layout_says(kind, dtype, row):
    steps, batch, lengths, with_resets = LAYOUTS[kind]
    resets = torch.rand(steps, batch) < 0.4 if with_resets else None
    layout = Layout(steps, batch, None if lengths is None else torch.tensor(lengths), resets)
    fresh, start = torch.randn(batch, *row, dtype=dtype), torch.randn(batch, *row, dtype=dtype)
    rows = torch.randn(layout.rows, *row, dtype=dtype)
    recipe, size = Recipe(), rows[:1].numel() * dtype.itemsize if layout.rows else 8
    at = {key: recipe.tensor(key)[0] for key in ("to", "index", "fresh", "start", "rows")}
    copies.previous(recipe, at["to"], at["index"], layout.rows, batch, size, at["fresh"], at["start"], at["rows"])
    to = torch.empty_like(rows)
    recipe.follow({"to": to, "index": layout.origins, "fresh": fresh, "start": start, "rows": rows})
    assert torch.equal(to, layout.previous(rows, start, fresh))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("count", "stride", "terms"), [(0, 4, 2), (1, 1, 1), (1, 9, 3), (7, 7, 5), (37, 64, 4)])
def test_adds_up_what_lies_apart(count, stride, terms, dtype):
    source = torch.full((terms, stride), torch.nan, dtype=dtype)
    source[:, :count] = torch.randn(terms, count, dtype=dtype)
    to = torch.full((count + 2,), 7.0, dtype=dtype)
    recipe = Recipe()
    copies.add_up(
        recipe, recipe.tensor("to")[0] + dtype.itemsize, recipe.tensor("source")[0], count, stride, terms, dtype
    )
    recipe.follow({"to": to, "source": source})
    assert_close(to[1:-1], source[:, :count].double().sum(0).to(dtype))
    assert to[0] == to[-1] == 7


def test_moves_come_after_the_kernels_of_a_phase():
    recipe, numbers = Recipe(), torch.tensor([1.0, 2.0, 3.0, 0.0])
    at = recipe.tensor("numbers")[0]
    copies.copy(recipe, at + 12, at, 4)
    recipe.task(copies._address("copy"), (at, at + 4, 0, 4))
    recipe.follow({"numbers": numbers})
    assert numbers.tolist() == [2, 2, 3, 2]
