"""The closed-form continuous-time network."""

from typing import Any

import torch
from torch import Tensor, nn

from treadle.cells.base import RecurrentCell, positive
from treadle.cells.rnn import HiddenState
from treadle.errors import ShapeError

MODES = ("gated", "ungated", "solution")
"""How a `CfCCell` makes its next state."""


class LeCunTanh(nn.Module):
    """1.7159 tanh(2/3 x), whose variance is that of its input where the input is normalised.

    Source: LeCun et al., *Efficient BackProp*, 1998, section 4.4.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The function of each number."""
        # 0.666, and not 2/3, is what the authors of CfC have in their program (ncps): weights from there mean the same.
        return 1.7159 * torch.tanh(0.666 * x)


class CfCCell(RecurrentCell):
    """Closed-form continuous-time cell (CfC): a liquid network's state after any time, without a solver of equations.

        s  = backbone([x, h])       layers of units with LeCun's tanh
        u  = tanh(W_u s + b_u)
        v  = tanh(W_v s + b_v)
        g  = σ((W_a s + b_a) t + W_b s + b_b)       t: time since the previous step
        h' = (1 - g) u + g v        "gated"; "ungated": u + g v
        y  = h'

    With ``mode="solution"``, h' = A - A u exp(-t (|w_τ| + |u|)), without tanh around u: the closed form itself.

    Parameters: ``backbone``, a `torch.nn.Sequential` of `torch.nn.Linear` and LeCun's tanh; ``to_u``, ``to_v``,
    ``to_slope``, ``to_shift`` (for "solution": ``to_u``, ``time_constant`` [H] and ``amplitude`` [H]), which start as
    `torch.nn.Linear` does; ``time_constant`` starts as zeros, ``amplitude`` as ones.

    Args:
        input_size: ``I``, features of the input; with ``timed``, the time is one of them.
        hidden_size: ``H``, features of the hidden state.
        backbone_size: units of a layer of the backbone.
        backbone_layers: layers of the backbone; with 0 there is none.
        mode: "gated", "ungated" or "solution".
        timed: whether the last feature of ``x`` is the time since the previous step, in a unit of your choice. If
            False, that time is 1. Where a timed cell lies above others, its ``reads`` must end with the time; a graph
            can say so: ``reads=[low, time]``.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ShapeError: a size that is not positive, or a timed cell whose input is the time alone.
        ValueError: another mode.

    Source: Hasani et al., *Closed-form continuous-time neural networks*, Nature Machine Intelligence, 2022
    (arXiv:2106.13898), equations 8 to 10.

    Example:
        >>> import torch, treadle as td
        >>> values, elapsed = torch.randn(2, 7, 3), torch.rand(2, 7, 1)
        >>> rnn = td.Recurrent(td.CfCCell(4, 5, timed=True))
        >>> ys, state = rnn(torch.cat([values, elapsed], 2))
        >>> ys.shape
        torch.Size([2, 7, 5])
    """

    State = HiddenState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        backbone_size: int = 128,
        backbone_layers: int = 1,
        mode: str = "gated",
        timed: bool = False,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(map(repr, MODES))}, but {mode!r:.60} was passed")
        if timed and input_size == 1:
            raise ShapeError("a timed CfCCell reads features and the time, so input_size must be 2 or more, but is 1")
        self.backbone_size = positive("backbone_size", backbone_size)
        self.backbone_layers = positive("backbone_layers", backbone_layers) if backbone_layers != 0 else 0
        self.mode, self.timed = mode, timed
        of = {"device": device, "dtype": dtype}
        size, layers = input_size - timed + hidden_size, list[nn.Module]()
        for _ in range(backbone_layers):
            layers += [nn.Linear(size, backbone_size, **of), LeCunTanh()]
            size = backbone_size
        self.backbone = nn.Sequential(*layers)
        self.to_u = nn.Linear(size, hidden_size, **of)
        if mode == "solution":
            self.time_constant = nn.Parameter(torch.zeros(hidden_size, **of))
            self.amplitude = nn.Parameter(torch.ones(hidden_size, **of))
        else:
            self.to_v, self.to_slope, self.to_shift = (nn.Linear(size, hidden_size, **of) for _ in range(3))

    def reset_parameters(self) -> None:
        """Draw all parameters again."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        if self.mode == "solution":
            nn.init.zeros_(self.time_constant)
            nn.init.ones_(self.amplitude)

    def forward(self, x: Tensor, state: HiddenState | None = None) -> tuple[Tensor, HiddenState]:
        """One step: ``x`` [B, I] and the state give ``y`` [B, H] and the next state."""
        (h,) = self.checked(x, state)
        elapsed = x[:, -1:] if self.timed else 1.0
        features = x[:, :-1] if self.timed else x
        s = self.backbone(torch.cat([features, h], 1))
        u = self.to_u(s)
        if self.mode == "solution":
            decay = torch.exp(-elapsed * (self.time_constant.abs() + u.abs()))
            h = self.amplitude - self.amplitude * decay * u
        else:
            u, v = u.tanh(), self.to_v(s).tanh()
            gate = torch.sigmoid(self.to_slope(s) * elapsed + self.to_shift(s))
            h = u + gate * v if self.mode == "ungated" else (1 - gate) * u + gate * v
        return h, HiddenState(h)
