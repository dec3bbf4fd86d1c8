"""A network over time in PyTorch's own operators, for `torch.export`.

A program that is exported is loaded in other processes, where neither the network is nor treadle. So it holds the
cell's own step, once, and a loop over time for sequences of any length (`torch.scan`).
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from treadle.engines import Call, Result
from treadle.engines.reference import without_padding
from treadle.protocol import State
from treadle.state import check_kept, check_results, map_state, named_tensors, where, with_tensors
from treadle.torch_internals import no_function_modes, scan


def run(call: Call) -> Result:
    """Run a call whose numbers are not known: what depends on them is computed, never asked."""
    xs, resets, active = without_padding(call)
    by_step = {"x": xs, "active": active, "reset": resets}
    rows = xs.shape[1]
    by_step = {name: _contiguous(tensor) for name, tensor in by_step.items() if tensor is not None}

    def step(tensors: list[Tensor], now: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        state = like(call.state, tensors[: len(kept)])
        if "reset" in now:
            state = where(now["reset"], call.initial, state)
        y, after = check_results(call.cell, call.cell(now["x"], state))
        after = check_kept(call.cell, after, state)
        if "active" in now:
            y = where(now["active"], y, torch.zeros_like(y))
            after = where(now["active"], after, state)
        # What lowers a loop has to be told how many rows there are: PyTorch's compiler does not find it in shapes.
        y = y.expand(rows, *y.shape[1:])
        tensors = [tensor for _, tensor in named_tensors(after)]
        given = [y, *tensors] if call.return_states else [y]
        return _own(tensors or nothing), _own(given)

    kept = [tensor for _, tensor in named_tensors(call.state)]
    nothing = [] if kept else [torch.zeros(1, device=xs.device)]  # a loop has to carry something
    starts = _own(kept or nothing)
    with _without_derivative():
        end, (ys, *every) = scan(step, starts, by_step)
    return Result(ys, like(call.state, end[: len(kept)]), like(call.state, every) if every else None)


@contextlib.contextmanager
def _without_derivative() -> Iterator[None]:
    """A context in which a loop is traced for itself; its derivative is made when the program runs.

    PyTorch would try that at once, and fails where a step draws random numbers. What is traced does not see this.
    """
    if torch.compiler.is_dynamo_compiling():  # which sees everything
        yield
        return
    before = torch.is_grad_enabled()
    with no_function_modes():
        torch.set_grad_enabled(False)
    try:
        yield
    finally:
        with no_function_modes():
            torch.set_grad_enabled(before)


def _own(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copies: what a step gives may neither be what it was given nor be given twice, and lies like what comes in."""
    copies = map(_contiguous, tensors)
    # The derivative of a loop knows floats alone.
    return [copy if copy.is_floating_point() else copy.double() for copy in copies]


def _contiguous(tensor: Tensor) -> Tensor:
    """A copy, whether there is need of one or not: a question would be answered for all sequences by the example."""
    return tensor.clone(memory_format=torch.contiguous_format)


def like(state: State, tensors: Iterable[Tensor]) -> State:
    """A state of the structure and in the precisions of another."""
    return map_state(lambda tensor, own: tensor.to(own.dtype), with_tensors(state, tensors), state)
