"""What any engine that compiles computes of a section: passes over its rows, as loop nests.

``section_passes.py`` has the passes of a section, forwards and backwards; ``support.py`` says which sections have any.
``schedule.py`` turns the kernel of a pass into loop nests, ``loop_nests.py``, with ``indices.py`` where they read;
``evaluation.py`` has operands of a value come before it. ``rows.py`` has tensors as compiled code reads them.
How a nest becomes code is the engine's own matter.
"""
