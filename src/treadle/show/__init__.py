"""Pictures.

``wiring.py`` draws how layers connect: ``diagram.py`` says what there is, ``diagram_layout.py`` where it goes.
"""

from treadle.show.wiring import draw_wiring

__all__ = ["draw_wiring"]
