"""How layers connect. A wiring of cells is a cell itself: it steps, nests, saves and draws like one.

``graph.py`` is the mechanism, ``named.py`` the seven wirings that have names, ``stack.py`` puts cells above each other,
``mean.py`` is the mean over time as a cell, ``noisy_state.py`` puts noise on the state of one.
"""

from treadle.wiring.graph import Graph, Node, sum_of
from treadle.wiring.mean import MeanCell, MeanState
from treadle.wiring.named import WIRINGS
from treadle.wiring.noisy_state import NoisyStateCell
from treadle.wiring.stack import Stack

__all__ = ["WIRINGS", "Graph", "MeanCell", "MeanState", "Node", "NoisyStateCell", "Stack", "sum_of"]
