"""Amounts of memory as people write them."""

import re

_UNITS = {
    "": 1,
    **{f"{prefix}b": 1000**i for i, prefix in enumerate(["", "k", "m", "g", "t"])},
    **{f"{prefix}ib": 1024**i for i, prefix in enumerate(["k", "m", "g", "t"], 1)},
}


def as_bytes(memory: int | str, least: int = 1, what: str = "memory") -> int:
    """``"1GB"`` as a number; ``"1.5 GiB"``, ``"200 MB"`` and numbers likewise.

    Raises:
        ValueError: it is no amount of memory, or less than ``least``; ``what`` it is is said.
    """
    if isinstance(memory, int) and not isinstance(memory, bool) and memory >= least:
        return memory
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", memory.lower()) if isinstance(memory, str) else None
    size = int(float(found[1]) * _UNITS.get(found[2], -1)) if found is not None else -1
    if size < least:
        number = "a positive number" if least else "0, a number"
        raise ValueError(f"{what} is {number} of bytes, or a text such as '500MB' or '1.5GiB', but is {memory!r:.40}")
    return size


def show_bytes(size: int) -> str:
    """``12.3MB``: to be read, and to be passed as ``memory=``, so never too little."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{-(-size * 10 // factor) / 10:g}{unit}"
    return f"{size}B"
