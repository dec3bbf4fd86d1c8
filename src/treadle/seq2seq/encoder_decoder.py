"""Encoder and decoder: sequence to sequence."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from treadle import state as states
from treadle.errors import ShapeError
from treadle.protocol import State
from treadle.running.bidirectional import Bidirectional
from treadle.running.reversed import OverTime, over_time
from treadle.running.taken_steps import without_holes
from treadle.seq2seq.attention import Attention
from treadle.seq2seq.bridge import Bridge
from treadle.seq2seq.decoding import DecodingSession, Hypotheses, beam_search, greedy
from treadle.seq2seq.kept_sessions import session_for
from treadle.state import kept_in_files
from treadle.wiring.sizes import is_cell


@kept_in_files
class Encoded(NamedTuple):
    """An encoded batch of sequences."""

    memory: Tensor
    """Its outputs [B, S, M]."""
    lengths: Tensor
    """Steps of each row [B]."""
    state: State
    """What the decoder begins from."""
    keys: Tensor | None
    """What the memory is compared by, if there is attention."""


class EncoderDecoder(nn.Module):
    """Encoder and decoder: the decoder starts from the encoder's final state.

        memory, end = encoder(source)
        state(0)    = bridge(end)
        y(t), state = decoder(target(t), state)
        context(t)  = attention(y(t), memory)                   if there is attention
        out(t)      = head([y(t), context(t)])                  if there is a head

    The encoder's final state, of every layer and of both directions, becomes the decoder's initial state through a
    `treadle.seq2seq.Bridge`. The decoder reads no context. So, with teacher forcing, it runs over a whole target
    at once, compiled, and all contexts are computed after it. A head with memory, such as another layer, then runs over
    all of them at once.

    The networks read what their cells read: features, or tokens where a graph begins with an `Embedding`. Between
    networks of equal layers the bridge copies the state and has no parameters.

    Args:
        encoder: a cell, a `treadle.Recurrent`, a `treadle.Bidirectional` or a `treadle.Reversed`.
        decoder: a cell or a `treadle.Recurrent`.
        head: a module without memory that reads the decoder's output and the context, concatenated; or a cell, which
            starts from its own initial state.
        attention: ``"dot"``, ``"additive"``, or a `treadle.Attention`.
        bridge: a module of yours that takes the list of final states, one for each direction, and the decoder's own
            initial state, and gives the one to begin from.

    Raises:
        TypeError: a part is nothing of that kind.
        ShapeError: sizes do not fit, or a network wants time first.
        StateError: the encoder has no state to hand over.

    Source: Sutskever, Vinyals and Le, *Sequence to Sequence Learning with Neural Networks*, 2014; the attention is
    Luong, Pham and Manning's (2015), without input feeding; a head with memory on it is as the upper layers of Wu et
    al., *Google's Neural Machine Translation System*, 2016.

    Example:
        >>> import torch, treadle as td
        >>> def reads_tokens(tokens, hidden_size):
        ...     g = td.Graph(())
        ...     embedded = g.add("embedded", torch.nn.Embedding(tokens, 8), reads=g.x)
        ...     return g.outputs(g.add("layers", td.LSTMCell(8, hidden_size), reads=embedded))
        >>> encoder = td.Bidirectional(reads_tokens(10, 16), reads_tokens(10, 16))
        >>> model = td.EncoderDecoder(encoder, reads_tokens(12, 16), torch.nn.Linear(16 + 32, 12), attention="dot")
        >>> source, target = torch.randint(10, (4, 9)), torch.randint(12, (4, 6))
        >>> scores, state = model(source, target, [9, 3, 0, 5], [6, 2, 4, 0])
        >>> scores.shape
        torch.Size([4, 6, 12])
        >>> model.generate(source, start=0, end=1, steps=20, beams=4).tokens[0].ndim
        1
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        head: nn.Module | None = None,
        *,
        attention: str | Attention | None = None,
        bridge: nn.Module | None = None,
    ):
        super().__init__()
        self.encoder, self.decoder = over_time(encoder, "the encoder"), over_time(decoder, "the decoder")
        if isinstance(self.decoder, OverTime):
            raise TypeError("a decoder goes forward only, as what comes after is not known yet: pass a cell")
        if head is not None and not isinstance(head, nn.Module):
            raise TypeError(f"head is a module or a cell, but is a {type(head).__name__}")
        self.head: Any = over_time(head, "the head") if head is not None and is_cell(head) else head
        if isinstance(self.head, OverTime):
            raise TypeError("a head goes forward only, as the decoder does: pass a cell")
        if isinstance(attention, str):
            sizes = {"the decoder": self.decoder.output_size, "the encoder": self.encoder.output_size}
            for role, size in sizes.items():
                if not isinstance(size, int):
                    raise ShapeError(
                        f"attention compares features, but {role} gives rows of {size or 'unknown size'}: give its cell"
                        " an output_size, or pass a td.Attention"
                    )
            attention = Attention(*sizes.values(), score=attention)  # pyright: ignore[reportArgumentType]
        self.attention: Any = attention
        self.bridge: Any = bridge or Bridge(
            self._directions(self.encoder.initial_state(1)), self.decoder.initial_state(1)
        )

    @property
    def has_memory(self) -> bool:
        """Whether the head has a state of its own."""
        return self.head is not None and is_cell(self.head)

    def _directions(self, state: State) -> list[State]:
        return list(state.values()) if isinstance(self.encoder, Bidirectional) else [state]

    def encode(self, source: Tensor, lengths: Any = None, resets: Tensor | None = None, mask: Any = None) -> Encoded:
        """Run the encoder.

        Args:
            source: [B, S, …], what the encoder reads.
            lengths: [B] whole numbers from 0 to S; all S if None.
            resets: [B, S] booleans, where the encoder starts from its initial state again.
            mask: [B, S] booleans: where false, the step is left out, wherever in a row; the memory is that of the
                sources without these steps.

        Raises:
            ShapeError: they do not fit.
        """
        source, lengths, resets = without_holes(source, lengths, resets, mask)
        memory, end = self.encoder(source, lengths=lengths, resets=resets)
        rows, steps = source.shape[:2]
        lengths = torch.full((rows,), steps, device=memory.device) if lengths is None else lengths
        state = self.bridge(self._directions(end), self.decoder.initial_state(rows))
        keys = None if self.attention is None else self.attention.prepare(memory)
        return Encoded(memory, lengths.to(memory.device), state, keys)

    def initial_state(self, encoded: Encoded) -> dict[str, State]:
        """The state before the first step: that of the bridge for the decoder, and those of attention and head."""
        state = {"decoder": encoded.state}
        if self.attention is not None:
            state["attention"] = self.attention.initial_state(encoded.memory)
        if self.has_memory:
            state["head"] = self.head.initial_state(encoded.lengths.shape[0])
        return state

    def decode(
        self,
        target: Tensor,
        encoded: Encoded,
        state: Any = None,
        lengths: Any = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Run the decoder, over a whole target or a part of one.

        Args:
            target: [B, U, …], what the decoder reads: usually a start symbol and then the true outputs, each one step
                late (teacher forcing).
            encoded: what `encode` gave.
            state: what an earlier part ended in; ``None`` begins.
            lengths: [B] whole numbers from 0 to U; all U if None.
            resets: [B, U] booleans: where true, decoder and head start from their own initial states, without the
                encoder's. Attention keeps its state. Training with random resets teaches a network not to count in
                its state, which would not generalise to longer sequences.

        Returns:
            ``ys, state``: outputs [B, U, K], zero past a row's end, and the state after each row's last step.

        Raises:
            ShapeError: they do not fit.
            StateError: the state is of another network or batch.
        """
        state = self.checked_state(state, encoded)
        ys, end = self.decoder(target, state["decoder"], lengths=lengths, resets=resets)
        lengths = self.decoder.checked_lengths(lengths, target.transpose(0, 1))
        after = {"decoder": end}
        if self.attention is not None:
            context, _, after["attention"] = self.attention(
                ys, encoded.memory, encoded.lengths, state["attention"], keys=encoded.keys, query_lengths=lengths
            )
            ys = torch.cat([ys, context], -1)
        if self.has_memory:
            ys, after["head"] = self.head(ys, state["head"], lengths=lengths, resets=resets)
        elif self.head is not None:
            ys = self.head(ys)
        if lengths is not None and not self.has_memory and (self.head is not None or self.attention is not None):
            inside = torch.arange(ys.shape[1], device=ys.device) < lengths[:, None]
            ys = torch.where(inside.reshape(*inside.shape, *[1] * (ys.ndim - 2)), ys, 0)
        return ys, after

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_lengths: Any = None,
        target_lengths: Any = None,
        source_resets: Tensor | None = None,
        target_resets: Tensor | None = None,
        source_mask: Any = None,
    ) -> tuple[Tensor, Any]:
        """Encode a source and decode a target: `encode`, then `decode`.

        Args:
            source: [B, S, …].
            target: [B, U, …], what the decoder reads.
            source_lengths: [B] whole numbers from 0 to S.
            target_lengths: [B] whole numbers from 0 to U.
            source_resets: [B, S] booleans: see `encode`.
            target_resets: [B, U] booleans: see `decode`.
            source_mask: [B, S] booleans: see `encode`.

        Returns:
            ``ys, state``: outputs [B, U, K], and the state after each row's last step.

        Raises:
            ShapeError: they do not fit, or there are not as many targets as sources.
        """
        if source.shape[0] != target.shape[0]:
            raise ShapeError(f"there are {len(source)} sources, but {len(target)} targets: pass one for each")
        encoded = self.encode(source, source_lengths, source_resets, source_mask)
        return self.decode(target, encoded, lengths=target_lengths, resets=target_resets)

    def checked_state(self, state: Any, encoded: Encoded) -> Any:
        """A state of these sources, if it fits; the initial one for None.

        Raises:
            StateError: it is of another network or batch.
        """
        initial = self.initial_state(encoded)
        if state is None:
            return initial
        return states.check_state(state, initial, encoded.lengths.shape[0], "EncoderDecoder")

    def session(self, batch_size: int = 1) -> DecodingSession:
        """Run the decoder live, one step a call: see `treadle.seq2seq.DecodingSession`.

        Args:
            batch_size: rows.
        """
        return DecodingSession(self, batch_size)

    def generate(
        self,
        source: Tensor,
        lengths: Any = None,
        *,
        start: int,
        end: int,
        steps: int,
        beams: int = 1,
        mask: Any = None,
    ) -> Hypotheses:
        """Generate outputs for sources, greedily or by beam search: each token is the next step's input.

        The decoder reads tokens, and the network gives a score (logit) for each. It runs in evaluation mode. What is
        compiled and packed is kept for later calls, with a copy of the weights of models of up to 256 MB; weights that
        have changed since are noticed.

        Args:
            source: [B, S, …].
            lengths: [B] whole numbers from 0 to S.
            start: the token that it reads first.
            end: the token that ends a sequence.
            steps: how many tokens there may be, the end included.
            beams: beam width; 1 is greedy decoding.
            mask: [B, S] booleans: see `encode`.

        Raises:
            ShapeError: sizes do not fit; no steps, or no beams.
            StateError: the scores are not finite.
        """
        for name, value in (("steps", steps), ("beams", beams)):
            if not isinstance(value, int) or value < 1:
                raise ShapeError(f"{name} is a positive whole number, but {value!r} was passed")
        if not len(source):
            return Hypotheses([], source.new_zeros(0, dtype=torch.float64), source.new_zeros(0, dtype=torch.bool))
        source, lengths, _ = without_holes(source, lengths, None, mask)
        with session_for(self, len(source) * beams) as session:
            if beams == 1:
                return greedy(session, source, lengths, start, end, steps)
            return beam_search(session, source, lengths, start, end, steps, beams)

    def constructor_arguments(self) -> dict[str, Any]:
        """For model files. A bridge that was made here is made again."""
        own = None if type(self.bridge) is Bridge else self.bridge
        parts = {"encoder": self.encoder, "decoder": self.decoder, "head": self.head, "attention": self.attention}
        return parts | {"bridge": own}
