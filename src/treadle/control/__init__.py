"""Closed loops: networks whose actions change what they read next.

``spaces.py`` says what readings and actions are, ``loop.py`` closes the loop, ``session.py`` runs it in an environment,
``traces.py`` records training data, also of what its own mistakes lead to (DAgger).
"""

from treadle.control.loop import ClosedLoop
from treadle.control.session import Acted, Environment, LoopSession
from treadle.control.spaces import Continuous, Discrete
from treadle.control.traces import Policy, Round, Trace, dagger, record

__all__ = [
    "Acted", "ClosedLoop", "Continuous", "Discrete", "Environment", "LoopSession", "Policy", "Round", "Trace",
    "dagger", "record",
]  # fmt: skip
