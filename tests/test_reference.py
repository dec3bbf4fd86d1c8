"""Every public name has a place in the reference."""

import re
from pathlib import Path

import treadle as td

PAGES = Path(__file__).parent.parent / "docs" / "reference"


def test_every_public_name_is_in_the_reference():
    text = "\n".join(page.read_text() for page in PAGES.glob("*.md"))
    named = set(re.findall(r"^::: treadle\.(\w+)$", text, re.MULTILINE))
    assert set(td.__all__) <= named
