"""Autoregressive decoding: one step at a time, greedy, or by beam search."""

import copy
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from treadle import state as states
from treadle.errors import ShapeError, StateError
from treadle.running.copies import evaluated_copy
from treadle.running.made_last import MadeLast
from treadle.running.recurrent import Recurrent
from treadle.running.session import Session
from treadle.seq2seq.attention import Attention

_COPIES: MadeLast[Any] = MadeLast(lambda model, before: evaluated_copy(model), lambda copied: copied)
"""Of models as they were, in evaluation mode: what sessions run, and nobody writes into."""


class Decodes(Protocol):
    """What a session needs of a network; `treadle.EncoderDecoder` is one."""

    decoder: Recurrent
    head: Any
    attention: Attention | None

    @property
    def has_memory(self) -> bool:
        """Whether the head is a network over time."""
        ...

    def encode(self, source: Tensor, lengths: Any = None) -> Any:
        """Read sources."""
        ...

    def initial_state(self, encoded: Any) -> dict[str, Any]:
        """Where the decoder begins."""
        ...

    def checked_state(self, state: Any, encoded: Any) -> dict[str, Any]:
        """A state, if it fits; the initial one for None."""
        ...


class Hypotheses(NamedTuple):
    """Decoded sequences, one for each source."""

    tokens: list[Tensor]
    """The tokens, without start and end; as long as each is."""
    scores: Tensor
    """The logarithm of their probability [B], that of the end included where it was reached."""
    finished: Tensor
    """Whether the end was reached [B]."""


class DecodingSession:
    """Runs a decoder one step a call; made by `treadle.EncoderDecoder.session`.

    It has a copy of the network in evaluation mode. Decoder and head run in sessions of their own, as machine code
    where these can.

    Args:
        model: the network.
        batch_size: rows.
        copies: whether to copy the network; if not, it is in evaluation mode, and stays as it is until `refresh`.

    Raises:
        ShapeError: ``batch_size`` is not a positive whole number.

    Example:
        >>> import torch, treadle as td
        >>> model = td.EncoderDecoder(td.GRUCell(2, 5), td.GRUCell(3, 5), torch.nn.Linear(5, 3))
        >>> session = model.session()
        >>> session.start(torch.randn(1, 7, 2))
        >>> y = torch.zeros(1, 3)
        >>> for _ in range(4):
        ...     y = session.step(y)             # what it says is what it reads next
        >>> y.shape
        torch.Size([1, 3])
    """

    def __init__(self, model: Decodes, batch_size: int = 1, *, copies: bool = True):
        self.batch_size = batch_size
        module: Any = model
        self._model = _COPIES.of(module) if copies else module
        self._decoder: Session = self._model.decoder.session(batch_size)
        self._head = self._model.head.session(batch_size) if model.has_memory else self._model.head
        self._encoded: Any = None
        self._looked: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Whatever copies this, the sessions are copied with it.
        head = copy.copy(self._head) if isinstance(self._head, Session) else self._head
        return vars(self) | {"_decoder": copy.copy(self._decoder), "_head": head}

    def refresh(self) -> None:
        """Take over the weights that the network has now, where it is no copy."""
        for one in (self._decoder, self._head):
            if isinstance(one, Session):
                one.refresh()

    def forget(self) -> None:
        """Forget the sources."""
        self._encoded = self._looked = None

    @torch.no_grad()
    def start(self, source: Tensor, lengths: Any = None, repeats: int = 1) -> None:
        """Encode sources, and start decoding.

        Args:
            source: [B, S, …].
            lengths: [B] whole numbers from 0 to S.
            repeats: how many rows begin from each source, beside each other: ``batch_size`` is B times that.

        Raises:
            ShapeError: they do not fit.
        """
        if len(source) * repeats != self.batch_size:
            raise ShapeError(
                f"this session has {self.batch_size} rows, but there are {len(source)} sources"
                + (f", each {repeats} times" if repeats > 1 else "")
                + "; model.session(batch_size=...) makes another"
            )
        encoded = self._model.encode(source, lengths)
        if repeats > 1:
            encoded = states.map_state(
                lambda tensor: tensor.repeat_interleave(repeats, 0),
                encoded._replace(keys=encoded.lengths if encoded.keys is None else encoded.keys),
            )
            encoded = encoded._replace(keys=None if self._model.attention is None else encoded.keys)
        self._encoded = encoded
        self.load(self._model.initial_state(encoded))

    @property
    def state(self) -> dict[str, Any]:
        """The state after the last step, as a copy."""
        self._check_started()
        state = {"decoder": self._decoder.state}
        if self._looked is not None:
            state["attention"] = states.map_state(torch.clone, self._looked)
        return state | ({"head": self._head.state} if self._model.has_memory else {})

    def load(self, state: dict[str, Any]) -> None:
        """Continue from another state of the same sources.

        Raises:
            StateError: it is of another network or batch.
        """
        self._check_started()
        state = self._model.checked_state(state, self._encoded)
        self._decoder.load(state["decoder"])
        if self._model.has_memory:
            self._head.load(state["head"])
        looked = state.get("attention")
        self._looked = None if looked is None else states.map_state(torch.clone, looked)

    def select(self, rows: Tensor) -> None:
        """Continue from the states of other rows, of the same sources: [B] row numbers.

        Raises:
            StateError: a row that the session does not have.
        """
        self.load(states.select(self.state, rows))

    @torch.no_grad()
    def step(self, x: Tensor) -> Tensor:
        """One step.

        Args:
            x: [B, …], what the decoder reads.

        Returns:
            The output [B, K]. The next call may write into the same memory: copy what you keep.

        Raises:
            ShapeError: x does not fit.
            StateError: the session was not started.
        """
        self._check_started()
        y = self._decoder.step(x)
        if self._model.attention is not None:
            memory, lengths, _, keys = self._encoded
            context, _, self._looked = self._model.attention(y[:, None], memory, lengths, self._looked, keys=keys)
            y = torch.cat([y, context[:, 0]], 1)
        if self._model.has_memory:
            return self._head.step(y)
        return y if self._head is None else self._head(y)

    def _check_started(self) -> None:
        if self._encoded is None:
            raise StateError("the session has read no source yet: call start(source)")


