"""What `mkdocs build` does by running treadle itself: shows what examples print, makes the
explorer, and checks that pictures are fresh.

``<!-- output -->`` below a ```python fence is replaced by what that fence prints. The fences of a page run in one
namespace, from above to below, as the tests run them (see conftest.py).
"""

import contextlib
import functools
import io
import logging
import re
from tempfile import TemporaryDirectory
from typing import Any

import explored
from drawings.freshness import stale
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from conftest import as_module  # `python -m mkdocs` finds it at the root of the repository

MARK = "<!-- output -->"
FENCE = re.compile(rf"^```python\n(.*?)^```\n(\n*{MARK}\n)?", re.MULTILINE | re.DOTALL)


@functools.cache  # `mkdocs serve` builds again and again
def check_pictures() -> None:
    """Warns of each picture that no longer shows what is so; a strict build fails then."""
    for sentence in stale():
        logging.getLogger("mkdocs.pictures").warning("%s: `make pictures` draws it", sentence)


def on_pre_build(**_: Any) -> None:
    """Before anything is built."""
    check_pictures()


@functools.cache
def scratch_folder() -> TemporaryDirectory[str]:
    """Where examples write their files, all of them, so that a page can read what it wrote before."""
    return TemporaryDirectory()


@functools.cache
def explorer() -> str:
    """The explorer's page of small networks."""
    return explored.explorer_page()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the explorer to the site, so that links to it are checked. It never lies in docs/."""
    files.append(File.generated(config, explored.ADDRESS, content=explorer()))
    return files


def with_output(markdown: str, name: str) -> str:
    """A page with what its examples print in the places that are marked for it."""
    namespace: dict[str, Any] = {}
    as_module(namespace)

    def run(fence: re.Match[str]) -> str:
        line = markdown.count("\n", 0, fence.start(1))
        printed = io.StringIO()
        with contextlib.chdir(scratch_folder().name), contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + fence[1], name, "exec"), namespace)
        if not fence[2]:
            return fence[0]
        text = printed.getvalue().rstrip()
        if not text:
            raise ValueError(f"{name}:{line}: the example is marked with {MARK}, but prints nothing")
        return f"```python\n{fence[1]}```\n\n```{{.text .output}}\n{text}\n```\n"

    return FENCE.sub(run, markdown)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Runs the examples of pages that show what they print."""
    return with_output(markdown, page.file.src_path) if MARK in markdown else markdown
