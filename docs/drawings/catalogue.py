"""All pictures of the pages, by name, and the data behind them that took a training."""

from collections.abc import Callable

from .gradients import MEMORY, memory, reach
from .learned import Learned
from .rooms import rooms
from .translation import LENGTHS, lengths
from .unrolled import unrolled
from .wirings import WIRINGS

PICTURES: dict[str, Callable[[], str]] = {
    "unrolled": unrolled,
    **WIRINGS,
    "reach": reach,
    "memory": memory,
    "lengths": lengths,
    "rooms": rooms,
}
"""What draws each picture ``docs/pictures/NAME.svg``."""

LEARNED: dict[str, Learned] = {one.name: one for one in (MEMORY, LENGTHS)}
"""What is learned once and kept."""

ELSEWHERE = {"clicks.svg", "decode.png"}
"""Pictures of measurements that take long: `make segment` and `make decode` draw them."""
