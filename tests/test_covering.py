"""The choice of cases: nothing that it promises to meet is left out."""

import itertools

import pytest

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
