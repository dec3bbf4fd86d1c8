"""minGRU over a whole sequence at once, in PyTorch: the scan in log space of its authors' appendix B.2."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import treadle as td


class LogSpaceScan(nn.Module):
    """The same function as `td.Recurrent(cell)`, from the initial state, with the cell's own parameters.

    h(t) = Σ_s z(s) h~(s) Π_{s<r<=t} (1 - z(r)), with sums of logarithms in place of products.
    """

    def __init__(self, cell: td.MinGRUCell):
        super().__init__()
        self.cell = cell

    def forward(self, xs: Tensor) -> tuple[Tensor, td.HiddenState]:
        """``xs`` [T, B, I] gives outputs [T, B, H] and the last state."""
        gate, candidate = F.linear(xs, self.cell.weight_ih, self.cell.bias_ih).chunk(2, 2)
        kept, read = -F.softplus(gate), -F.softplus(-gate)
        candidate = torch.where(candidate >= 0, (F.relu(candidate) + 0.5).log(), -F.softplus(-candidate))
        kept = kept.cumsum(0)
        ys = (kept + (read + candidate - kept).logcumsumexp(0)).exp()
        return ys, td.HiddenState(ys[-1])
