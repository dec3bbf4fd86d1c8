"""Cases in processes of their own: the same result, and one that dies takes no other with it."""

import os

from benchmarks import apart
from benchmarks.registry import Options, load

TINY = Options(threads=1, quick=True, tiny=True)


def test_a_case_has_a_process_of_its_own_and_its_result_comes_back():
    here = os.getpid()
    cases = load("custom").cases(TINY)
    result = apart.run_apart("custom", 1, TINY)
    assert (result.name, result.group, result.error) == (cases[1].name, cases[1].group, None)
    assert result.is_green
    assert result.measurement is not None
    assert result.measurement.seconds["treadle"].median > 0
    assert os.getpid() == here


def test_of_a_process_that_dies_the_case_says_so(monkeypatch):
    monkeypatch.setattr(apart, "run_here", os._exit)
    monkeypatch.setattr(apart.ProcessPoolExecutor, "submit", lambda pool, run, *_: _dying(pool))
    result = apart.run_apart("custom", 0, TINY)
    assert result.name == load("custom").cases(TINY)[0].name
    assert "died" in (result.error or "")
    assert not result.is_green


SUBMIT = apart.ProcessPoolExecutor.submit


def _dying(pool):
    return SUBMIT(pool, os._exit, 3)
