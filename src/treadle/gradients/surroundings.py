"""What a step depends on besides its arguments, remembered, so that a second run equals the first."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from treadle.compiler.walk import preorder


class Surroundings:
    """The tensors of a cell, the modes of its modules, and autocast, as they are now.

    Between a forward and a backward pass they may become others: `torch.func.functional_call` puts parameters in for
    one call, ``model.eval()`` is called, autocast is over.
    """

    def __init__(self, cell: nn.Module, device: torch.device):
        self.modes = [(module, module.training) for module in cell.modules()]
        self.places: list[tuple[dict[str, Any], str, Tensor]] = []
        for module in cell.modules():
            for table in (module._parameters, module._buffers, vars(module)):
                self.places += [(table, name, value) for name, value in table.items() if isinstance(value, Tensor)]
        learned = {id(tensor): tensor for _, _, tensor in self.places if tensor.requires_grad}
        self.sources = list(learned.values())
        """The tensors of the cell that gradients flow to, each once."""
        self.device = device

        # "meta" and some others know nothing of autocast.
        self.autocast: dict[str, Any] | None = None
        if torch.amp.is_autocast_available(device.type):
            self.autocast = {
                "enabled": torch.is_autocast_enabled(device.type),
                "dtype": torch.get_autocast_dtype(device.type),
                "cache_enabled": torch.is_autocast_cache_enabled(),
            }

    @contextlib.contextmanager
    def again(self, sources: Sequence[Tensor] | None = None) -> Iterator[None]:
        """Everything as it was; with ``sources``, these stand in for the cell's own."""
        stand_ins = {id(own): other for own, other in zip(self.sources, sources or (), strict=False)}
        now = []
        for table, name, own in self.places:
            tensor = stand_ins.get(id(own), own)
            if table.get(name) is not tensor:
                now.append((table, name, table.get(name)))
                table[name] = tensor
        modes = [(module, module.training) for module, mode in self.modes if module.training != mode]
        for module, mode in modes:
            module.training = not mode
        try:
            with torch.autocast(self.device.type, **self.autocast) if self.autocast else contextlib.nullcontext():
                yield
        finally:
            for table, name, tensor in now:
                table[name] = tensor
            for module, mode in modes:
                module.training = mode


def leaves_beyond(results: Sequence[Tensor], known: Sequence[Tensor]) -> list[Tensor]:
    """The leaves of the graph of some results that are not among ``known``."""
    seen, found = {id(tensor) for tensor in known}, []

    def operands(node: Any) -> list[Any]:
        return [after for after, _ in reversed(node.next_functions) if after is not None]

    roots = [tensor.grad_fn for tensor in reversed(results) if tensor.grad_fn is not None]
    for node in preorder(roots, operands):
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor) and id(variable) not in seen:
            seen.add(id(variable))
            found.append(variable)
    return found
