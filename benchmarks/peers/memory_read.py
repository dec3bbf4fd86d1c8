"""How fast this machine can merely read: the lower bound of whatever must read all weights once."""

from numba import njit


@njit(fastmath=True)
def read(values, sums, times):
    """Add all values up, so many times; the sums go into ``sums`` in turn.

    With fastmath LLVM sums with vectors in several accumulators, so that the loads are what takes the time. The sum is
    stored each time, to where ``values`` might be as far as LLVM knows, so no reading is left out.
    """
    for i in range(times):
        total = values.dtype.type(0)
        for j in range(values.size):
            total += values[j]
        sums[i % sums.size] = total
