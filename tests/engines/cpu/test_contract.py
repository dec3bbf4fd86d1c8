"""aᵀ g on every vector width, at edges, with strides, split over threads; judged by PyTorch in float64."""

import pytest
import torch

from tests.tolerances import assert_close
from treadle.engines.cpu import contract, target, threads
from treadle.errors import ShapeError

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
]


def matrix(rows: int, columns: int, dtype: torch.dtype, row_stride: int | None = None) -> torch.Tensor:
    """Random numbers with NaN all around, which nobody may read."""
    room = torch.full((rows + 2, row_stride or columns + 3), torch.nan, dtype=dtype)
    part = room[1:-1, 1 : columns + 1]
    return part.copy_(torch.randn(rows, columns, dtype=dtype))


def check(a: torch.Tensor, g: torch.Tensor, level: str | None = None) -> None:
    k, m = a.shape[1], g.shape[1]
    room = torch.full((k * m + 20,), 7.0, dtype=a.dtype)
    out = room[10:-10].view(k, m)
    assert contract.outer(a, g, out, level and target.restrict(target.host(), level)) is out
    assert_close(out, a.double().t() @ g.double(), a.dtype)
    assert (room[:10] == 7).all()
    assert (room[-10:] == 7).all()


@pytest.fixture
def strips(monkeypatch):
    """Even tiny work is split, for three threads; gives what shares there were."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(contract, "WORTH_A_THREAD", 1)
    shares = []
    share = threads.share
    monkeypatch.setattr(threads, "share", lambda function, work: (shares.append(len(work)), share(function, work)))
    yield shares
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_agrees_with_pytorch(sizes, level, dtype):
    n, k, m = sizes
    check(matrix(n, k, dtype), matrix(n, m, dtype), level)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_threads_change_nothing(sizes, strips):
    n, k, m = sizes
    a, g = matrix(n, k, torch.float32), matrix(n, m, torch.float32)
    check(a, g)
    several = contract.outer(a, g)
    torch.set_num_threads(1)
    assert torch.equal(several, contract.outer(a, g))


def test_splits_columns_or_rows_whichever_there_are(strips):
    lanes = target.host().lanes(4)
    contract.outer(torch.ones(9, 20), torch.ones(9, 7 * lanes))
    contract.outer(torch.ones(9, 20), torch.ones(9, 2 * lanes))
    contract.outer(torch.ones(9, 7), torch.ones(9, 2 * lanes))
    assert strips == [3, 3, 2]
    assert contract._strips(20, 7 * lanes - 1, lanes, 2) == [(0, 20, 0, 3 * lanes), (0, 20, 3 * lanes, 7 * lanes - 1)]
    assert contract._strips(20, lanes, lanes, 2) == [(0, 12, 0, lanes), (12, 20, 0, lanes)]


def test_takes_any_strides():
    n, k, m = 70, 9, 21
    a, g = matrix(n, k, torch.float32, row_stride=64), matrix(n, m, torch.float32)
    check(a, g)
    check(a[::2], g[::2])
    check(torch.randn(k, n).t(), torch.randn(2 * m, n).t()[:, ::2])
    check(a[:, :1], g)
    check(torch.ones(1, k).expand(n, k), torch.ones(1, 1).expand(n, m))
    check(a.clone().requires_grad_(), g)


def test_infinities_stay_where_they_are():
    a, g = matrix(40, 8, torch.float32), matrix(40, 35, torch.float32)
    a[3, 2] = torch.inf
    g[5, 34] = torch.nan
    finite = contract.outer(a, g).isfinite()
    assert not finite[2].any()
    assert not finite[:, 34].any()
    assert finite.sum() == 7 * 34


@pytest.mark.usefixtures("poisoned_memory")
def test_nothing_makes_zeros():
    for n, k, m in ((0, 3, 4), (5, 0, 4), (5, 3, 0)):
        out = contract.outer(torch.ones(n, k), torch.ones(n, m))
        assert out.shape == (k, m)
        assert not out.any()


def test_refuses_what_does_not_fit():
    a, g = torch.ones(4, 2), torch.ones(4, 3)
    for arguments, words in (
        ((a, torch.ones(5, 3)), r"a \[4, 2\] and g \[5, 3\] must be matrices of as many rows"),
        ((a[0], g), "must be matrices"),
        ((a, g.double()), "g torch.float64 on cpu: pass two of float32 or of float64"),
        ((a.bfloat16(), g.bfloat16()), "a is torch.bfloat16"),
        ((a.to("meta"), g.to("meta")), "on meta"),
        ((a, g, torch.ones(3, 2)), r"out is torch.float32 \[3, 2\] .* pass a contiguous torch.float32 \[2, 3\]"),
        ((a, g, torch.ones(3, 2).t()), "pass a contiguous"),
    ):
        with pytest.raises(ShapeError, match=words):
            contract.outer(*arguments)