def greedy(session: DecodingSession, source: Tensor, lengths: Any, start: int, end: int, steps: int) -> Hypotheses:
    """Greedy decoding: the most likely token at each step."""
    session.start(source, lengths)
    rows = session.batch_size
    token = torch.full((rows,), start, device=source.device)
    total = torch.zeros(rows, dtype=torch.float64, device=source.device)
    finished = torch.zeros(rows, dtype=torch.bool, device=source.device)
    said: list[Tensor] = []
    for _ in range(steps):
        scores = logarithms(session.step(token))
        best, token = scores.max(1)
        total += torch.where(finished, 0, best)
        token = torch.where(finished, end, token)
        said.append(token)
        finished = finished | (token == end)
        if finished.all():
            break
    return hypotheses(torch.stack(said, 1), total, finished, end)


def beam_search(
    session: DecodingSession, source: Tensor, lengths: Any, start: int, end: int, steps: int, beams: int
) -> Hypotheses:
    """Beam search: the ``beams`` most likely partial outputs of each source are kept at each step.

    A sequence that is finished stays among them with its probability, which no beginning can exceed later than now:
    so a source is done when its best is a finished one.
    """
    session.start(source, lengths, repeats=beams)
    rows = len(source)
    first = torch.arange(rows, device=source.device)[:, None] * beams  # [B, 1], the first row of each source
    token = torch.full((rows * beams,), start, device=source.device)
    total = torch.full((rows, beams), -torch.inf, dtype=torch.float64, device=source.device)
    total[:, 0] = 0  # all begin alike: only one of them counts
    finished = torch.zeros(rows, beams, dtype=torch.bool, device=source.device)
    said = torch.zeros(rows, beams, 0, dtype=torch.long, device=source.device)
    for _ in range(steps):
        scores = logarithms(session.step(token)).reshape(rows, beams, -1)
        only_end = torch.full_like(scores[0, 0], -torch.inf)
        only_end[end] = 0
        scores = torch.where(finished[..., None], only_end, scores)
        total, place = (total[..., None] + scores).flatten(1).topk(beams, 1)
        beam, chosen = place // scores.shape[2], place % scores.shape[2]
        said = torch.cat([said.gather(1, beam[..., None].expand(-1, -1, said.shape[2])), chosen[..., None]], 2)
        finished = finished.gather(1, beam) | (chosen == end)
        if finished[:, 0].all():
            break
        session.select((first + beam).flatten())
        token = chosen.flatten()
    return hypotheses(said[:, 0], total[:, 0], finished[:, 0], end)


def logarithms(scores: Tensor) -> Tensor:
    """The logarithms of the probabilities of tokens [B, K], from what the network gives."""
    if scores.ndim != 2:
        raise ShapeError(
            f"a network that generates tokens gives a score for each, [B, K], but this gives {list(scores.shape)}"
        )
    if not scores.isfinite().all():
        raise StateError("the network's scores are not finite: its training diverged; train it again")
    return scores.double().log_softmax(1).cpu()


def hypotheses(said: Tensor, total: Tensor, finished: Tensor, end: int) -> Hypotheses:
    """What was said in each row up to its end."""
    lengths = torch.where(finished, (said == end).int().argmax(1), said.shape[1])
    return Hypotheses([row[:length] for row, length in zip(said, lengths.tolist(), strict=True)], total, finished)
