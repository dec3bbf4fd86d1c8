from drawings.catalogue import PICTURES
from drawings.freshness import FOLDER, difference


def test_the_picture_of_the_rooms_is_what_the_contracts_say():
    assert difference((FOLDER / "rooms.svg").read_text(), PICTURES["rooms"]()) is None, "make pictures draws it again"
