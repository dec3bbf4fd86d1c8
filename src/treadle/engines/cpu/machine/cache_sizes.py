"""What the caches between a core and the memory hold, as the system says, or a default: read once."""

import ctypes
import functools
import sys
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu/cpu0/cache")
LINE, SECOND = 64, 1 << 20
"""Defaults: bytes of a line, which the widest vectors have, too, and of the second cache, as servers have them."""

_UNITS = {"K": 1 << 10, "M": 1 << 20}


@functools.cache
def second() -> int:
    """Bytes of the second cache, the largest that a core, or a few of them, have to themselves."""
    if sys.platform == "darwin":
        # Fast cores and slow ones are two levels of performance; an Intel Mac knows of none.
        return _asked("hw.perflevel0.l2cachesize") or _asked("hw.l2cachesize") or SECOND
    return _of_level(2, "size") or SECOND


@functools.cache
def line() -> int:
    """Bytes that are read from memory together, at least those of the widest vector.

    What several threads write lies so far apart, or each would take it from the others.
    """
    found = _asked("hw.cachelinesize") if sys.platform == "darwin" else _of_level(1, "coherency_line_size")
    return max(LINE, found) if found in (32, 64, 128, 256) else LINE


def _of_level(level: int, what: str) -> int:
    """What Linux says of a cache for data; 0 where it does not."""
    try:
        for cache in sorted(SYSTEM.glob("index*")):
            if _text(cache / "level") == str(level) and _text(cache / "type") in ("Data", "Unified"):
                number = _text(cache / what)
                unit = _UNITS.get(number[-1:], 1)
                return int(number.rstrip("KM")) * unit
    except (OSError, ValueError):
        pass
    return 0


def _text(path: Path) -> str:
    return path.read_text().strip()


def _asked(name: str) -> int:
    """What macOS says; 0 where it does not know the name."""
    number, size = ctypes.c_uint64(), ctypes.c_size_t(8)
    try:
        failed = ctypes.CDLL(None).sysctlbyname(
            name.encode(), ctypes.byref(number), ctypes.byref(size), None, ctypes.c_size_t(0)
        )
    except (OSError, AttributeError, TypeError):
        return 0
    return 0 if failed else number.value
