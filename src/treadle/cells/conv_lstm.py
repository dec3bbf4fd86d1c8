"""The LSTM whose products are convolutions."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from treadle.cells.base import RecurrentCell, positive
from treadle.errors import ShapeError
from treadle.state import kept_in_files


@kept_in_files
class ConvLSTMState(NamedTuple):
    """The state of a convolutional LSTM."""

    h: Tensor
    """Hidden state [B, H, height, width]."""
    c: Tensor
    """Cell state [B, H, height, width]."""


class ConvLSTMCell(RecurrentCell):
    """Convolutional LSTM: an LSTM at every pixel that sees its neighbourhood. For video, radar, weather.

        i, f, g, o = σ, σ, tanh, σ of (W_ih * x + W_hh * h + b)     * is a convolution that keeps the image's size
        c' = f c + i g
        h' = o tanh(c')
        y  = h'

    Without the paper's peephole weights, as most later work has it.

    Parameters: ``from_input``, a `torch.nn.Conv2d` from I to 4H channels with bias, and ``from_hidden``, from H to 4H
    without, channels in the order i, f, g, o, both initialised as PyTorch initialises convolutions.

    Args:
        input_channels: ``I``, channels of the input.
        hidden_channels: ``H``, channels of the hidden and the cell state.
        image_size: (height, width) of the images, which the initial state has.
        kernel_size: odd edge of the square kernels.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive, or an even ``kernel_size``.

    Source: Shi et al., *Convolutional LSTM Network*, 2015 (arXiv:1506.04214), equation 3.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.Recurrent(td.ConvLSTMCell(1, 4, image_size=(8, 9)))
        >>> ys, state = rnn(torch.randn(2, 5, 1, 8, 9))           # [B, T, channels, height, width]
        >>> ys.shape
        torch.Size([2, 5, 4, 8, 9])
    """

    State = ConvLSTMState

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        image_size: tuple[int, int],
        kernel_size: int = 3,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(positive("input_channels", input_channels), positive("hidden_channels", hidden_channels))
        height, width = image_size
        self.image_size = (positive("image height", height), positive("image width", width))
        self.input_channels, self.hidden_channels = input_channels, hidden_channels
        self.input_size: Any = (input_channels, height, width)
        self.kernel_size = positive("kernel_size", kernel_size)
        if kernel_size % 2 == 0:
            raise ShapeError(f"kernel_size must be odd, so that images keep their size, but is {kernel_size}")
        of = {"padding": kernel_size // 2, "device": device, "dtype": dtype}
        self.from_input = nn.Conv2d(input_channels, 4 * hidden_channels, kernel_size, **of)
        self.from_hidden = nn.Conv2d(hidden_channels, 4 * hidden_channels, kernel_size, bias=False, **of)

    @property
    def output_size(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.hidden_size, *self.image_size)

    def state_shape(self, field: str) -> tuple[int, ...]:
        """Both states are images."""
        return self.output_size

    def forward(self, x: Tensor, state: ConvLSTMState | None = None) -> tuple[Tensor, ConvLSTMState]:
        """One step: ``x`` [B, I, height, width] and the state give ``y`` [B, H, height, width] and the next state."""
        h, c = self.checked(x, state)
        i, f, g, o = (self.from_input(x) + self.from_hidden(h)).chunk(4, 1)
        input_gate, forget, candidate, output_gate = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = forget * c + input_gate * candidate
        h = output_gate * c.tanh()
        return h, ConvLSTMState(h, c)

    def extra_repr(self) -> str:
        """The sizes, for ``print``."""
        sizes = f"{self.input_channels}, {self.hidden_channels}"
        return f"{sizes}, image_size={self.image_size}, kernel_size={self.kernel_size}"
