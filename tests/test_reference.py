"""The reference holds every public name, every option of the command, every error and every environment variable."""

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import treadle as td
from tests.test_docs import UNUSUAL

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "reference"
SOURCES = ROOT / "src" / "treadle"
TEXT = "\n".join(page.read_text() for page in sorted(PAGES.rglob("*.md")))
COMMAND = (PAGES / "command.md").read_text()

INTERNAL = ("treadle.cli", "treadle.compiler", "treadle.engines", "treadle.torch_internals")
"""Packages that users do not import from. ARCHITECTURE.md describes them."""


def public_names():
    """Every name that a package or module outside `INTERNAL` lists in its ``__all__``."""
    modules = [td, *(importlib.import_module(one.name) for one in found_modules())]
    return sorted({f"{one.__name__}.{name}" for one in modules for name in getattr(one, "__all__", ())})


def found_modules():
    for one in pkgutil.walk_packages(td.__path__, "treadle."):
        if not one.name.startswith(INTERNAL) and not one.name.endswith("__main__"):
            yield one


def resolve(path):
    """What a dotted path such as ``treadle.adapt.diff`` names: an attribute before a module of the same name."""
    where, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(where), name)
    except ImportError:
        return getattr(resolve(where), name)


ENTRIES = re.findall(r"^::: ([\w.]+)$", TEXT, re.MULTILINE)
DOCUMENTED = {id(resolve(entry)) for entry in ENTRIES}
DOCUMENTED |= {id(getattr(td.errors, name)) for name in td.errors.__all__ if "treadle.errors" in ENTRIES}


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_has_an_entry(name):
    assert id(resolve(name)) in DOCUMENTED, f"add '::: {name}' to a page of docs/reference"


def test_no_name_has_two_entries():
    twice = {entry for entry in ENTRIES if ENTRIES.count(entry) > 1}
    assert twice <= {"treadle.adapt"}  # two pages begin with what imports it


def described_constants():
    """Names that a module assigns and describes by a string on the next line."""
    for path in SOURCES.rglob("*.py"):
        body = ast.parse(path.read_text()).body
        for statement, following in itertools.pairwise(body):
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                targets = (
                    statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
                )
                yield from (target.id for target in targets if isinstance(target, ast.Name))


CONSTANTS = set(described_constants())


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_has_a_docstring(entry):
    found, name = resolve(entry), entry.rpartition(".")[2]
    assert name in CONSTANTS or ((callable(found) or inspect.ismodule(found)) and found.__doc__)


def test_the_page_of_the_command_has_every_command_and_option():
    page = runpy.run_path(str(ROOT / "docs" / "command_reference.py"))
    commands = page["commands"]()
    assert set(re.findall(r"^<!-- options: (.*) -->$", COMMAND, re.MULTILINE)) == set(commands)
    made = page["with_options"](COMMAND)
    for words, command in commands.items():
        assert f"## {words}\n" in made
        section = made.partition(f"\n## {words}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            names = [name for name in parameter.opts if name.startswith("--")] or [parameter.name.upper()]
            assert all(f"`{name}`" in section for name in names)
            assert " ".join(parameter.help.split()).partition("<")[0] in section


def test_a_table_says_which_training_command_has_which_of_the_shared_options():
    page = runpy.run_path(str(ROOT / "docs" / "command_reference.py"))
    assert page["TRAINING_MARK"] in COMMAND
    table = page["with_options"](page["TRAINING_MARK"]).splitlines()  # refuses what is not so
    assert table[0].count("|") == 2 + len(page["TRAINING"])
    assert len(table) == 2 + len(page["SHARED"])


def test_the_examples_of_the_command_have_options_that_there_are():
    commands = runpy.run_path(str(ROOT / "docs" / "command_reference.py"))["commands"]()
    lines = re.findall(r"^(treadle [^#\n>]*)", COMMAND, re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        words = max((words for words in commands if line.startswith(words)), key=len)
        known = {name for parameter in commands[words].params for name in parameter.opts}
        assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", line)) <= known, line


def test_every_environment_variable_is_described():
    used = {name for path in SOURCES.rglob("*.py") for name in re.findall(r"\bTREADLE_[A-Z_]+", path.read_text())}
    described = set(re.findall(r"^\| `(TREADLE_[A-Z_]+)`", (PAGES / "environment.md").read_text(), re.MULTILINE))
    assert described == used


GLOSSARY = dict(re.findall(r"^## (.+)\n\n((?:.+\n)+)", (PAGES / "glossary.md").read_text() + "\n", re.MULTILINE))


def test_the_glossary_has_the_terms_that_people_look_up():
    text = " ".join(GLOSSARY).lower()
    for term in (
        "hidden state; cell state; gate; wiring; bptt; truncated bptt; gradient horizon; detach; teacher forcing;"
        " closed loop; ragged batch; lengths; resets; mask; packedsequence; stateful; return_sequences; return_state;"
        " many-to-one; drop-in; session; stream; keeper; hoist; engine; initial state; beam search; validation set"
    ).split("; "):
        assert term in text, term


@pytest.mark.parametrize("term", GLOSSARY)
def test_a_term_has_two_sentences_and_a_link(term):
    text = " ".join(GLOSSARY[term].split())
    assert re.search(r"[.;:)`\w] (?=[A-Z`\[])", text), text
    assert len(text) < 420, text
    assert re.search(r"\]\((#|\w|\.\.)", text), text


def test_docstrings_and_messages_speak_the_words_of_the_field():
    unusual = re.compile(rf"\b(?:{'|'.join(UNUSUAL)}|the likeliest|(?:training|test|validation) part)\b")
    found = [
        f"{path.relative_to(SOURCES)}:{node.lineno}: {match[0]!r}"
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for match in unusual.finditer(" ".join(node.value.split()))
    ]
    assert not found
