"""How layers connect. A wiring of cells is a cell itself: it steps, nests, saves and draws like one.

``graph.py`` is the mechanism, ``named.py`` the seven wirings that have names, ``stack.py`` puts cells above each other.
"""

from treadle.wiring.graph import Graph, Node, sum_of
from treadle.wiring.named import WIRINGS
from treadle.wiring.stack import Stack

__all__ = ["WIRINGS", "Graph", "Node", "Stack", "sum_of"]
