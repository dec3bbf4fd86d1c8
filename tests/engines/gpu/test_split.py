"""Programs that share the columns of some rows: where they have to meet, and that they can."""

import copy
import re

import pytest
import torch

from tests.engines.gpu.together import Together
from tests.outcome import outcome
from tests.registry import build, random_state, sequence
from tests.tolerances import assert_all_close
from treadle.engines import verification
from treadle.engines.gpu.plan import launches

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # NumPy's, in lanes that nobody reads
]

MEETING = re.compile(r" *met \+= .*\n *f\.meet\(.*\)\n")
ORDERS = 4
"""How many random orders of the programs are tried."""


def run(engine, rnn, xs, state, given):
    other = copy.copy(rnn)
    other.engine = engine
    with verification.switched("never"):
        return outcome(lambda rnn, xs, state: rnn(xs, state, return_states=True, **given), other, xs, state)


@pytest.mark.slow
def test_each_meeting_is_needed(cut, monkeypatch):
    """Left out, it lets programs take turns in an order that gives other numbers.

    Those after states were moved are left alone: a program that reads nothing but what it has moved needs none.
    """
    rnn = build("lstm")
    xs, state = sequence(rnn, 2, 2), random_state(rnn, 2)
    ways = {}, {"resets": torch.tensor([[False, True], [True, False]])}
    expected = [run("reference", rnn, xs, state, given) for given in ways]
    cut("split")
    texts = []
    monkeypatch.setattr(launches, "function_of", lambda text: texts.append(text) or Together(text))
    for given, right in zip(ways, expected, strict=True):
        assert_all_close(run("gpu", rnn, xs, state, given), right)

    def noticed(where, meeting):
        begin, end = meeting.span()
        for order in range(ORDERS):
            launches.launches.cache_clear()

            def function_of(text, order=order):
                return Together(text[:begin] + text[end:] if text == where else text, order)

            monkeypatch.setattr(launches, "function_of", function_of)
            one = copy.deepcopy(rnn)
            try:
                for given, right in zip(ways, expected, strict=True):
                    assert_all_close(run("gpu", one, xs, state, given), right)
            except AssertionError:
                return True
        return False

    assert len(texts) == 2
    for text in texts:
        meetings = list(MEETING.finditer(text))
        assert meetings
        after_phases = [meeting for meeting in meetings if meeting[0].startswith(" " * 8 + "met")]
        assert after_phases
        for meeting in after_phases:
            assert noticed(text, meeting), f"{text}\n{text[: meeting.start()].count(chr(10)) + 1}"


def test_programs_that_do_not_all_meet_are_noticed(cut, monkeypatch):
    """The turns that programs take end in an error where a GPU would wait for ever."""
    rnn = build("lstm")
    xs, state = sequence(rnn, 2, 3), random_state(rnn, 2)
    cut("split")

    def function_of(text):
        return Together(re.sub(r"( *)(met \+= .*\n)( *f\.meet)", r"\1\2\1if part == 0:\n    \3", text))

    monkeypatch.setattr(launches, "function_of", function_of)
    with pytest.raises(Exception, match="all wait for ever"):
        run("gpu", rnn, xs, state, {})


@pytest.mark.parametrize("multiprocessors", [3, 7])
def test_so_many_blocks_are_launched_as_run_at_once(multiprocessors, cut, gpu, monkeypatch):
    """Three programs a block: one block, or two, of the three that five rows are."""
    object.__setattr__(gpu, "multiprocessors", multiprocessors)
    grids = []

    class Noted(Together):
        def __getitem__(self, grid):
            grids.append(grid)
            return super().__getitem__(grid)

    cut("split")
    monkeypatch.setattr(launches, "function_of", Noted)
    rnn = build("gru")
    xs, state = sequence(rnn, 5, 2), random_state(rnn, 5)
    assert_all_close(run("gpu", rnn, xs, state, {}), run("reference", rnn, xs, state, {}))
    assert {grid[1] for grid in grids} == {3}
    assert [grid[0] for grid in grids[: len(grids) // 2]] == ([1, 1, 1] if multiprocessors == 3 else [2, 1])
