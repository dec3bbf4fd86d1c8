"""Every example runs, and says that its ways of running agree."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GALLERY = runpy.run_path(str(ROOT / "docs" / "gallery.py"))
EXAMPLES = GALLERY["EXAMPLES"]
PROVED = "08_memory_beyond_the_window.py"
"""tests/streams/test_memory_beyond_the_window.py runs it, and looks at what it learned."""


@pytest.mark.share(1)
@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.name != PROVED], ids=lambda path: path.name)
def test_example_runs(path, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed
    kept = GALLERY["kept"](path).read_text()
    assert GALLERY["without_numbers"](printed) == GALLERY["without_numbers"](kept), (
        "`make gallery` keeps what is printed"
    )
    for difference in re.findall(r"(?:differs? by|difference:) (\S+)", printed):
        assert float(difference) < 1e-6


def test_the_gallery_shows_every_example():
    page = (ROOT / "docs" / "examples.md").read_text()
    shown = re.findall(r'^--8<-- "docs/outputs/(\w+)\.txt"$', page, re.MULTILINE)
    assert shown == re.findall(r'^ +--8<-- "examples/(\w+)\.py"$', page, re.MULTILINE)
    assert shown == [path.stem for path in EXAMPLES]


def test_there_are_examples():
    assert [path.name[:3] for path in EXAMPLES[:3]] == ["01_", "02_", "03_"]
