"""Machine code that every network shares: products over all rows, packing, copies, random numbers."""
