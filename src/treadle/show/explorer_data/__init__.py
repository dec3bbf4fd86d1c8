"""What the explorer's page shows, as one object of JSON: see `explorer_data`.

``network.py`` puts a network together, out of its program (``program.py``), the sources of its cells (``cells.py``),
what can be cut (``cuts.py``) and how far gradients reach (``reach.py``).
"""

from treadle.show.explorer_data.network import explorer_data as explorer_data
