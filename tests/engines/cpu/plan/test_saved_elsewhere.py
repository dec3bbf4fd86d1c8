"""What autograd saves may come back from anywhere: from a file, another device, the middle of a block."""

import pytest
import torch

import treadle as td
from tests.tolerances import assert_close


def moved_by(numbers):
    """Hooks that give back a copy which begins so many bytes after a cache line."""

    def pack(tensor):
        block = torch.empty(tensor.numel() * tensor.element_size() + 128, dtype=torch.uint8)
        start = -block.data_ptr() % 64 + numbers
        place = block[start : start + tensor.numel() * tensor.element_size()].view(tensor.dtype).view(tensor.shape)
        return place.copy_(tensor.detach())

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


@pytest.mark.share(4)
@pytest.mark.parametrize("bytes_after", [0, 8, 16, 56])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_do_not_depend_on_where_things_come_back(bytes_after, dtype):
    cell = td.Stack([td.LSTMCell(3, 5), td.LayerNormLSTMCell(5, 4)]).to(dtype)
    xs = torch.randn(3, 6, 3, dtype=dtype)
    gradients = []
    for engine in ("cpu", "reference"):
        with moved_by(bytes_after):
            ys, _ = td.Recurrent(cell, engine=engine)(xs)
        gradients.append(torch.autograd.grad(ys.square().sum(), cell.parameters()))
    for ours, expected in zip(*gradients, strict=True):
        assert_close(ours, expected)
