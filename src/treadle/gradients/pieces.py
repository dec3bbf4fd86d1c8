"""The exact gradient of a sequence that comes in pieces and never lies in memory as a whole."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from treadle.byte_sizes import as_bytes
from treadle.generators import Generators, generators, generators_at
from treadle.gradients.schedule import backwards
from treadle.protocol import State
from treadle.state import kept, map_state, named_tensors

_CLOSE = 1e-3
"""How far a loss may be off when a piece is run again: more than rounding does to it, less than another piece."""


class _Border(NamedTuple):
    state: State
    generators: Generators


class SequenceInPieces:
    """The exact gradient of a sequence that comes in pieces, each of which can be read again.

    Forwards, each piece is read, run and released; the state before it is kept. Backwards, the pieces are read again
    from the last to the first, run from those states, and the gradient flows from each to the one before it: the same
    as one backward pass through the whole sequence. Gradients add up in ``.grad``, of everything that ``run`` uses.

    Memory: a piece with its gradient, and up to ``memory`` of states; inside of a piece, the network's own
    ``gradient=`` says how much is kept. Time: one forward pass more than with everything in memory, and reading twice;
    if there are more states than ``memory`` holds, every other one is released, and the rest is run again, in
    the order that takes the fewest steps.

    Weights may not change between `push` and `backward`. Random masks are the same in each run, if they are drawn from
    PyTorch's generators.

    Source: Griewank and Walther, *Algorithm 799: Revolve*, 2000.

    Args:
        run: a function of a piece and the state before it (None at first) that returns the piece's loss and the state
            after it. Losses of the pieces are added up: divide in here if you want a mean.
        state: the state before the first piece; gradients flow into it where it wants them.
        memory: what all kept states may take, in bytes or as a text such as ``"500MB"``.

    Raises:
        ValueError: ``memory`` is no amount of memory.

    Example:
        >>> import torch, treadle as td
        >>> rnn, series = td.Recurrent(td.GRUCell(2, 3)), torch.randn(1, 1000, 2)
        >>> def run(piece, state):
        ...     ys, state = rnn(piece, state)
        ...     return ys.square().sum() / 1000, state
        >>> sequence = td.SequenceInPieces(run)
        >>> losses = [sequence.push(lambda begin=begin: series[:, begin : begin + 50]) for begin in range(0, 1000, 50)]
        >>> sequence.backward()
        >>> exact = torch.autograd.grad(run(series, None)[0], rnn.cell.weight_hh)[0]
        >>> torch.allclose(rnn.cell.weight_hh.grad, exact, rtol=1e-4, atol=1e-6)
        True
    """

    def __init__(
        self, run: Callable[[Any, State], tuple[Tensor, State]], state: State = None, memory: int | str = "1GB"
    ):
        self._run, self._memory = run, as_bytes(memory)
        self._begin(state)

    def _begin(self, state: State) -> None:
        self._first, self.state = state, kept(state)
        """The state after the last piece."""
        self._pieces: list[tuple[Callable[[], Any], Tensor]] = []
        self._borders: dict[int, _Border] = {}
        self._apart, self._most = 1, 1

    @property
    def pieces(self) -> int:
        """How many have been pushed since the last backward pass."""
        return len(self._pieces)

    def push(self, read: Callable[[], Any]) -> Tensor:
        """Run the next piece.

        Args:
            read: called without arguments, gives the piece; the same one whenever it is called.

        Returns:
            The piece's loss, as a number without a graph.
        """
        piece = read()
        device = self._device()
        number = len(self._pieces)
        before = next(reversed(self._borders.values())).generators if self._borders else None
        border = _Border(self.state, generators(device, before))
        with torch.no_grad():
            loss, state = self._run(piece, self.state)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            given = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise TypeError(f"run returns a loss, a tensor with one number, and a state, but its loss is {given}")
        if number % self._apart == 0:
            self._borders[number] = border
        self.state = kept(state)
        self._pieces.append((read, loss.detach().clone()))
        self._most = max(1, self._memory // max(1, sum(tensor.nbytes for _, tensor in named_tensors(self.state))))
        while len(self._borders) > self._most:
            self._apart *= 2
            self._borders = {i: one for i, one in self._borders.items() if i % self._apart == 0}
        return self._pieces[-1][1]

    def backward(self) -> None:
        """Go back over all pieces, and add their gradients to ``.grad``; the next piece begins a new sequence.

        It continues from the final state, without a gradient into the past.

        Raises:
            RuntimeError: a piece gives another loss than when it was pushed: it is another, or weights have changed.
        """
        device = self._device()

        def advance(number: int, border: _Border) -> _Border:
            with torch.no_grad(), generators_at(device, border.generators):
                state = kept(self._run(self._pieces[number][0](), border.state)[1])
                return _Border(state, generators(device, border.generators))

        above: list[Tensor | None] = []
        for number, border in backwards(self._borders, len(self._pieces), self._most, advance):
            above = self._back(number, border, above)
        if self._first is not None:
            _backward([tensor for _, tensor in named_tensors(self._first)], above)
        self._begin(self.state)

    def _back(self, number: int, border: _Border, above: list[Tensor | None]) -> list[Tensor | None]:
        """The gradient of the state before a piece, from that of the state after it."""
        read, pushed = self._pieces[number]
        state = border.state
        if state is not None:
            state = map_state(lambda t: t.detach().requires_grad_(t.is_floating_point()), state)
        with torch.enable_grad(), generators_at(self._device(), border.generators):
            loss, after = self._run(read(), state)
        now = loss.detach()
        if not torch.allclose(now, pushed, _CLOSE, _CLOSE * 1e-3, equal_nan=True):
            raise RuntimeError(
                f"piece {number} gave a loss of {float(pushed):.6g} when it was pushed, but {float(now):.6g} now:"
                " its reader must give the same piece again, and weights may not change before backward()"
            )
        _backward([loss, *(tensor for _, tensor in named_tensors(after))], [torch.ones_like(loss), *above])
        return [] if state is None else [tensor.grad for _, tensor in named_tensors(state)]

    def _device(self) -> torch.device:
        tensors = [] if self.state is None else [tensor for _, tensor in named_tensors(self.state)]
        return tensors[0].device if tensors else torch.device("cpu")


def _backward(tensors: list[Tensor], above: list[Tensor | None]) -> None:
    """Add to ``.grad`` what gradients from above say; for the tensors behind the last of these there are none."""
    pairs = [(t, g) for t, g in zip(tensors, above, strict=False) if g is not None and t.requires_grad]
    if pairs:
        torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
