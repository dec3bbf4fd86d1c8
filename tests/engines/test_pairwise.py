"""Each cell and wiring with each engine, precision, way of running, feature and gradient, and these in pairs, too.

The batteries beside this one walk combinations; the short suite takes a share of them, the full one a larger, and both
all of these.
"""

import contextlib
import copy
import functools

import pytest
import torch

import treadle as td
from tests.covering import pairwise
from tests.outcome import outcome, row_by_row
from tests.ragged import LENGTHS, MASK, RESETS, T
from tests.registry import SUBJECTS, build, engine_of, random_state, sequence
from tests.tolerances import assert_all_close
from treadle.engines.gpu import device
from treadle.state import map_state, named_tensors

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # NumPy's, in lanes that nobody reads
]


def whole(rnn, xs, state, lengths, resets, mask, moments):
    return with_moments(rnn(xs, state, lengths, resets, return_states=moments, mask=mask))


def chunked(rnn, xs, state, lengths, resets, mask, moments):
    """In pieces, each with what is left of the lengths."""
    parts, start = [], 0
    for size in (1, 4, 2):
        part = slice(start, start + size)
        left = None if lengths is None else (lengths - start).clamp(0, size)
        some, taken = (None if one is None else one[:, part] for one in (resets, mask))
        ys, state, every = with_moments(rnn(xs[:, part], state, left, some, moments, taken))
        parts.append((ys, every))
        start += size
    return torch.cat([ys for ys, _ in parts], 1), state, map_state(lambda *p: torch.cat(p, 1), *(e for _, e in parts))


def time_first(rnn, xs, state, lengths, resets, mask, moments):
    other = copy.copy(rnn)
    other.batch_first = False
    ys, end, every = whole(other, xs.transpose(0, 1), state, lengths, resets, mask, moments)
    return ys.transpose(0, 1), end, map_state(lambda s: s.transpose(0, 1), every)


def with_moments(result):
    """Outputs, the final state, and the states at every step if they were asked for."""
    return result if len(result) == 3 else (*result, ())


WAYS = {"whole": whole, "chunked": chunked, "time first": time_first}
ROWS = {
    "full": (None, None, None),
    "lengths": (torch.tensor(LENGTHS), None, None),
    "resets": (None, RESETS, None),
    "both": (torch.tensor(LENGTHS), RESETS, None),
    "holes": (None, RESETS, MASK),
}
GRADIENTS = {
    "full": td.FullBPTT(),
    "truncated": td.TruncatedBPTT(2, 3),
    "checkpointed": td.CheckpointedBPTT(memory=1),
    "none": None,
}
CASES = pairwise(
    subject=list(SUBJECTS),
    engine=["cpu", "gpu", "interpreter"],
    dtype=[torch.float64, torch.float32],
    way=list(WAYS),
    rows=list(ROWS),
    start=["initial", "learned", "any"],
    gradient=list(GRADIENTS),
    moments=[True, False],
)
# A case takes Triton's interpreter seconds: the short suite runs a fifth of them.
CASES = [
    pytest.param(*case, marks=pytest.mark.slow) if case[1] == "gpu" and number % 5 else case
    for number, case in enumerate(CASES)
]


@pytest.mark.share(145)
@pytest.mark.parametrize(("subject", "engine", "dtype", "way", "rows", "start", "gradient", "moments"), CASES, ids=str)
def test_pairs(subject, engine, dtype, way, rows, start, gradient, moments):
    with device.pretended() if engine == "gpu" else contextlib.nullcontext():
        agree(subject, engine, dtype, way, rows, start, gradient, moments)


def agree(subject, engine, dtype, way, rows, start, gradient, moments):
    """The engine gives, in this way, what the reference gives in float64."""
    fine = build(subject, torch.float32, learn_initial_state=start == "learned").to(dtype)
    rnn, fine = fine, copy.deepcopy(fine).double()
    rnn.engine, fine.engine = engine if engine == "interpreter" else engine_of(subject, engine), "reference"
    xs, state = sequence(rnn, 4, T, dtype), random_state(rnn, 4, dtype) if start == "any" else None

    def wide(tensor):
        return tensor.double() if tensor.is_floating_point() else tensor

    exact = functools.partial(outcome, xs=wide(xs), state=None if state is None else map_state(wide, state))
    given = ROWS[rows]
    run = functools.partial(WAYS[way], lengths=given[0], resets=given[1], mask=given[2], moments=moments)

    def alone(rnn, xs, state):
        ys, end, every = row_by_row(*given)(rnn, xs, state)
        return ys, end, every if moments else ()

    if gradient == "none":
        with torch.no_grad():
            ys, end, every = run(rnn, xs, state)
            wanted = alone(fine, exact.keywords["xs"], exact.keywords["state"])
        assert not ys.requires_grad
        found, wanted = (dict(named_tensors(dict(zip("yse", t, strict=True)))) for t in ((ys, end, every), wanted))
        assert_all_close(found, wanted, dtype)
        return
    rnn.gradient = GRADIENTS[gradient]
    if gradient == "truncated":  # what that means is tested in gradients/; here, that all engines mean the same
        fine.gradient = GRADIENTS[gradient]
        reference = run
    else:
        reference = alone
    assert_all_close(outcome(run, rnn, xs, state), exact(reference, fine), dtype)
