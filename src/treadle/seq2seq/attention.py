"""Attention: looking back at the outputs of an encoder."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.cells.base import positive
from treadle.state import kept_in_files

_MOST = 5
"""The logarithm of the most looks that a step can have."""
_PACE = 10
"""By how much the numbers for places count. An optimiser moves all parameters at one pace, and a score of contents is
moved by hundreds of them at once: without this, places are learned so late that nothing is left to learn from them."""


@kept_in_files
class AttentionState(NamedTuple):
    """The state of attention."""

    steps: Tensor
    """Steps done [B]."""
    last: Tensor
    """The weights of the last step [B, S]; zeros before the first."""
    coverage: Tensor
    """The weights of all steps, added up [B, S]."""


class Attention(nn.Module):
    """Attention: for each query, a weighted mean over the steps of a memory.

        dot         e(t, s) = q(t)·(W m(s)) / √Q
        additive    e(t, s) = v·tanh(W q(t) + U m(s))

        a(t, ·)     = softmax of e(t, ·) over the steps s of the row
        context(t)  = Σ_s a(t, s) m(s)

    Further terms of the score generalise to sequences of any length, because no state has to count:

    - With ``priority``, a preference for steps whatever the query is: e(t, s) gets u·m(s).
    - With a ``reach`` R, *where* to look, from the distance of places: e(t, s) gets ten times a number for t - s, and
      ten times one for t - (S - 1 - s), the distance when the memory is counted from its end; each is from a table of
      2R + 1 numbers that start at 0, and distances beyond ±R count as ±R. So it can follow the input, or read it
      backwards.
    - With a ``window`` K, how far to move from where it *looked last*: e(t, s) gets ten times the mean, under the
      weights a(t - 1, ·), of a number for the distance to s, from a table of 2K + 1 numbers that start at 0; beyond
      there is none.

    With a ``fertility`` F, each step can be attended to only so often: F exp(f·m(s)) in all, which is F at the start of
    training. What was used is gone:

        left(t, s)  = F exp(f·m(s)) - a(0, s) - … - a(t - 1, s)
        a(t, s)     = the smaller one of left(t, s) and z(t) exp(e(t, s)), with the z(t) that makes them add up to 1

    or all that is left, if that is less than 1. A penalty on the score would have to outweigh every preference once a
    step is used up, and none before; a limit is exact. So rules such as "the smallest that is left" hold for any
    length.

    A row's memory ends where its length says; without any steps its context is zero.

    Args:
        query_size: ``Q``, features of a query.
        memory_size: ``M``, features of a step of the memory.
        score: ``"dot"`` or ``"additive"``.
        hidden_size: what the additive score compares in.
        priority: whether steps have one.
        reach: ``R``; 0 for none.
        window: ``K``; 0 for none.
        fertility: ``F``, how often each step can be attended to at the start of training; 0 for no limit.

    Raises:
        ShapeError: a size that is not positive.
        ValueError: another score, or a reach, window or fertility below 0.

    Source: Luong, Pham and Manning, *Effective Approaches to Attention-based Neural Machine Translation*, 2015 (dot:
    there "general"); Bahdanau, Cho and Bengio, *Neural Machine Translation by Jointly Learning to Align and Translate*,
    2015 (additive); Shaw, Uszkoreit and Vaswani, *Self-Attention with Relative Position Representations*, 2018, for
    distances that are cut off; Chorowski et al., *Attention-Based Models for Speech Recognition*, 2015, for the last
    weights; Martins and Kreutzer, *Learning What's Easy: Fully Differentiable Neural Easy-First Taggers*, 2017
    (constrained softmax), and Malaviya, Ferreira and Martins, *Sparse and Constrained Attention for Neural Machine
    Translation*, 2018, for fertility.

    Example:
        >>> import torch, treadle as td
        >>> attention = td.Attention(4, 6, window=1, fertility=1)
        >>> context, weights, state = attention(torch.randn(2, 3, 4), torch.randn(2, 5, 6), torch.tensor([5, 2]))
        >>> context.shape, weights[1, 0, 2:].tolist()
        (torch.Size([2, 3, 6]), [0.0, 0.0, 0.0])
        >>> torch.allclose(state.coverage, weights.sum(1))
        True
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        score: Literal["dot", "additive"] = "dot",
        hidden_size: int = 128,
        priority: bool = False,
        reach: int = 0,
        window: int = 0,
        fertility: float = 0.0,
    ):
        super().__init__()
        if score not in ("dot", "additive"):
            raise ValueError(f"attention scores by 'dot' or 'additive', but {score!r} was passed")
        for name, value in (("reach", reach), ("window", window)):
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is how far places are told apart, 0 or more steps, but {value!r} was passed")
        if not 0 <= fertility < math.inf:
            raise ValueError(f"fertility is how many looks there are of a step, 0 for any number, but is {fertility!r}")
        self.query_size = positive("query_size", query_size)
        self.memory_size = positive("memory_size", memory_size)
        self.hidden_size = positive("hidden_size", hidden_size)
        self.score, self.reach, self.window = score, reach, window
        self.priority, self.fertility = bool(priority), float(fertility)
        if score == "dot":
            self.key = nn.Linear(memory_size, query_size, bias=False)
        else:
            self.key = nn.Linear(memory_size, hidden_size)
            self.query = nn.Linear(query_size, hidden_size, bias=False)
            self.weigh = nn.Linear(hidden_size, 1, bias=False)
        if priority:
            self.prior = nn.Linear(memory_size, 1, bias=False)
        if reach:
            self.from_start = nn.Parameter(torch.zeros(2 * reach + 1))
            self.from_end = nn.Parameter(torch.zeros(2 * reach + 1))
        if window:
            self.from_last = nn.Parameter(torch.zeros(2 * window + 1))
        if fertility:
            self.fertile = nn.Linear(memory_size, 1, bias=False)
            nn.init.zeros_(self.fertile.weight)

    def initial_state(self, memory: Tensor) -> AttentionState:
        """The state before the first step."""
        rows, steps = memory.shape[:2]
        nowhere = memory.new_zeros(rows, steps)
        return AttentionState(torch.zeros(rows, dtype=torch.long, device=memory.device), nowhere, nowhere.clone())

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        lengths: Tensor | None = None,
        state: AttentionState | None = None,
        *,
        keys: Tensor | None = None,
        query_lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, AttentionState]:
        """The contexts of queries.

        Args:
            query: [B, U, Q].
            memory: [B, S, M].
            lengths: [B], steps of each row's memory; all S if None.
            state: what earlier queries of the same memory ended in; ``None`` begins.
            keys: the result of `prepare` for the memory, to reuse it for several calls.
            query_lengths: [B], steps of each row's queries; all U if None. Past its end a row's state stands still.

        Returns:
            The context [B, U, M], the weights [B, U, S], which add up to 1 over the memory of each row, and the state.
        """
        keys = self.prepare(memory) if keys is None else keys
        state = self.initial_state(memory) if state is None else state
        steps = query.shape[1]
        inside = torch.ones_like(state.last, dtype=torch.bool)
        if lengths is not None:
            inside = torch.arange(memory.shape[1], device=memory.device) < lengths[:, None]  # [B, S]
        scores = self._scores(query, memory, keys, inside.sum(1), state.steps)
        # Not with -inf: the softmax of a row without any memory would be NaN.
        scores = scores.masked_fill(~inside[:, None], torch.finfo(scores.dtype).min)
        asking = None
        if query_lengths is not None:
            asking = torch.arange(steps, device=memory.device) < query_lengths[:, None]  # [B, U]
        if self.window or self.fertility:
            weights, last, coverage = self._one_by_one(scores, memory, inside, asking, state)
        else:
            weights = scores.softmax(-1) * inside[:, None]
            asked = weights if asking is None else weights * asking[..., None]
            # The last one that was asked of all weights, with those from before in front.
            every = torch.cat([state.last[:, None], weights], 1)
            end = torch.full_like(state.steps, steps) if query_lengths is None else query_lengths
            last = every.gather(1, end[:, None, None].expand(-1, 1, every.shape[2]))[:, 0]
            coverage = state.coverage + asked.sum(1)
        after = AttentionState(state.steps + (steps if query_lengths is None else query_lengths), last, coverage)
        return weights @ memory, weights, after

    def prepare(self, memory: Tensor) -> Tensor:
        """The keys of a memory, [B, S, …], computed once for all queries."""
        return self.key(memory)

    def _scores(self, query: Tensor, memory: Tensor, keys: Tensor, lengths: Tensor, first: Tensor) -> Tensor:
        """[B, U, S]: all that does not depend on where it looked before."""
        if self.score == "dot":
            scores = query @ keys.transpose(1, 2) / math.sqrt(self.query_size)
        else:
            scores = self.weigh((self.query(query)[:, :, None] + keys[:, None]).tanh())[..., 0]
        if self.priority:
            scores = scores + self.prior(memory).transpose(1, 2)
        if self.reach:
            place = torch.arange(memory.shape[1], device=memory.device)
            now = (torch.arange(query.shape[1], device=memory.device) + first[:, None])[..., None]  # [B, U, 1]
            scores = scores + self._told(self.from_start, now - place)
            scores = scores + self._told(self.from_end, now - (lengths[:, None, None] - 1 - place))
        return scores

    def _told(self, table: Tensor, distance: Tensor) -> Tensor:
        return _PACE * table[distance.clamp(-self.reach, self.reach) + self.reach]

    def _one_by_one(
        self, scores: Tensor, memory: Tensor, inside: Tensor, asking: Tensor | None, state: AttentionState
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The weights of every step, each of which depends on those before, and the last of them and their sum."""
        every, last, coverage = [], state.last, state.coverage
        most = None
        if self.fertility:
            most = self.fertility * self.fertile(memory)[..., 0].clamp(-_MOST, _MOST).exp() * inside
        for t, score in enumerate(scores.unbind(1) if scores.shape[2] else ()):
            if self.window:
                near = F.pad(last, (self.window, self.window)).unfold(1, 2 * self.window + 1, 1)  # [B, S, 2K + 1]
                score = score + _PACE * (near @ self.from_last.flip(0))
            if most is None:
                weights = score.softmax(-1) * inside
            else:
                weights = capped_softmax(score, (most - coverage).clamp(min=0))
            every.append(weights)
            last = weights if asking is None else torch.where(asking[:, t, None], weights, last)
            coverage = coverage + (weights if asking is None else weights * asking[:, t, None])
        return torch.stack(every, 1) if every else torch.zeros_like(scores), last, coverage


def capped_softmax(scores: Tensor, most: Tensor) -> Tensor:
    """Weights [B, S] that add up to 1, in proportion to exp(score), but each at most ``most``; if that is less than 1
    in all, just ``most``.

    Where r = log(most) - score is least, the limit is reached first. So in the order of r: those whose limit is less
    than their share of what those before them leave, reach it; all from the first one on that does not, share the rest.
    """
    tiny = torch.finfo(scores.dtype).tiny
    ratio = (most.detach().clamp(min=tiny).log() - scores.detach()).masked_fill(most <= 0, -torch.inf)
    order = ratio.argsort(-1)
    ratio, scores, most = (tensor.gather(-1, order) for tensor in (ratio, scores, most))
    rest = (1 - (most.cumsum(-1) - most)).clamp(min=tiny)  # what those before leave
    factor = rest.log() - scores.flip(-1).logcumsumexp(-1).flip(-1)  # log z, if those before and no others are capped
    free = (ratio > factor).cumsum(-1) > 0
    first = free & (free.cumsum(-1) == 1)
    chosen = torch.where(first, factor, 0).sum(-1, keepdim=True)
    # Not beyond 0, as the exponential of those that are not free might overflow, and its gradient would be NaN.
    weights = torch.where(free, (scores + chosen).clamp(max=0).exp(), most)
    return torch.zeros_like(weights).scatter(-1, order, weights)
