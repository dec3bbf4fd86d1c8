"""What would take more memory than there is: refused before it is tried, rather than ended by the system."""

import math

from treadle.engines.cpu.machine.memory_limit import memory_limit, room_for_addresses
from treadle.errors import ShapeError

BYTES_PER_PARAMETER = 32
"""While it is trained: itself, its gradient and two moments of Adam in float32, and as much for a checkpoint."""


def require_memory(needed: float, what: str, advice: str) -> None:
    """Refuse what needs more memory than this process can have.

    Args:
        needed: bytes, about.
        what: what needs it, the subject of the message: "the network needs about 3 GB".
        advice: what to do about it.

    Raises:
        ShapeError: with both numbers.

    Example:
        >>> from treadle.training.memory import require_memory
        >>> require_memory(1e6, "a batch", "pass fewer rows")
    """
    rooms = [room for room in (memory_limit() or None, room_for_addresses()) if room is not None]
    available = min(rooms, default=math.inf)
    if needed > available:
        raise ShapeError(
            f"{what} needs about {needed / 1e9:,.1f} GB, but there are {available / 1e9:,.1f} GB: {advice}"
        )
