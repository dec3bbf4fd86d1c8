"""What would take more memory than there is: refused before it is tried, rather than ended by the system."""

import contextlib
import os
from pathlib import Path

from treadle.errors import ShapeError

BYTES_PER_PARAMETER = 32
"""While it is trained: itself, its gradient and two moments of Adam in float32, and as much for a checkpoint."""


def require_memory(needed: float, what: str, advice: str) -> None:
    """Refuse what needs more memory than this process can have.

    Args:
        needed: bytes, about.
        what: what needs it; the message goes on with "needs about".
        advice: what to do about it.

    Raises:
        ShapeError: with both numbers.

    Example:
        >>> from treadle.training.memory import require_memory
        >>> require_memory(1e6, "a batch", "pass fewer rows")
    """
    available = available_memory()
    if needed > available:
        raise ShapeError(
            f"{what} needs about {needed / 1e9:,.1f} GB, but there are {available / 1e9:,.1f} GB: {advice}"
        )


def available_memory() -> float:
    """Bytes that this process can have, as far as the system says; infinity if it does not."""
    limits = [float("inf")]
    with contextlib.suppress(ImportError, OSError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits += [limit] if limit != resource.RLIM_INFINITY else []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    if len(limits) == 1 and hasattr(os, "sysconf"):
        with contextlib.suppress(ValueError, OSError):
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            limits.append(int(Path(path).read_text()))
    return min(limits)
