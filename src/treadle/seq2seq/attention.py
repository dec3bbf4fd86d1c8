"""Looking back at what an encoder gave."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from treadle.cells.base import positive

_PACE = 10
"""By how much the numbers for places count. An optimiser moves all parameters at one pace, and a score of contents is
moved by hundreds of them at once: without this, places are learned so late that nothing is left to learn from them."""


class Attention(nn.Module):
    """Reads from a memory what a query asks for: the mean of its steps, weighted by how well each fits.

        dot         e(t, s) = q(t)·(W m(s)) / √Q
        additive    e(t, s) = v·tanh(W q(t) + U m(s))

        a(t, ·)     = softmax of e(t, ·) over the steps s of the row
        context(t)  = Σ_s a(t, s) m(s)

    With a ``reach`` R it also learns *where* to look, from the distance of places: e(t, s) gets ten times a number for
    t - s, and ten times one for t - (S - 1 - s), the distance when the memory is counted from its end; each is from a
    table of 2R + 1 numbers that start at 0, and distances beyond ±R count as ±R. What it learns so, such as to follow
    the input, or to read it backwards, can hold for sequences of any length.

    A row's memory ends where its length says; without any steps its context is zero.

    Args:
        query_size: ``Q``, features of a query.
        memory_size: ``M``, features of a step of the memory.
        score: ``"dot"`` or ``"additive"``.
        hidden_size: what the additive score compares in.
        reach: ``R``; 0 for content alone.

    Raises:
        ShapeError: a size that is not positive.
        ValueError: another score, or a reach below 0.

    Source: Luong, Pham and Manning, *Effective Approaches to Attention-based Neural Machine Translation*, 2015 (dot:
    there "general"); Bahdanau, Cho and Bengio, *Neural Machine Translation by Jointly Learning to Align and Translate*,
    2015 (additive); Shaw, Uszkoreit and Vaswani, *Self-Attention with Relative Position Representations*, 2018, for
    distances that are cut off.

    Example:
        >>> import torch, treadle as td
        >>> attention = td.Attention(4, 6)
        >>> context, weights = attention(torch.randn(2, 3, 4), torch.randn(2, 5, 6), torch.tensor([5, 2]))
        >>> context.shape, weights[1, 0, 2:].tolist()
        (torch.Size([2, 3, 6]), [0.0, 0.0, 0.0])
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        score: Literal["dot", "additive"] = "dot",
        hidden_size: int = 128,
        reach: int = 0,
    ):
        super().__init__()
        if score not in ("dot", "additive"):
            raise ValueError(f"attention scores by 'dot' or 'additive', but {score!r} was passed")
        if not isinstance(reach, int) or reach < 0:
            raise ValueError(f"reach is how far places are told apart, 0 or more steps, but {reach!r} was passed")
        self.query_size = positive("query_size", query_size)
        self.memory_size = positive("memory_size", memory_size)
        self.hidden_size = positive("hidden_size", hidden_size)
        self.score, self.reach = score, reach
        if score == "dot":
            self.key = nn.Linear(memory_size, query_size, bias=False)
        else:
            self.key = nn.Linear(memory_size, hidden_size)
            self.query = nn.Linear(query_size, hidden_size, bias=False)
            self.weigh = nn.Linear(hidden_size, 1, bias=False)
        if reach:
            self.from_start = nn.Parameter(torch.zeros(2 * reach + 1))
            self.from_end = nn.Parameter(torch.zeros(2 * reach + 1))

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        lengths: Tensor | None = None,
        first: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the queries find.

        Args:
            query: [B, U, Q].
            memory: [B, S, M].
            lengths: [B], steps of each row's memory; all S if None.
            first: [B], which step the first query is, for attention that knows places; 0 if None.
            keys: what `prepare` gave for the memory, if it is asked again and again.

        Returns:
            The context [B, U, M], and the weights [B, U, S], which add up to 1 over the memory of each row.
        """
        keys = self.prepare(memory) if keys is None else keys
        if self.score == "dot":
            scores = query @ keys.transpose(1, 2) / math.sqrt(self.query_size)
        else:
            scores = self.weigh((self.query(query)[:, :, None] + keys[:, None]).tanh())[..., 0]
        rows, steps = memory.shape[:2]
        place = torch.arange(steps, device=memory.device)
        whole = place.new_full((rows,), steps) if lengths is None else lengths
        if self.reach:
            now = torch.arange(query.shape[1], device=memory.device)[None]
            now = now if first is None else now + first[:, None]
            now = now[..., None]  # [B, U, 1], or [1, U, 1] where all rows are at the same step
            scores = scores + self._told(self.from_start, now - place)
            scores = scores + self._told(self.from_end, now - (whole[:, None, None] - 1 - place))
        outside = (place >= whole[:, None])[:, None]  # [B, 1, S]
        # Not with -inf: the softmax of a row without any memory would be NaN.
        weights = scores.masked_fill(outside, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(outside, 0)
        return weights @ memory, weights

    def prepare(self, memory: Tensor) -> Tensor:
        """What the memory is compared by, [B, S, …]: once for all queries."""
        return self.key(memory)

    def _told(self, table: Tensor, distance: Tensor) -> Tensor:
        return _PACE * table[distance.clamp(-self.reach, self.reach) + self.reach]
