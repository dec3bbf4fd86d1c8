"""How large the work is."""

from typing import NamedTuple


class Size(NamedTuple):
    """Time steps, rows, and features of the input and of every layer."""

    T: int
    B: int
    H: int

    def __str__(self) -> str:
        return f"T={self.T} B={self.B} H={self.H}"


CLASSIC = [
    Size(128, 32, 128),
    Size(128, 32, 256),
    Size(128, 32, 512),
    Size(35, 20, 200),
    Size(1024, 16, 64),
    Size(128, 8, 64),
    Size(256, 4, 128),
    Size(128, 1, 128),
]
CUSTOM = [Size(128, 32, 128), Size(128, 32, 256), Size(128, 8, 64)]
TINY = [Size(9, 3, 7), Size(5, 1, 4)]
LAYERS = 2
