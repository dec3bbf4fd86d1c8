"""Random cells in random wirings as kernels, however they are cut, against the interpreter.

`make test` draws 12, `make fuzz-gpu` five hundred. The number of a failing test is its seed.
"""

import os
import random

import pytest
import torch

import treadle as td
from tests.engines.gpu.conftest import TILINGS
from tests.engines.test_fuzz import random_network
from tests.outcome import outcome
from tests.tolerances import assert_all_close
from treadle.engines import verification
from treadle.state import map_state

COUNT = int(os.environ.get("TREADLE_FUZZ_GPU", "12"))


@pytest.mark.share(COUNT if "TREADLE_FUZZ_GPU" in os.environ else 2)
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("seed", range(COUNT))
def test_random_networks(seed, cut):
    draw = random.Random(seed)
    around = random.Random(seed + 10**6)  # one of its own, so that a seed is the network that it was
    torch.manual_seed(seed)
    cell, made = random_network(draw)
    rnn = td.Recurrent(cell, learn_initial_state=draw.random() < 0.3).double()
    B, T = draw.choice([1, 2, 3]), draw.choice([1, 2, 3])
    xs = torch.randn(B, T, rnn.input_size, dtype=torch.float64)
    state = map_state(lambda s: 0.5 * torch.randn_like(s), rnn.initial_state(B))
    lengths = torch.tensor([draw.randint(0, T) for _ in range(B)]) if draw.random() < 0.4 else None
    lengths = None if lengths is None or not lengths.any() else lengths
    resets = torch.rand(B, T) < 0.3 if draw.random() < 0.4 else None
    mask = torch.rand(B, T) < 0.7 if lengths is None and around.random() < 0.4 else None
    mask = None if mask is None or not mask.any() else mask
    tiling = around.choice(list(TILINGS)) if around.random() < 0.4 else "as chosen"

    def run(rnn, xs, state):
        return rnn(xs, state, lengths=lengths, resets=resets, mask=mask, return_states=True)

    results = []
    cut(tiling)
    try:
        with verification.switched("never"):
            for rnn.engine in ("interpreter", "gpu"):
                results.append(outcome(run, rnn, xs, state))
        assert_all_close(results[1], results[0])
    except Exception as error:
        described = [f"seed {seed}, {tiling}, B {B}, T {T}, lengths {lengths}, resets {resets}, mask {mask}"]
        described += [c.source for c in made]
        raise AssertionError("\n\n".join([f"{type(error).__name__}: {error}", *described, repr(cell)])) from error
