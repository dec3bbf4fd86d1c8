"""When threads should share out the columns of a few rows, not the rows, over all steps of a sequence."""

from treadle.engines.cpu.lower.lowered import Lowered

# In cycles of a core, as measured on servers of 2023 and 2024.
_MULTIPLY = 0.5
"""To multiply a vector of a matrix with a number of a row."""
_NEAR, _FAR, _FAR_BYTES = 2.0, 5.0, 3 << 19
"""To read a vector of a matrix, from the second cache or, if it is larger than that, from the third."""
_MEETING = 800.0
"""For threads to wait for each other."""
_LINE = 150.0
"""To read a vector that another thread has just written."""
_WORTH = 1.25
"""How many times as fast it has to be, by this reckoning."""


def count_side_by_side(lowered: Lowered, rows: int, count: int) -> int:
    """How many of so many threads are to do a kernel's steps side by side; 1 if they are to share out its rows.

    Args:
        lowered: the kernel.
        rows: of the batch.
        count: how many threads there are.
    """
    packings = lowered.packings.values()
    count = min(count, max((packing.panels for packing in packings), default=1))
    if count < 2:
        return 1
    itemsize = lowered.kernel.precision.dtype.itemsize
    lanes = lowered.target.lanes(itemsize)
    vectors = sum(packing.size for packing in packings) / lanes

    def products(share: float, of_rows: int) -> float:
        read = _NEAR if share * lanes * itemsize <= _FAR_BYTES else _FAR
        return share * max(of_rows * _MULTIPLY, read)

    written = sum(product.inputs[0].row_numel for product in lowered.packings) * rows / lanes
    apart = products(vectors, -(-rows // count))
    together = products(vectors / count, rows) + len(lowered.schedule.grouped) * _MEETING
    together += written * (count - 1) / count * _LINE
    return count if apart > _WORTH * together else 1
