"""Cells that treadle has never heard of, so that nothing in it can be made for them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import treadle as td


class PReLUGRUCell(td.GRUCell):
    """A GRU whose candidate is bent by a learned slope instead of tanh.

        r, z = σ(W_i x + b_i + W_h h + b_h)
        n    = PReLU(W_in x + b_in + r (W_hn h + b_hn))
        h'   = (1 - z) n + z h

    The candidate's bias starts at 2 for every other unit and at -2 for the rest: both slopes are in use, but hardly any
    unit comes so near to the kink that rounding decides its gradient, where float32 has no right answer.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.slope = nn.Parameter(torch.full((hidden_size,), 0.25))
        with torch.no_grad():
            self.bias_ih[2 * hidden_size :] = 2
            self.bias_ih[2 * hidden_size + 1 :: 2] = -2

    def forward(self, x: Tensor, state: td.HiddenState | None = None) -> tuple[Tensor, td.HiddenState]:
        (h,) = self.checked(x, state)
        r_x, z_x, n_x = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, 1)
        r_h, z_h, n_h = F.linear(h, self.weight_hh, self.bias_hh).chunk(3, 1)
        r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
        n = F.prelu(n_x + r * n_h, self.slope)
        h = n + z * (h - n)
        return h, td.HiddenState(h)


class TracedState(NamedTuple):
    h: Tensor
    trace: Tensor


class MultiplicativeCell(nn.Module):
    """Input and state meet by multiplication (Wu et al. 2016, arXiv:1606.06630); a gate forgets to a slow trace.

        a_z, a_n = LayerNorm(α W x · U h + β U h + γ W x + b)       over all 2 H numbers of a row
        g  = softplus(a_z),  z = g / (1 + g)
        n  = PReLU(a_n)                                             a slope for each unit
        s' = s + k (h - s),  k = σ(κ)                               κ: a learned time constant for each unit
        h' = s' + z (n - s')

    As in `PReLUGRUCell`, biases of 2 and -2 keep the candidate from the kink.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, hidden_size
        bound, wide = hidden_size**-0.5, 2 * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(wide, input_size).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(wide, hidden_size).uniform_(-bound, bound))
        self.both = nn.Parameter(torch.ones(wide))
        self.of_state, self.of_input = (nn.Parameter(torch.full((wide,), 0.5)) for _ in range(2))
        self.norm = nn.LayerNorm(wide)
        self.slope = nn.Parameter(torch.full((hidden_size,), 0.25))
        self.keep = nn.Parameter(torch.full((hidden_size,), -2.0))
        with torch.no_grad():
            self.norm.weight.fill_(0.3)
            self.norm.bias[hidden_size:] = 2
            self.norm.bias[hidden_size + 1 :: 2] = -2

    def initial_state(self, batch_size: int) -> TracedState:
        return TracedState(*(self.keep.new_zeros(batch_size, self.hidden_size) for _ in range(2)))

    def forward(self, x: Tensor, state: TracedState) -> tuple[Tensor, TracedState]:
        h, trace = state
        of_x, of_h = F.linear(x, self.weight_ih), F.linear(h, self.weight_hh)
        gate, value = self.norm(self.both * of_x * of_h + self.of_state * of_h + self.of_input * of_x).chunk(2, 1)
        gate = F.softplus(gate)
        trace = trace + self.keep.sigmoid() * (h - trace)
        h = trace + gate / (1 + gate) * (F.prelu(value, self.slope) - trace)
        return h, TracedState(h, trace)


class SievingState(NamedTuple):
    h: Tensor


class SievingCell(nn.Module):
    """Attends to its own units, and reads what it attended to: the second product needs the result of the first.

    s  = softmax(W_s x + U_s h + b_s)       over the H units of a row
    a  = W_n x + U_n (H s h) + b_n
    n  = a σ(β a)                           β: a learned slope for each unit
    h' = σ(k) h + (1 - σ(k)) n              k: a learned time constant for each unit
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, hidden_size
        self.read_sieve = nn.Linear(input_size, hidden_size)
        self.read_value = nn.Linear(input_size, hidden_size)
        self.hidden_sieve = nn.Linear(hidden_size, hidden_size, bias=False)
        self.hidden_value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.slope = nn.Parameter(torch.ones(hidden_size))
        self.keep = nn.Parameter(torch.zeros(hidden_size))

    def initial_state(self, batch_size: int) -> SievingState:
        return SievingState(self.keep.new_zeros(batch_size, self.hidden_size))

    def forward(self, x: Tensor, state: SievingState) -> tuple[Tensor, SievingState]:
        (h,) = state
        sieve = (self.read_sieve(x) + self.hidden_sieve(h)).softmax(1)
        value = self.read_value(x) + self.hidden_value(self.hidden_size * sieve * h)
        keep = self.keep.sigmoid()
        h = keep * h + (1 - keep) * value * (self.slope * value).sigmoid()
        return h, SievingState(h)
