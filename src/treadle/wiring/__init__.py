"""How layers connect. A wiring of cells is a cell itself: it steps, nests, saves and draws like one.

``graph.py`` is the mechanism, ``named.py`` the seven wirings that have names, ``stack.py`` puts cells above each other,
``noisy_state.py`` puts noise on the state of one.
"""

from treadle.wiring.graph import Graph, Node, sum_of
from treadle.wiring.named import WIRINGS
from treadle.wiring.noisy_state import NoisyStateCell
from treadle.wiring.stack import Stack

__all__ = ["WIRINGS", "Graph", "Node", "NoisyStateCell", "Stack", "sum_of"]
