"""Each help text stands alone: it begins with a noun or a verb, is one sentence, and fits a line or two."""

import pytest
import typer

from treadle.cli import app
from treadle.training import CELLS

NO_BEGINNING = set(
    "a an the of on in at by for from to with without and or if as it its he they this that these those how what which"
    " who whose where when why then so not only".split()
)
LONGEST = 125


def commands(group, path="treadle"):
    """Every command by the words that call it."""
    found = {path: group}
    for name, command in getattr(group, "commands", {}).items():
        found |= commands(command, f"{path} {name}")
    return found


COMMANDS = commands(typer.main.get_command(app))
TEXTS = {f"{words}: {one.name}": one.help for words, command in COMMANDS.items() for one in command.params}
TEXTS |= {words: command.help.partition("\n\n")[0] for words, command in COMMANDS.items()}


def test_all_of_them_are_looked_at():
    assert {"treadle fit", "treadle segment click", "treadle fit: seed"} <= set(TEXTS)


@pytest.mark.parametrize("place", TEXTS)
def test_a_help_text_begins_with_a_noun_or_a_verb_and_stands_alone(place):
    text = TEXTS[place]
    assert text, "there is none"
    first = text.split()[0].strip(",;:")
    assert first[0].isupper(), text
    assert first.lower() not in NO_BEGINNING, text
    assert text.endswith((".", "…")), text
    assert len(text) <= LONGEST or "\n" in text or ". " in text, text


def test_names_in_help_texts_are_those_that_are_known():
    for place in ("treadle fit: cell", "treadle translate: cell"):
        names = TEXTS[place].partition(":")[2].strip(" …").split(", ")
        assert names
        assert set(names) <= set(CELLS)
