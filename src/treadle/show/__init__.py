"""Pictures, and the explorer.

``wiring.py`` draws how layers connect: ``diagram.py`` says what there is, ``diagram_layout.py`` where it goes.
``recorded.py`` draws values over time. ``exploring.py`` makes the explorer: ``explorer_data/`` says what there is,
``explorer_page.py`` puts the page around it, whose sources are in ``explorer/``.
"""

from treadle.show.exploring import Explorer, explorer
from treadle.show.recorded import draw_record
from treadle.show.wiring import draw_wiring

__all__ = ["Explorer", "draw_record", "draw_wiring", "explorer"]
