"""aᵀ g on every vector width, at edges, with strides, split over threads; judged by PyTorch in float64."""

import pytest
import torch

from tests.tolerances import assert_close
from treadle.engines.cpu.machine import target
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.routines import row_products
from treadle.engines.cpu.routines.row_panel_code import rows_of_a_tile, vectors_of_a_tile

LEVELS = [None, *target.runnable(target.host())]
SIZES = [
    (1, 1, 1),
    (1, 7, 5),
    (3, 1, 129),
    (63, 37, 1),
    (255, 6, 64),
    (256, 12, 16),
    (257, 13, 67),
    (513, 5, 191),
    (300, 100, 3),
    (700, 50, 200),
    (130, 1027, 19),
    (16_385, 7, 18),
    (33_000, 13, 5),
]


def matrix(rows: int, columns: int, dtype: torch.dtype, row_stride: int | None = None) -> torch.Tensor:
    """Random numbers with NaN all around, which nobody may read."""
    room = torch.full((rows + 2, row_stride or columns + 3), torch.nan, dtype=dtype)
    part = room[1:-1, 1 : columns + 1]
    return part.copy_(torch.randn(rows, columns, dtype=dtype))


def outer(a: torch.Tensor, g: torch.Tensor, level: str | None = None, tasks: int | None = None) -> torch.Tensor:
    """A recipe of this product alone, followed; nothing around the result is written."""
    (n, k), m = a.shape, g.shape[1]
    room = torch.full((k * m + 20,), 7.0, dtype=a.dtype)
    out = room[10:-10].view(k, m)
    recipe = Recipe()
    (a_at, a_stride, _), (g_at, g_stride, _) = recipe.tensor("a"), recipe.tensor("g")
    cpu = level and target.restrict(target.host(), level)
    row_products.outer(recipe, (a_at, a_stride), (g_at, g_stride), recipe.tensor("out")[0], (n, k, m), a.dtype, cpu)
    recipe.follow({"a": a, "g": g, "out": out})
    assert (room[:10] == 7).all()
    assert (room[-10:] == 7).all()
    assert tasks in (None, recipe.threads)
    return out


def check(a: torch.Tensor, g: torch.Tensor, level: str | None = None) -> None:
    assert_close(outer(a, g, level), a.double().t() @ g.double(), a.dtype)


@pytest.fixture
def three_threads(monkeypatch, set_num_threads):
    """Even tiny work is split, for three threads."""
    set_num_threads(3)
    monkeypatch.setattr(row_products, "WORTH_A_THREAD", 1)


@pytest.mark.share(30)
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_agrees_with_pytorch(sizes, level, dtype):
    n, k, m = sizes
    check(matrix(n, k, dtype), matrix(n, m, dtype), level)


@pytest.mark.usefixtures("poisoned_memory", "three_threads")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_threads_change_nothing(sizes):
    n, k, m = sizes
    a, g = matrix(n, k, torch.float32), matrix(n, m, torch.float32)
    check(a, g)
    several = outer(a, g)
    torch.set_num_threads(1)
    assert torch.equal(several, outer(a, g, tasks=1))


def test_many_rows_cost_no_precision():
    """What is added up does not grow with every row: ones would stop to count at 2^24 of them."""
    n = (1 << 24) + 4096
    ones = torch.ones(1, 1).expand(n, 1)
    assert outer(ones, ones).item() == n


@pytest.mark.usefixtures("three_threads")
def test_splits_columns_or_rows_whichever_there_are():
    lanes = target.host().lanes(4)
    outer(torch.ones(9, 20), torch.ones(9, 7 * lanes), tasks=3)
    outer(torch.ones(9, 20), torch.ones(9, 2 * lanes), tasks=3)
    outer(torch.ones(9, rows_of_a_tile(target.host()) + 1), torch.ones(9, 2 * lanes), tasks=2)
    assert row_products._strips(20, 7 * lanes - 1, lanes, 6, 2) == [
        (0, 20, 0, 3 * lanes),
        (0, 20, 3 * lanes, 7 * lanes - 1),
    ]
    assert row_products._strips(20, lanes, lanes, 6, 2) == [(0, 12, 0, lanes), (12, 20, 0, lanes)]


def test_small_work_is_not_split(set_num_threads):
    set_num_threads(3)
    outer(torch.ones(9, 20), torch.ones(9, 70), tasks=1)


def test_takes_rows_at_any_distance():
    n, k, m = 70, 9, 21
    a, g = matrix(n, k, torch.float32, row_stride=64), matrix(n, m, torch.float32)
    check(a, g)
    check(a[::2], g[::2])
    check(a[:, :1], g)
    check(a[:, 3:8], g[:, 1:])
    check(torch.randn(1, k).expand(n, k), torch.randn(1, m).expand(n, m))


@pytest.mark.usefixtures("three_threads", "poisoned_memory")
def test_several_products_in_one_phase_share_no_memory():
    recipe, tensors, expected = Recipe(), {}, {}
    for i, (n, k, m) in enumerate(2 * SIZES):
        a, g, out = matrix(n, k, torch.float64), matrix(n, m, torch.float64), torch.empty(k, m, dtype=torch.float64)
        tensors |= {("a", i): a, ("g", i): g, ("out", i): out}
        expected[i] = a.t() @ g
        at = [recipe.tensor((name, i)) for name in ("a", "g", "out")]
        row_products.outer(recipe, at[0][:2], at[1][:2], at[2][0], (n, k, m), torch.float64)
    recipe.barrier()
    tasks = recipe._phases[0].all
    recipe.follow(tensors)
    for i, product in expected.items():
        assert_close(tensors["out", i], product)
    # Threads seldom collide at these sizes, so look at what each of them writes to.
    panels = sorted((arguments[-2].plus, arguments[-3] * vectors_of_a_tile(target.host())) for _, arguments in tasks)
    ends = [start + rows * target.host().vector_bytes for start, rows in panels]
    assert all(end <= start for end, (start, _) in zip(ends, panels[1:], strict=False))
    assert ends[-1] <= recipe.scratch.size


def test_only_panels_that_are_needed_are_compiled(monkeypatch):
    lanes, most, made = target.host().lanes(4), vectors_of_a_tile(target.host()), []
    panel = row_products._panel
    monkeypatch.setattr(row_products, "_panel", lambda *given: made.append(given[2]) or panel(*given))
    for columns, widths in {1: [1], lanes * most: [most], 2 * lanes * most + 1: [1, most]}.items():
        made.clear()
        check(matrix(9, 7, torch.float32), matrix(9, columns, torch.float32))
        assert made == widths


def test_infinities_stay_where_they_are():
    a, g = matrix(40, 8, torch.float32), matrix(40, 35, torch.float32)
    a[3, 2] = torch.inf
    g[5, 34] = torch.nan
    finite = outer(a, g).isfinite()
    assert not finite[2].any()
    assert not finite[:, 34].any()
    assert finite.sum() == 7 * 34
