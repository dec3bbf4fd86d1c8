"""The examples in README.md and docs/ are tests: every ```python fence runs, those of one page in one namespace.

`<!-- skip: next -->` above a fence leaves it out. Examples in docstrings need only ``pytest --doctest-modules``.
"""

import sys
from types import ModuleType
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


@pytest.fixture
def in_scratch_folder(tmp_path_factory, monkeypatch):
    """Examples may write files; they land here, one folder for all, so that a page can read what it wrote before."""
    folder = tmp_path_factory.getbasetemp() / "examples"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)


@pytest.fixture(autouse=True)
def docstrings_in_scratch_folder(request):
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("in_scratch_folder")


def as_module(namespace: dict[str, Any]) -> None:
    """Classes that an example defines can be found again, and so pickled, like those of a script or a notebook."""

    class Example(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name in namespace:
                return namespace[name]
            raise AttributeError(name)

    sys.modules["example"] = Example("example")
    namespace["__name__"] = "example"


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    setup=as_module,
    fixtures=["in_scratch_folder"],
).pytest()
