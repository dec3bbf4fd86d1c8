"""The long short-term memory."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.activations import Activation, check_activation, function_of
from treadle.cells.base import RecurrentCell, empty
from treadle.errors import ShapeError
from treadle.state import kept_in_files


@kept_in_files
class LSTMState(NamedTuple):
    """The state of an LSTM."""

    h: Tensor
    """Hidden state [B, H] (or [B, P] with a projection): the output, which the next step reads as well."""
    c: Tensor
    """Cell state [B, H]: the long-term memory, which the gates write and read."""


class LSTMCell(RecurrentCell):
    """Long short-term memory, as `torch.nn.LSTM` defines it.

        i = σ(W_ii x + b_ii + W_hi h + b_hi)        input gate
        f = σ(W_if x + b_if + W_hf h + b_hf)        forget gate
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)     candidate
        o = σ(W_io x + b_io + W_ho h + b_ho)        output gate
        c' = f c + i g
        h' = o tanh(c')                             times W_hr, if projected
        y  = h'

    Parameters: ``weight_ih`` [4H, I], ``weight_hh`` [4H, H], ``bias_ih`` and ``bias_hh`` [4H], rows in the order
    i, f, g, o; with a projection to P features also ``weight_hr`` [P, H], and ``weight_hh`` is [4H, P]. All start
    uniform in ±1/√H, drawn in the order in which `torch.nn.LSTMCell` draws them.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the cell state.
        bias: whether there are biases.
        forget_bias: initial bias of the forget gate, the sum of its two biases; ``None`` leaves them random as in
            PyTorch. With 1.0, gradients reach further back from the start (Gers et al. 2000; Jozefowicz et al. 2015).
        proj_size: ``P``, features of the hidden state where it is a projection (Sak et al. 2014); 0 for none.
        activation: what stands for both tanh: the name of a function (see `treadle.cells.ACTIVATIONS`), a module, or a
            function of a tensor.
        gate_activation: likewise, what stands for σ. Keras calls it ``recurrent_activation``.
        output_activation: what stands for the tanh of c', where it is not ``activation``, too.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive, a projection that is not smaller than ``hidden_size``, or a
            ``forget_bias`` without biases.
        ValueError: there is no activation of that name.

    Source: Hochreiter & Schmidhuber, *Long Short-Term Memory*, 1997; forget gate: Gers, Schmidhuber & Cummins, 2000.

    Example:
        >>> import torch, treadle as td
        >>> cell = td.LSTMCell(3, 5)
        >>> y, state = cell(torch.randn(2, 3))
        >>> y.shape, state.c.shape
        (torch.Size([2, 5]), torch.Size([2, 5]))
    """

    State = LSTMState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        forget_bias: float | None = None,
        proj_size: int = 0,
        activation: Activation = "tanh",
        gate_activation: Activation = "sigmoid",
        output_activation: Activation | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        if not 0 <= proj_size < hidden_size:
            raise ShapeError(f"proj_size must be 0 or smaller than hidden_size ({hidden_size}), but is {proj_size}")
        if forget_bias is not None and not bias:
            raise ShapeError("forget_bias sets the start of a bias, but bias=False: leave one of them out")
        check_activation("activation", activation, hidden_size)
        check_activation("gate_activation", gate_activation, hidden_size)
        if output_activation is not None:
            check_activation("output_activation", output_activation, hidden_size)
        self.bias, self.forget_bias, self.proj_size = bias, forget_bias, proj_size
        self.activation, self.gate_activation, self.output_activation = activation, gate_activation, output_activation
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(4 * hidden_size, input_size, **of)
        self.weight_hh = empty(4 * hidden_size, proj_size or hidden_size, **of)
        self.bias_ih = empty(4 * hidden_size, **of) if bias else None
        self.bias_hh = empty(4 * hidden_size, **of) if bias else None
        if proj_size:
            self.weight_hr = empty(proj_size, hidden_size, **of)
        self.reset_parameters()

    @property
    def output_size(self) -> int:
        """P with a projection, else H."""
        return self.proj_size or self.hidden_size

    def state_shape(self, field: str) -> tuple[int, ...]:
        """The hidden state has the size of the output."""
        return (self.output_size if field == "h" else self.hidden_size,)

    def reset_parameters(self) -> None:
        """Draw all parameters again; then set the forget-gate bias, if one was asked for."""
        super().reset_parameters()
        if self.bias_ih is not None and self.bias_hh is not None and self.forget_bias is not None:
            forget = slice(self.hidden_size, 2 * self.hidden_size)
            with torch.no_grad():
                self.bias_ih[forget] = self.forget_bias
                self.bias_hh[forget] = 0

    def forward(self, x: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        h, c = self.checked(x, state)
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, 1)
        bend, bend_gate = function_of(self.activation), function_of(self.gate_activation)
        input_gate, forget, candidate, output_gate = bend_gate(i), bend_gate(f), bend(g), bend_gate(o)
        c = forget * c + input_gate * candidate
        bend_output = bend if self.output_activation is None else function_of(self.output_activation)
        h = output_gate * bend_output(c)
        if self.proj_size:
            h = F.linear(h, self.weight_hr)
        return h, LSTMState(h, c)
