"""The choice of cases: nothing that it promises to meet is left out."""

import itertools
from types import SimpleNamespace

import pytest

from tests.conftest import FULL, pytest_collection_modifyitems
from tests.covering import pairwise, share


@pytest.mark.parametrize("sizes", [(5, 2, 3, 2), (1, 1), (7, 4, 4, 3, 2), (3,) * 6])
def test_every_pair_meets(sizes):
    choices = {f"choice {i}": [f"{i}.{value}" for value in range(size)] for i, size in enumerate(sizes)}
    cases = pairwise(**choices)
    for i, j in itertools.combinations(range(len(sizes)), 2):
        wanted = set(itertools.product(choices[f"choice {i}"], choices[f"choice {j}"]))
        assert {(case[i], case[j]) for case in cases} == wanted
    largest, second = sorted(sizes)[-2:]
    assert largest * second <= len(cases) <= 2 * largest * second
    assert cases == pairwise(**choices)


def test_a_share_shows_each_value_and_as_many_as_are_asked_for():
    cases = [{"a": a, "b": b} for a in range(10) for b in range(3)]
    chosen = share(cases, "one test")
    assert {(name, value) for k in chosen for name, value in cases[k].items()} == {
        *(("a", a) for a in range(10)),
        *(("b", b) for b in range(3)),
    }
    assert len(chosen) == 10
    assert len(share(cases, "one test", 4)) == 4
    assert len(share(cases, "one test", 40)) == 30
    assert share(cases, "one test", 4) != share(cases, "another test", 4)
    assert share([{}], "no parameters") == {0}


class Item:
    """A test with two parameters, as pytest has collected it."""

    def __init__(self, a, b):
        self.nodeid, self.markers = "tests/x.py::test_x[...]", []
        self.callspec = SimpleNamespace(params={"a": a, "b": b})

    def get_closest_marker(self, name):
        return SimpleNamespace(args=(3,)) if name == "share" else None

    def add_marker(self, name):
        self.markers.append(name)


def test_the_full_suite_says_what_it_leaves_out(monkeypatch):
    for long in (False, True):
        items, left_out = [Item(a, b) for a in range(10) for b in range(10)], []
        hook = SimpleNamespace(pytest_deselected=lambda items, left_out=left_out: left_out.extend(items))
        monkeypatch.setenv("TREADLE_LONG", "1") if long else monkeypatch.delenv("TREADLE_LONG", raising=False)
        pytest_collection_modifyitems(SimpleNamespace(hook=hook), items)
        assert len(items) == (100 if long else 3 * FULL)
        assert len(left_out) == 100 - len(items)
        assert len([item for item in items if not item.markers]) == 3
