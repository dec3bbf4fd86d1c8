"""The machine: which CPU, compilation, the cache on disk, threads, memory, and calls written down for them."""
