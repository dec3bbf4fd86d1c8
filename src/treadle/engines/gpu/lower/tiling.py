"""How a kernel is cut: rows and columns of a tile, who takes which, and what stays in registers."""

import dataclasses
import enum

from treadle.compiler.program import Value
from treadle.engines.gpu.device import Gpu
from treadle.engines.passes.loop_nests import Fused, Nest, Schedule


class Mode(enum.StrEnum):
    """Who runs the steps."""

    ROWS = "rows"
    """A program takes some rows through all steps, and waits for no other."""
    STEPS = "steps"
    """Every phase of every step is a launch of its own; programs share its columns."""
    SPLIT = "split"
    """Programs share the columns of some rows through all steps, and wait for each other after each phase."""


class Products(enum.StrEnum):
    """How products multiply; sums are float32 in any case, but for those of float64."""

    IEEE = "ieee"
    TF32 = "tf32"
    BFLOAT16 = "bfloat16"
    ROUNDED = "rounded"
    """Rounded to bfloat16 and multiplied as float32, where nothing multiplies bfloat16."""

    @property
    def is_half(self) -> bool:
        return self in (Products.BFLOAT16, Products.ROUNDED)


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a kernel is cut.

    Args:
        mode: who runs the steps.
        products: how products multiply.
        rows: rows of a program.
        columns: columns of a tile at most.
        depth: columns of a product's left operand that are multiplied at once, at most.
        least: columns of a tile of a product at least, in both directions.
        warps: of a program.
        parts: programs that share the columns of a block of rows; one in `Mode.ROWS`.
        resident: bytes of weights that are read once and stay, but in `Mode.STEPS`.
        ahead: whether what a step reads is loaded while the step before it runs, in `Mode.ROWS`.
    """

    mode: Mode = Mode.ROWS
    products: Products = Products.IEEE
    rows: int = 16
    columns: int = 64
    depth: int = 64
    least: int = 16
    warps: int = 4
    parts: int = 1
    resident: int = 160 << 10
    ahead: bool = True

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight of float32 as it is multiplied."""
        return 2 if self.products.is_half else 4

    @property
    def options(self) -> dict[str, int]:
        """What Triton's compiler is told: left alone, it would rather spill than use all registers there are."""
        found = {"num_warps": self.warps, "maxnreg": min(_MOST_REGISTERS, _REGISTERS // (32 * self.warps))}
        if self.mode is Mode.SPLIT:
            # Programs that wait for each other have to run at once. Without stages, nothing is loaded before they met.
            found |= {"launch_cooperative_grid": True, "num_stages": 1}
        return found

    def width(self, total: int, least: int = 1, most: int | None = None, parts: int = 1) -> int:
        """Columns of the tiles over so many features, of which each of several ``parts`` has a share."""
        return max(min(most or self.columns, power_of_two(-(-total // parts))), least)

    def depth_of(self, terms: int) -> int:
        """Terms of a product with so many that are multiplied at once."""
        return max(self.least, min(self.depth, power_of_two(terms)))

    def bytes_of(self, product: Value, width: int, slots: int, depth: int | None = None) -> int:
        """Bytes of a product's weights for so many columns in each of several slots, in tiles of whole depths."""
        terms: int = product.inputs[1].shape[0]  # pyright: ignore[reportAssignmentType]
        depth = depth or self.depth_of(terms)
        return -(-terms // depth) * depth * width * slots * self.weight_bytes


MOST_NUMBERS = 1 << 31
"""As many numbers, or more, cannot be told apart by 32 bits with a sign, which is what kernels count in."""
_REGISTERS = 1 << 16
"""Of a multiprocessor."""
_MOST_REGISTERS = 255
"""Of a thread: an instruction names a register by eight bits, one of whose values means none."""
_MOST_STREAMED = 1 << 20
"""Bytes of weights that every program reads again at each step, at most; beyond that, programs share them out."""
_FEW_SHARED = 96 << 10
"""Bytes of the weights that one of several programs has, at most, if there can be so many: of more, registers spill."""
_FEW = 2
"""States that four warps hold in their registers beside what a step computes."""
_NARROW, _WIDE = 64, 128
"""Units of a layer: so many are one tile of four warps; and one of eight warps, if the weights stay."""


def tiling_of(schedule: Schedule, products: Products, gpu: Gpu, mode: Mode | None = None) -> Tiling:
    """The tiling of a kernel, by a rule that looks at the sizes of its weights; in another mode if one is given.

    What compilers say of registers and stack has decided it, for LSTM, GRU and their like of 64 to 256 units; no GPU
    has confirmed the numbers in it yet.
    """
    tiling = Tiling(products=products, resident=gpu.shared_memory * 7 // 10)
    size = sum(weights.row_numel for weights in _weights(schedule)) * tiling.weight_bytes
    if mode is Mode.SPLIT or (mode is None and size > _MOST_STREAMED):
        split = _split(schedule, tiling, gpu.multiprocessors)
        if mode is Mode.SPLIT or split.parts <= gpu.multiprocessors:
            return split
        mode = Mode.STEPS
    if mode is Mode.STEPS:
        widest = max([value.shape[1] for value in _weights(schedule)], default=0)
        parts = max(1, min(64, -(-widest // tiling.columns)))  # pyright: ignore[reportOperatorIssue]
        return dataclasses.replace(tiling, mode=Mode.STEPS, parts=parts, ahead=False)
    nests = [phase for phase in schedule.phases if isinstance(phase, Nest)]
    units = max([nest.domain[0] for nest in nests if nest.fused], default=0)
    if _NARROW < units <= _WIDE and size <= tiling.resident:
        return dataclasses.replace(tiling, columns=_WIDE, depth=_WIDE, warps=8)
    reduces_back = schedule.kernel.reverse and any(nest.reduced for nest in nests)
    many = units > _NARROW or reduces_back or len(schedule.kernel.carries) > _FEW
    return dataclasses.replace(tiling, warps=8 if many else 4)


def _split(schedule: Schedule, tiling: Tiling, multiprocessors: int) -> Tiling:
    """The fewest programs whose shares of the weights stay; more than there are multiprocessors if none do."""
    tiling = dataclasses.replace(tiling, mode=Mode.SPLIT, warps=8, ahead=False)
    numbers = [1 << n for n in range(1, multiprocessors.bit_length())]
    every = [dataclasses.replace(tiling, parts=parts) for parts in numbers if parts <= multiprocessors]
    shares = {one.parts: _share(schedule, one) for one in every}
    for most in (_FEW_SHARED, tiling.resident):
        found = next((one for one in every if shares[one.parts] <= most), None)
        if found is not None:
            return found
    return dataclasses.replace(tiling, parts=multiprocessors + 1)


def _share(schedule: Schedule, tiling: Tiling) -> int:
    """Bytes of the weights that one of several programs has; more than there are if it needs several tiles of some."""
    found = 0
    for phase in schedule.phases:
        for fused in [Fused(phase, (0,))] if isinstance(phase, Value) else phase.fused:
            total = phase.row_numel if isinstance(phase, Value) else phase.domain[0]
            width = tiling.width(total, tiling.least, parts=tiling.parts)
            if width * tiling.parts < total:
                return MOST_NUMBERS
            found += tiling.bytes_of(fused.product, width, len(fused.slots))
    return found


def _weights(schedule: Schedule) -> list[Value]:
    """The right operand of each product."""
    return [product.inputs[1] for product in schedule.products]


def power_of_two(count: int) -> int:
    """The least power of two that is as large."""
    return 1 << max(count - 1, 0).bit_length()
