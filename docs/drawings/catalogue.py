"""All pictures of the pages, by name, and the data behind them that took a training."""

import functools
from collections.abc import Callable

from .benchmarks import benchmarks
from .closed_loop import closed_loop
from .decoding import decoding
from .gates import GATES, gates
from .gradients import MEMORY, memory, reach
from .learned import Learned
from .lstm_cell import lstm_cell
from .plots import measured_elsewhere
from .rooms import rooms
from .segmentation import IMAGES, segmentation
from .shapes import shapes
from .streams import streams
from .translation import TRANSLATORS, attention, lengths
from .truncated import truncated_bptt
from .unrolled import unrolled
from .wirings import WIRINGS

PICTURES: dict[str, Callable[[], str]] = {
    "unrolled": unrolled,
    "lstm-cell": lstm_cell,
    "truncated-bptt": truncated_bptt,
    "shapes": shapes,
    "closed-loop": closed_loop,
    "streams": streams,
    "segmentation": segmentation,
    "gates": gates,
    "attention": attention,
    "benchmarks": benchmarks,
    **WIRINGS,
    "reach": reach,
    "memory": memory,
    "lengths": lengths,
    "decode": decoding,
    "clicks": functools.partial(measured_elsewhere, "clicks"),
    "rooms": rooms,
}
"""What draws each picture ``docs/pictures/NAME.svg``."""

LEARNED: dict[str, Learned] = {one.name: one for one in (GATES, MEMORY, TRANSLATORS, IMAGES)}
"""What is learned or generated once and kept."""
