"""The recurrent network that is deep within one step."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.cells.base import RecurrentCell, empty, positive
from treadle.cells.rnn import HiddenState


class RecurrentHighwayCell(RecurrentCell):
    """Recurrent highway network with coupled gates: ``depth`` highway layers from one step to the next.

        s_0 = h
        n_k = tanh(W_n x [k = 1] + R_n,k s_{k-1} + b_n,k)       candidate of micro-step k = 1 … depth
        t_k = σ(W_t x [k = 1] + R_t,k s_{k-1} + b_t,k)          transform gate
        s_k = t_k n_k + (1 - t_k) s_{k-1}                       the rest is carried
        y = h' = s_depth

    Parameters: ``weight_ih`` [2H, I], ``weight_hh`` [depth, 2H, H], ``bias`` [depth, 2H], rows in the order n, t,
    uniform in ±1/√H; then the transform gate's bias is set.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.
        depth: micro-steps in a step.
        transform_bias: the transform gate's bias at the start; negative, so that at first most is carried.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size or the depth is not positive.

    Source: Zilly et al., *Recurrent Highway Networks*, 2017 (arXiv:1607.03474), equations 6 to 9.

    Example:
        >>> import torch, treadle as td
        >>> y, state = td.RecurrentHighwayCell(3, 5, depth=4)(torch.randn(2, 3))
        >>> y.shape
        torch.Size([2, 5])
    """

    State = HiddenState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        depth: int = 3,
        *,
        transform_bias: float = -2.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.depth, self.transform_bias = positive("depth", depth), transform_bias
        of = {"device": device, "dtype": dtype}
        self.weight_ih = empty(2 * hidden_size, input_size, **of)
        self.weight_hh = empty(depth, 2 * hidden_size, hidden_size, **of)
        self.bias = empty(depth, 2 * hidden_size, **of)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters again, then set the transform gate's bias."""
        super().reset_parameters()
        with torch.no_grad():
            self.bias[:, self.hidden_size :] = self.transform_bias

    def forward(self, x: Tensor, state: HiddenState | None = None) -> tuple[Tensor, HiddenState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        (s,) = self.checked(x, state)
        for k in range(self.depth):
            gates = F.linear(s, self.weight_hh[k], self.bias[k])
            n, t = (gates + F.linear(x, self.weight_ih) if k == 0 else gates).chunk(2, 1)
            transform, candidate = t.sigmoid(), n.tanh()
            s = s + transform * (candidate - s)
        return s, HiddenState(s)

    def extra_repr(self) -> str:
        """The sizes and the depth, for ``print``."""
        return f"{super().extra_repr()}, depth={self.depth}"
