"""Packed matrices, and rows of bfloat16 in pairs: what plain PyTorch says about where each number goes."""

import pytest
import torch
from torch import Tensor

from tests.tolerances import assert_close
from treadle.compiler import program as p
from treadle.engines.cpu.lower.packing import Packing
from treadle.engines.cpu.machine import target
from treadle.engines.cpu.machine.alignment import begin
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.routines import row_products, weight_panels
from treadle.engines.passes.precision import Operands, Precision

pytestmark = pytest.mark.usefixtures("poisoned_memory")

HOST = target.host()
LEVELS = target.runnable(HOST)


def cpu(level: str | None) -> target.Target:
    return HOST if level is None else target.restrict(HOST, level)


def packing_of(depth: int, units: int, slots: tuple[int, ...], vectors: int, lanes: int) -> Packing:
    """Of a product with ``depth`` by so many columns as the slots need."""
    w = p.placeholder("w", (depth, max(slots) + units), torch.float32)
    return Packing(p.dot(p.placeholder("x", (p.BATCH, depth), torch.float32), w), slots, units, vectors, lanes)


def panels(matrix: Tensor, packing: Packing) -> list[Tensor]:
    """[K, slots, vectors * lanes] of each panel."""
    result, whole = [], packing.vectors * packing.lanes
    for first in range(0, packing.units, whole):
        count = min(whole, packing.units - first)
        panel = matrix.new_zeros(packing.depth, len(packing.slots), -(-count // packing.lanes) * packing.lanes)
        for g, slot in enumerate(packing.slots):
            panel[:, g, :count] = matrix[:, slot + first : slot + first + count]
        result.append(panel)
    return result


def parts(matrix: Tensor, packing: Packing, cpu: target.Target) -> list[Tensor]:
    """What lies together, [K, columns]: panels, or pairs of their vectors where registers are few."""
    result = []
    for panel in panels(matrix, packing):
        rows, two = panel.flatten(1), 2 * packing.lanes
        result += rows.split(two, 1) if cpu.registers < 32 and rows.shape[1] % two == 0 else [rows]
    return result


def in_pairs(rows: Tensor) -> Tensor:
    """[N, K] of float32 as [N / 2, K] of 32 bits: rounded to bfloat16, the even row in the lower half."""
    bits = rows.bfloat16().view(torch.int16).int() & 0xFFFF
    bits = torch.cat([bits, bits.new_zeros(len(bits) % 2, *bits.shape[1:])])
    return bits[::2] | bits[1::2] << 16


def laid_out(how: str, depth: int, columns: int, dtype: torch.dtype) -> Tensor:
    """A matrix [K, N] whose memory is laid out in that way, NaN around it."""
    room = torch.full((depth + 3, 2 * columns + 3), torch.nan, dtype=dtype)
    if how == "columns":
        room = torch.full((columns + 3, depth + 5), torch.nan, dtype=dtype).t()
    matrix = room[1 : depth + 1, 1 : 2 * columns + 1 : 2] if how == "apart" else room[1 : depth + 1, 1 : columns + 1]
    return matrix.copy_(torch.randn(depth, columns, dtype=dtype))


SHAPES = [  # K, units, slots, vectors
    (1, 1, (0,), 1),
    (3, 5, (0, 5), 2),
    (37, 16, (0, 16, 32, 48), 1),
    (5, 33, (33, 0), 2),
    (18, 100, (0,), 3),
    (64, 37, (10, 50, 3), 1),
    (9, 75, (0,), 4),
    (7, 30, (40, 0), 2),
]


@pytest.fixture(params=[1, 3])
def shares(request, monkeypatch, set_num_threads):
    """Even small matrices are split between threads."""
    set_num_threads(request.param)
    monkeypatch.setattr(weight_panels, "ALONE", 8)


@pytest.mark.share(40)
@pytest.mark.usefixtures("shares")
@pytest.mark.parametrize("level", [None, *LEVELS])
@pytest.mark.parametrize("how", ["rows", "columns", "apart"])
@pytest.mark.parametrize(
    "precision",
    [Precision(torch.float32), Precision(torch.float32, Operands.ROUNDED), Precision(torch.float64)],
    ids=["float32", "rounded", "float64"],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packs_every_number(shape, precision, how, level):
    dtype = precision.dtype
    depth, units, slots, vectors = shape
    packing = packing_of(depth, units, slots, vectors, cpu(level).lanes(dtype.itemsize))
    matrix = laid_out(how, depth, max(slots) + units, dtype)
    recipe = Recipe()
    recipe.scratch = recipe.kept  # so that the result can be seen
    place = weight_panels.pack(recipe, recipe.tensor("w"), packing, precision, cpu(level))
    behind = recipe.kept.room(128)
    kept = recipe.follow({"w": matrix})
    assert (at(kept, behind.plus, 128, torch.uint8) == 255).all()  # poison that nobody has written to
    matrix = matrix.bfloat16().to(dtype) if precision.right is Operands.ROUNDED else matrix
    expected = torch.cat([part.reshape(-1) for part in parts(matrix, packing, cpu(level))])
    assert expected.numel() == packing.size
    assert torch.equal(at(kept, place.plus, packing.size, dtype), expected)


def at(block: Tensor, place: int, count: int, dtype: torch.dtype) -> Tensor:
    start = begin(block) - block.data_ptr() + place
    return block[start : start + count * dtype.itemsize].view(dtype)


@pytest.mark.share(16)
@pytest.mark.usefixtures("shares")
@pytest.mark.parametrize("level", [None, *LEVELS])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rounds_packed_rows_in_pairs(shape, level):
    depth, units, slots, vectors = shape
    packing = packing_of(depth, units, slots, vectors, cpu(level).lanes(4))
    matrix = laid_out("columns", depth, max(slots) + units, torch.float32)
    recipe = Recipe()
    recipe.scratch = recipe.kept
    packed = weight_panels.pack(
        recipe, recipe.tensor("w"), packing, Precision(torch.float32, Operands.PAIRS), cpu(level)
    )
    recipe.barrier()
    place = weight_panels.pair_up(recipe, packed, packing, cpu(level))
    kept = recipe.follow({"w": matrix})
    expected = torch.cat([in_pairs(part).reshape(-1) for part in parts(matrix, packing, cpu(level))])
    assert recipe.kept.size >= place.plus + 4 * expected.numel()
    assert torch.equal(at(kept, place.plus, expected.numel(), torch.int32), expected)


def halved(rows: Tensor, level: str | None = None) -> Tensor:
    recipe, (count, width) = Recipe(), rows.shape
    recipe.scratch = recipe.kept
    place = weight_panels.halve_rows(recipe, recipe.tensor("rows")[:2], count, width, cpu(level))
    kept = recipe.follow({"rows": rows})
    return at(kept, place.plus, (count + 1) // 2 * width, torch.int32).view(-1, width)


@pytest.mark.share(16)
@pytest.mark.usefixtures("shares")
@pytest.mark.parametrize("level", [None, *LEVELS])
@pytest.mark.parametrize(("count", "width"), [(1, 1), (1, 5), (2, 16), (3, 17), (8, 33), (63, 37), (64, 3)])
def test_lays_rows_together_in_pairs(count, width, level):
    room = torch.full((2 * count + 1, width + 40), torch.nan)
    for rows in (room[:count, 3 : width + 3], room[1 : 2 * count : 2, 7 : width + 7], torch.empty(1, width)):
        rows.copy_(torch.randn(rows.shape))
        rows = rows.expand(count, width) if len(rows) == 1 else rows
        assert torch.equal(halved(rows, level), in_pairs(rows))


@pytest.mark.parametrize("level", [None, *LEVELS])
def test_rounds_to_the_nearest_even(level):
    bits = [0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x00000001, 0x80008000, 0xBF7FFFFF]
    numbers = torch.tensor([b - (b >> 31 << 32) for b in bits], dtype=torch.int32).view(torch.float32)
    numbers = torch.cat([numbers, torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
    rows = torch.stack([numbers, numbers.flip(0)])
    assert torch.equal(halved(rows, level), in_pairs(rows))
    lost = torch.tensor([[0x7F800001, -1, 0x7FFFFFFF]], dtype=torch.int32).view(torch.float32)
    found = (halved(lost, level) << 16).view(torch.float32)
    assert found.isnan().all()


@pytest.mark.skipif(not HOST.bf16_dot, reason="this CPU does not multiply pairs of bfloat16")
@pytest.mark.parametrize(("n", "k", "m"), [(1, 1, 1), (2, 7, 16), (63, 13, 37), (700, 50, 67)])
def test_the_product_over_rows_takes_pairs(n, k, m):
    a, g = torch.randn(n, k + 2)[:, 1 : k + 1], torch.randn(n, m)
    recipe, out = Recipe(), torch.empty(k, m)
    half_a = weight_panels.halve_rows(recipe, recipe.tensor("a")[:2], n, k, HOST)
    half_g = weight_panels.halve_rows(recipe, recipe.tensor("g")[:2], n, m, HOST)
    recipe.barrier()
    sizes = ((n + 1) // 2, k, m)
    row_products.outer(recipe, (half_a, k), (half_g, m), recipe.tensor("out")[0], sizes, torch.float32, pairs=True)
    recipe.follow({"a": a, "g": g, "out": out})
    assert_close(out, a.bfloat16().double().t() @ g.bfloat16().double(), torch.float32)
