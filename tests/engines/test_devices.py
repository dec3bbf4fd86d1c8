"""Rows are looked up where they are: nothing mixes devices, nothing asks another device for its numbers.

The device "meta", whose tensors have no numbers to ask for, stands for a GPU.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import treadle as td
from treadle.engines import verification
from treadle.engines.layout import Layout
from treadle.engines.network import network_of

STEPS, BATCH = 5, 4
LENGTHS = torch.tensor([3, 0, 5, 4])
META = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Every operation is given tensors of one device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
        copies = function._schema.name in ("aten::_to_copy", "aten::copy_")
        assert copies or len({tensor.device for tensor in tensors}) <= 1, function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("has_resets", [False, True])
@pytest.mark.parametrize("has_holes", [False, True])
def test_layouts_look_rows_up_where_they_are(lengths, has_resets, has_holes):
    mask = torch.rand(STEPS, BATCH) < 0.7 if has_holes else None
    resets = torch.zeros(STEPS, BATCH, dtype=torch.bool, device=META) if has_resets else None
    xs, state = torch.zeros(STEPS, BATCH, 3, device=META), torch.zeros(BATCH, 3, device=META)
    with OneDevice():
        layout = Layout(STEPS, BATCH, lengths, resets, mask, META)
        rows, start = layout.packed(xs), layout.sort(state)
        found = [layout.padded(rows), layout.held(rows, start), layout.last(rows, start)]
        found += [layout.previous(rows, start, start), layout.unsort(start), layout.origins]
    assert {tensor.device for tensor in found} == {META}
    assert layout.counts.device.type == "cpu"


def test_a_network_runs_where_its_rows_are_and_asks_for_no_number():
    rnn = td.Recurrent(td.Stack([td.ZoneoutLSTMCell(3, 4), td.GRUCell(4, 4)], "stack"), engine="interpreter").to(META)
    xs, resets = torch.zeros(2, 5, 3, device=META), torch.zeros(2, 5, dtype=torch.bool, device=META)
    with verification.switched("never"):
        ys, _, _ = rnn(xs, resets=resets, return_states=True)
        ys.sum().backward()
    assert {tensor.device for tensor in (ys, *rnn.parameters(), *(p.grad for p in rnn.parameters()))} == {META}


def test_a_cell_has_a_network_for_each_device():
    cell = td.GRUCell(2, 3)
    here = network_of(cell, torch.zeros(2, 2), cell.initial_state(2))
    cell = cell.to("meta")
    other = network_of(cell, torch.zeros(2, 2, device="meta"), cell.initial_state(2))
    assert here.device.type == "cpu"
    assert other.device.type == "meta"
    assert all(tensor.device.type == "meta" for tensor in other.constants().values())


class Asking(nn.Module):
    """A cell that asks where its input is, and holds a number that is on the CPU wherever the cell is."""

    input_size = 3

    def __init__(self, where):
        super().__init__()
        self.where, self.linear = where, nn.Linear(7, 4)
        self.scale = torch.tensor(2.0)

    def initial_state(self, rows):
        return (self.linear.weight.new_zeros(rows, 4),)

    def forward(self, x, state):
        h = self.linear(torch.cat([x, state[0]], 1))
        h = h * self.scale if self.where(x) else h + torch.zeros(4, device=x.device).to(x.device)
        return h, (h,)


ON_META = {
    "is_meta": lambda x: x.is_meta,
    "not is_cpu": lambda x: not x.is_cpu,
    "device": lambda x: x.device == META,
    "type of device": lambda x: x.device.type == "meta",
    "type": lambda x: x.type() != "torch.FloatTensor",
}


def operations(cell, device):
    network = network_of(cell, torch.zeros(2, 3, device=device), (torch.zeros(2, 4, device=device),))
    return [value.op for value in network.program.values()]


@pytest.mark.parametrize("asked", ON_META)
def test_a_step_is_told_where_it_runs(asked):
    cell = Asking(ON_META[asked])
    assert "mul" not in operations(cell, torch.device("cpu"))
    assert "mul" in operations(cell.to(META), META)


def test_a_number_on_the_cpu_is_taken_along_and_stays_where_it_is():
    cell = Asking(lambda x: True).to(META)
    scale = cell.scale
    rnn = td.Recurrent(cell, engine="interpreter")
    with verification.switched("never"):
        ys, _ = rnn(torch.zeros(2, 5, 3, device=META))
    assert ys.device == META
    assert cell.scale is scale
    assert scale.device.type == "cpu"
    network = network_of(cell, torch.zeros(2, 3, device=META), cell.initial_state(2))
    assert {tensor.device for tensor in network.constants().values()} == {META}
