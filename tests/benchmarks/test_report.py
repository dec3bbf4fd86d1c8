"""Tables of results."""

import pytest

from benchmarks.report import _ratio

SPREAD = {"median": 0.5, "low": 0.4, "high": 0.6}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [({"peer": {"median": 0.002}}, "0.50× (0.40–0.60), 2 ms"), ({}, "0.50× (0.40–0.60)")],
    ids=["timed", "of-which-the-ratio-alone-is-known"],
)
def test_a_ratio_is_shown_with_or_without_the_time_of_the_peer(seconds, words):
    assert _ratio({"ratios": {"peer": SPREAD}, "seconds": seconds}, "peer") == words
