"""From a step to a program: trace it, take it apart by what depends on what, derive it. Engines make it fast.

In the order in which things happen: ``trace.py`` runs a user's Python once and records ``program.py``'s operations (the
table from PyTorch's is ``operations.py``), ``fission.py`` finds the loops and what can be hoisted out of them,
``derivative.py`` makes the step of the backward loop. ``interpreter.py`` says what a program means.
"""
