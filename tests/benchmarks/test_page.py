"""The page of benchmarks names every suite."""

from pathlib import Path

from benchmarks.registry import SUITES


def test_the_page_names_every_suite():
    page = Path(__file__, "../../../benchmarks/page.md").resolve().read_text()
    (line,) = [line for line in page.splitlines() if "the others are" in line]
    named = line.partition("the others are")[2].replace(",", " ").split()
    assert sorted(["classic", *named]) == sorted(SUITES)
