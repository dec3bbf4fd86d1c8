"""How a kernel is cut: rows and columns of a tile, who takes which, and what stays in registers."""

import dataclasses
import enum

from treadle.engines.passes.loop_nests import Schedule


class Mode(enum.StrEnum):
    """Who runs the steps."""

    ROWS = "rows"
    """A program takes some rows through all steps, and waits for no other."""
    STEPS = "steps"
    """Every phase of every step is a launch of its own; programs share its columns."""


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
        parts: programs that share the columns of a block of rows, in `Mode.STEPS`.
        resident: bytes of weights that are read once and stay, in `Mode.ROWS`.
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

    def width(self, total: int, least: int = 1, most: int | None = None) -> int:
        """Columns of the tiles over so many features."""
        return max(min(most or self.columns, power_of_two(total)), least)


_MOST_STREAMED = 1 << 20
"""Bytes of weights that every program reads again at each step, at most; beyond that, programs share them out."""


def tiling_of(schedule: Schedule, products: Products, shared_memory: int) -> Tiling:
    """The tiling of a kernel, by a rule that looks at the sizes of its weights and of its tiles.

    No GPU has confirmed the numbers in it yet.
    """
    tiling = Tiling(products=products, resident=shared_memory * 7 // 10)
    weights = [product.inputs[1].shape for product in schedule.products]
    size = sum(k * n for k, n in weights) * tiling.weight_bytes  # pyright: ignore[reportOperatorIssue]
    widest = max([n for _, n in weights], default=0)
    if size > _MOST_STREAMED:
        parts = max(1, min(64, -(-widest // tiling.columns)))  # pyright: ignore[reportOperatorIssue]
        return dataclasses.replace(tiling, mode=Mode.STEPS, parts=parts, ahead=False)
    return tiling


def power_of_two(count: int) -> int:
    """The least power of two that is as large."""
    return 1 << max(count - 1, 0).bit_length()
