"""What a step depends on besides its arguments, remembered, so that a second run equals the first."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from treadle.compiler.walk import preorder

Generators = tuple[Tensor, ...]
"""The states of PyTorch's random generators."""


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


def generators(device: torch.device, before: Generators | None = None) -> Generators:
    """The states of the generators now; the very same as ``before`` if nothing was drawn since.

    A state of the one on the CPU is 5 kB: where nothing is random, one serves a whole sequence.
    """
    now = [torch.get_rng_state()]
    if device.type not in ("cpu", "meta"):
        now.append(torch.get_device_module(device).get_rng_state(device))
    if before is not None and len(before) == len(now) and all(map(torch.equal, before, now)):
        return before
    return tuple(now)


@contextlib.contextmanager
def generators_at(device: torch.device, states: Generators) -> Iterator[None]:
    """Random numbers are drawn from ``states`` on; afterwards the generators are where they were."""
    now = generators(device, states)
    if now is not states:
        _set(device, states)
    try:
        yield
    finally:
        _set(device, now)


def _set(device: torch.device, states: Generators) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.get_device_module(device).set_rng_state(state, device)


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
