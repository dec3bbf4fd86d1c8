"""Cases in processes of their own: the same result, and one that dies takes no other with it."""

import os

import torch

from benchmarks import apart
from benchmarks.registry import Options, load

TINY = Options(threads=1, quick=True, tiny=True)


def test_a_case_has_a_process_of_its_own_and_its_result_comes_back():
    cases, threads = load("custom").cases(TINY), torch.get_num_threads()
    result = apart.run_apart("custom", 1, TINY)
    assert torch.get_num_threads() == threads  # that process has one
    assert (result.name, result.group, result.error) == (cases[1].name, cases[1].group, None)
    assert result.is_green
    assert result.measurement is not None
    assert result.measurement.seconds["treadle"].median > 0


def test_of_a_process_that_dies_the_case_says_so(monkeypatch):
    submit = apart.ProcessPoolExecutor.submit
    monkeypatch.setattr(apart.ProcessPoolExecutor, "submit", lambda process, *_: submit(process, os._exit, 3))
    result = apart.run_apart("custom", 0, TINY)
    assert result.name == load("custom").cases(TINY)[0].name
    assert "died" in (result.error or "")
    assert not result.is_green
