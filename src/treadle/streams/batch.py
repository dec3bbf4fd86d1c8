"""What windows are made of: consecutive steps of many streams, and where they come from."""

import dataclasses
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Batch:
    """Consecutive steps, one stream or several one behind the other in each row.

    ``rnn(batch.x, state, lengths=batch.lengths, resets=batch.resets)`` runs it.

    Attributes:
        x: [B, T, ...], what is read. Whole numbers are int64, as embeddings take them.
        y: [B, T, ...], what is to be given at each step.
        resets: [B, T], true where a stream begins: before that step the state is the initial one.
        lengths: [B], int64, how many steps of each row there are; behind them, x and y are zero. Below ``T`` only in
            rows that have run out of streams.
        ends: [B, T], true at the last step of a stream.
        positions: [B, T], int64, which step of its stream each is; -1 behind ``lengths``.
        stream_ids: for each row, the streams that it reads, in order: the first is that of step 0, a reset at a later
            step begins the next.
        after: where reading goes on after this batch: what `Windows.load_state_dict` takes.
    """

    x: Tensor
    y: Tensor
    resets: Tensor
    lengths: Tensor
    ends: Tensor
    positions: Tensor
    stream_ids: tuple[tuple[str, ...], ...]
    after: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def mask(self) -> Tensor:
        """[B, T], true at the steps that there are: ``loss(ys[batch.mask], batch.y[batch.mask])``."""
        return torch.arange(self.x.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same on another device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same in memory from which a GPU can fetch it by itself; a ``DataLoader(pin_memory=True)`` calls this."""
        return self._with(Tensor.pin_memory)

    def _with(self, move: Any) -> "Batch":
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Batch(**{name: move(part) if isinstance(part, Tensor) else part for name, part in parts.items()})
