"""Networks that act: what a network decides changes what it reads next.

``spaces.py`` says what readings and actions are, ``loop.py`` closes the loop, ``session.py`` runs it against an
environment, ``traces.py`` records what it learns from, and what its own
mistakes lead to.
"""

from treadle.control.loop import ClosedLoop
from treadle.control.session import Acted, Environment, LoopSession
from treadle.control.spaces import Continuous, Discrete
from treadle.control.traces import Policy, Round, Trace, dagger, record

__all__ = [
    "Acted", "ClosedLoop", "Continuous", "Discrete", "Environment", "LoopSession", "Policy", "Round", "Trace",
    "dagger", "record",
]  # fmt: skip
