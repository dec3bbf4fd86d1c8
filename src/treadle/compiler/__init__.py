"""From a step to a program: trace it, take it apart by what depends on what, derive it. Engines make it fast.

In the order in which things happen: ``trace.py`` runs a user's Python once and records the operations of ``program/``
(``tracer.py`` is the mode for that, ``operations/`` the table from PyTorch's), ``fission.py`` finds the loops and what
can be hoisted out of them, ``derivative.py`` makes the step of the backward loop. ``interpreter.py`` says what a
program means, ``walk.py`` is the one way through its graph.
"""
