"""The figures in the README are those of the page that measures them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEASURED = (ROOT / "docs/research/benchmarks.md").read_text()
README = (ROOT / "README.md").read_text()


def bar(name: str) -> float:
    """What the page says that was reached."""
    (reached,) = re.findall(rf"^\| {re.escape(name)} \| ([\d.]+) \|", MEASURED, re.MULTILINE)
    return float(reached)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LSTM, times torch.nn", "{:.1f}×](docs/research/benchmarks.md#classic) as fast"),
        ("GRU, times torch.nn", "GRU {:.1f}×"),
        ("ragged LSTM, times PackedSequence", "{:.1f}× as fast as with `PackedSequence`"),
        ("times the eager loop", "{:.1f}×](docs/research/benchmarks.md#custom) as fast"),
        ("H=64, times torch.nn", "{:.0f}×](docs/research/benchmarks.md#step) as fast"),
    ],
)
def test_a_ratio_is_the_measured_one(name, said):
    assert said.format(bar(name)) in README


def test_the_times_of_a_step_are_the_measured_ones():
    (ours, theirs) = re.findall(r"^\| H=64 \| equal \| ([\d.]+) us \| .*?, (\d+) us \|", MEASURED, re.MULTILINE)[0]
    assert f"{float(ours):.1f} µs in place of {theirs} µs" in README


@pytest.mark.parametrize("page", ["questions", "coming-from-torch"])
def test_the_pages_say_the_same(page):
    text = (ROOT / f"docs/{page}.md").read_text()
    assert f"{bar('ragged LSTM, times PackedSequence'):.1f} times as fast" in text
    assert f"{bar('times the eager loop'):.1f} times as fast" in text


def test_whatever_the_readme_shows_is_there():
    shown = re.findall(r'\]\(((?!http)[^)#\s]+)|src="([^"]+)"', README)
    assert shown
    assert [one or other for one, other in shown if not (ROOT / (one or other)).exists()] == []
