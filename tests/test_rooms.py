import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_picture_of_the_rooms_is_what_the_contracts_say():
    specification = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
    rooms = importlib.util.module_from_spec(specification)
    sys.modules["rooms"] = rooms
    specification.loader.exec_module(rooms)
    assert rooms.PICTURE.read_text() == rooms.draw(), "make rooms draws it again"
