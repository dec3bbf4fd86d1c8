"""From the final state of one network to the initial state of another."""

import math

import torch
from torch import Tensor, nn

from treadle import state as states
from treadle.errors import StateError
from treadle.protocol import State


class Bridge(nn.Module):
    """Makes the final state of a network the initial state of another.

    Every tensor of the new state comes from the tensors of the same name (``"layer0/h"``) in what ended: as it is, if
    there is one of the same size, else as a linear map of all of them, those of both directions side by side. A tensor
    without a counterpart is a linear map of the whole final state; whole numbers keep their initial values.

    A linear map has no bounds. Where a field has some, as the normaliser of `treadle.SLSTMCell`, which is positive,
    give both networks the same layers and sizes, so that it is copied, or pass a bridge of your own: a module from the
    one state to the other.

    Args:
        ended: states as those of the network that ended, one for each direction in which it read.
        begins: a state as that of the network that begins.

    Raises:
        StateError: nothing of what ended can be handed over.

    Example:
        >>> import torch, treadle as td
        >>> bridge = td.seq2seq.Bridge([td.GRUCell(2, 3).initial_state(1)] * 2, td.GRUCell(2, 5).initial_state(1))
        >>> bridge([td.GRUCell(2, 3).initial_state(4)] * 2, td.GRUCell(2, 5).initial_state(4)).h.shape
        torch.Size([4, 5])
        >>> bridge
        Bridge(
          (maps): ModuleDict(
            (to h): Linear(in_features=6, out_features=5, bias=True)
          )
        )
    """

    def __init__(self, ended: list[State], begins: State):
        super().__init__()
        there = [(name, tensor) for state in ended for name, tensor in floats(state)]
        self.maps = nn.ModuleDict()
        for name, tensor in floats(begins):
            given = [other for other_name, other in there if other_name == name] or [other for _, other in there]
            if not given:
                raise StateError(
                    "there is nothing to hand over: the state of the network that ended holds no floats; pass a bridge"
                )
            namesakes = any(other_name == name for other_name, _ in there)
            if namesakes and len(given) == 1 and given[0].shape[1:] == tensor.shape[1:]:
                continue
            size = sum(math.prod(other.shape[1:]) for other in given)
            self.maps[key(name)] = nn.Linear(
                size, math.prod(tensor.shape[1:]), device=tensor.device, dtype=tensor.dtype
            )

    def forward(self, ended: list[State], begins: State) -> State:
        """The initial state from the final ones, one for each direction, where it would be ``begins`` without them."""
        there = [(name, tensor) for state in ended for name, tensor in floats(state)]
        found: list[Tensor] = []
        for name, tensor in states.named_tensors(begins):
            namesakes = [other for other_name, other in there if other_name == name]
            if not tensor.is_floating_point():
                found.append(tensor)
            elif key(name) in self.maps:
                given = [other.flatten(1) for other in namesakes or [other for _, other in there]]
                found.append(self.maps[key(name)](torch.cat(given, 1)).reshape(tensor.shape))
            else:
                found.append(namesakes[0])
        return states.with_tensors(begins, found)


def floats(state: State) -> list[tuple[str, Tensor]]:
    """The tensors of a state that are floats, with their names."""
    return [(name, tensor) for name, tensor in states.named_tensors(state) if tensor.is_floating_point()]


def key(name: str) -> str:
    """A tensor's name as a module may have it: without dots, and unlike the methods of a dict."""
    return f"to {name}".replace(".", "|")
