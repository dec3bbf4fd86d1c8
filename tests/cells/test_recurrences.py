"""Every cell against its recurrence written out in NumPy."""

import pytest
import torch

from tests.cells.recurrences import RECURRENCES, parameters, run
from tests.registry import CELLS, build, random_state, sequence
from tests.tolerances import assert_close


@pytest.mark.share(17)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("given", [True, False], ids=["random state", "initial state"])
def test_the_cell_is_its_recurrence(name, given):
    rnn = build(name)
    xs = sequence(rnn, 3, 6)
    state = random_state(rnn) if given else rnn.initial_state(3)
    ys, end = rnn(xs, state)
    fields = {field: tensor.detach().numpy() for field, tensor in state._asdict().items()}
    expected, last = run(RECURRENCES[name], parameters(rnn.cell), xs.numpy(), fields)
    assert_close(ys, torch.as_tensor(expected))
    end = end._asdict()
    if "m" in end:  # the recurrence has no stabiliser: it keeps c and n unscaled
        scale = end.pop("m").exp()
        end |= {
            field: end[field] * scale.reshape(*scale.shape, *[1] * (end[field].ndim - scale.ndim)) for field in "cn"
        }
    for field, tensor in end.items():
        assert_close(tensor, torch.as_tensor(last[field]), what=field)


def test_every_registered_cell_has_a_recurrence():
    assert list(CELLS) == list(RECURRENCES)
