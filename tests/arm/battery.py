"""Every cell and wiring on the CPU engine: values, gradients and live steps, as ``make arm`` runs them.

pytest does not find these tests by itself: other tests walk the same subjects in more ways, where nothing is emulated.
"""

import copy

import pytest
import torch

from tests.engines.test_pairwise import agree
from tests.registry import LEFT_OUT, SUBJECTS, build, engine_of, sequence
from tests.tolerances import TOLERANCES, assert_close
from treadle.engines.cpu.machine.target import host

pytestmark = pytest.mark.usefixtures("poisoned_memory")
every_subject = pytest.mark.parametrize("subject", SUBJECTS)

STEPS = 4
LESS_PRECISE = ["lstm", "gru", "layer-norm-lstm", "slstm-two-heads", "stack-feedback", "graph-delays"]
ALLOWED = {"float32": TOLERANCES[torch.float32], "bfloat16": TOLERANCES[torch.bfloat16], "int8": 3e-2}


def test_this_is_arm():
    assert host().multiplies_by_lane


@every_subject
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients(subject, dtype):
    """Rows of unequal length, with resets, from any state: outputs, states of every step, and all gradients."""
    agree(subject, "cpu", dtype, "whole", "both", "any", "full", True)


def live_and_whole(subject, weights):
    """The outputs of a session, and those of the reference, in float64."""
    rnn = build(subject, torch.float32)
    rnn.engine = engine_of(subject, "cpu")
    fine = copy.deepcopy(rnn).double()
    fine.engine = "reference"
    xs = sequence(rnn, 2, STEPS, torch.float32)
    session = rnn.session(2, weights=weights)
    found = torch.stack([session.step(x).clone() for x in xs.unbind(1)], 1)
    with torch.no_grad():
        return found, fine(xs.double() if xs.is_floating_point() else xs)[0]


@every_subject
def test_sessions(subject):
    assert_close(*live_and_whole(subject, "float32"))


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@pytest.mark.parametrize("subject", LESS_PRECISE)
def test_sessions_with_less_precise_weights(subject, weights):
    assert subject not in LEFT_OUT
    found, wanted = live_and_whole(subject, weights)
    assert (found - wanted).norm() <= ALLOWED[weights] * wanted.norm()
    assert not torch.allclose(found.double(), wanted, rtol=1e-5)  # they have been rounded
