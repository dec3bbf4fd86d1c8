"""Whether PyTorch's own kernels are the faster ones for a classic network."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from treadle.torch_internals import is_compiled, is_followed

_SHORT = 8
"""Below so many steps PyTorch's kernels are faster: ours take a moment to begin."""


def is_faster_compiled(network: nn.RNNBase, input: Tensor | PackedSequence) -> bool:
    """Whether treadle's CPU engine runs a classic network faster over this input than PyTorch's kernels do."""
    packed = isinstance(input, PackedSequence)
    data = input.data if packed else input
    if type(data) is not Tensor or data.dim() not in (2, 3) or data.numel() == 0:
        return False
    if data.dtype not in (torch.float32, torch.float64) or data.device.type != "cpu":
        return False
    by_row = network.batch_first and data.dim() == 3
    steps = len(input.batch_sizes) if packed else data.shape[1 if by_row else 0]
    # PyTorch's masks are drawn in another order.
    masked = network.dropout > 0 and network.training and network.num_layers > 1
    special = is_compiled(data) or is_followed() or torch.is_autocast_enabled("cpu")
    if network.bidirectional or masked or special or steps < _SHORT:
        return False
    kinds, dtype = (Tensor, nn.Parameter), data.dtype
    for weight in flat_weights(network):  # in less time than all() of a generator
        if type(weight) not in kinds or weight.dtype != dtype or not weight.is_cpu:
            return False
    return True


def flat_weights(network: nn.RNNBase) -> list[Tensor]:
    """The weights as they are now, parameters or what stands in for them; asked in every pass."""
    table = network._parameters
    return [table[name] if name in table else getattr(network, name) for name in network._flat_weights_names]  # pyright: ignore
