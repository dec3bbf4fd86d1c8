"""The keeper of states: the state of each stream is carried from window to window."""

from typing import Any, NamedTuple

import torch

from treadle import state as states
from treadle.errors import StateError
from treadle.protocol import State
from treadle.streams.batch import Batch


class _Kept(NamedTuple):
    """States side by side, and whose they are: row n belongs to stream ``ids[n]``, whose step ``positions[n]`` is next.
    An id of ``None`` marks a row that belongs to nobody."""

    ids: list[str | None]
    positions: list[int]
    state: State


class StateKeeper:
    """Carries the state of every stream from one window to the next, by the stream's id.

    Before a batch, it gives the state from which each row continues; after it, it takes the final state, detached:
    gradients end at the beginning of a window. The state of a stream that has ended is dropped. Where one stream
    follows another within a window, the batch's ``resets`` do the work.

    This is what a stateful layer is in other libraries, for streams of any length in any row.

    It finds states by stream, not by row: batches may have other rows in another order, and streams may pause for
    some batches.

    Args:
        rnn: the network that the states belong to: a drop-in such as `treadle.LSTM`, whose states are its own ``hx``; a
            `treadle.Recurrent`, or another module with ``initial_state(batch_size)``.
        device: where states are kept; by default, on the device that they came from. They are handed out on the
            device of the batch.

    Raises:
        TypeError: ``rnn`` does not say its initial state.
        ValueError: it is bidirectional, so that it has no state to carry.

    Example:
        >>> import torch, treadle as td
        >>> streams = [td.streams.Array(torch.randn(n, 3), id=f"sensor {n}") for n in (50, 31, 44)]
        >>> rnn = td.Recurrent(td.GRUCell(3, 3))
        >>> keeper = td.streams.StateKeeper(rnn)
        >>> for batch in td.streams.Windows(streams, rows=2, steps=16):
        ...     state = keeper.before(batch)
        ...     ys, state = rnn(batch.x, state, lengths=batch.lengths, resets=batch.resets)
        ...     keeper.after(batch, state)
        >>> keeper.stream_ids  # all have ended
        []
    """

    def __init__(self, rnn: Any, device: torch.device | str | None = None):
        self.rnn, self.device = rnn, device
        if not callable(getattr(states.over_time(self.rnn), "initial_state", None)):
            raise TypeError(f"a {type(rnn).__name__} has no initial_state(batch_size), from which states start")
        self._kept = _Kept([], [], None)

    @property
    def stream_ids(self) -> list[str]:
        """The streams whose states are kept."""
        return [name for name in self._kept.ids if name is not None]

    def clear(self) -> None:
        """Forget all states, as before reading from the beginning."""
        self._kept = _Kept([], [], None)

    @torch.no_grad()
    def before(self, batch: Batch) -> State:
        """The state from which the batch continues.

        Args:
            batch: the next one. Rows that begin with a reset, or have no steps, need no state.

        Returns:
            The state of each row, detached, on the device of ``batch.x``; ``None``, the initial state, where no row
            continues an earlier batch.

        Raises:
            StateError: a stream continues at another step than where its last batch ended, or its state is not kept.
        """
        places = self._places(batch)
        kept = self._kept.state
        if all(place is None for place in places):
            return None
        rows = len(places)
        if len(self._kept.ids) == rows and all(place in (None, row) for row, place in enumerate(places)):
            state = kept  # the usual case; what is in a row that needs none does not matter
        else:
            spare = states.map_state(
                lambda initial, held: initial.to(held), states.over_time(self.rnn).initial_state(1), kept
            )
            kept = states.map_state(lambda held, one: torch.cat([held, one]), kept, spare)
            state = states.select(kept, [len(self._kept.ids) if place is None else place for place in places])
        state = states.map_state(lambda tensor: tensor.to(batch.x.device, copy=True), state)
        return states.as_given(self.rnn, state)

    @torch.no_grad()
    def after(self, batch: Batch, state: State) -> None:
        """Keep the states after a batch.

        Args:
            batch: the one that was run from what `before` gave.
            state: the state that the network returned.

        Raises:
            StateError: it is of another network, or has other rows than the batch.
        """
        rows = len(batch.stream_ids)
        steps, rnn = batch.x.transpose(0, 1), states.over_time(self.rnn)
        state = states.by_name(self.rnn, state)
        state = states.check_state(state, states.initial_state(rnn, steps[0]), rows, type(self.rnn).__name__)
        used = {place for place in self._places(batch) if place is not None}
        here = {name for row in batch.stream_ids for name in row}
        waiting = {place for place, name in enumerate(self._kept.ids) if name is not None and name not in here}
        paused = sorted(waiting - used)
        last = (batch.lengths - 1).clamp(min=0)[:, None]
        over, positions = (part.gather(1, last)[:, 0].tolist() for part in (batch.ends, batch.positions))
        gone = [not length or end for length, end in zip(batch.lengths.tolist(), over, strict=True)]
        ids: list[str | None] = [None if gone[row] else batch.stream_ids[row][-1] for row in range(rows)]
        state = self._away(states.kept(state))
        if paused:
            others = states.select(self._kept.state, paused)
            state = states.map_state(lambda new, old: torch.cat([new, old.to(new.device)]), state, others)
        self._kept = _Kept(
            ids + [self._kept.ids[place] for place in paused],
            [position + 1 for position in positions] + [self._kept.positions[place] for place in paused],
            state,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that is kept: ``stream_ids`` and ``positions``, lists for JSON, and ``state``, tensors by name."""
        kept = self._kept
        tensors = dict(states.named_tensors(states.kept(kept.state))) if kept.ids else {}
        return {"stream_ids": list(kept.ids), "positions": list(kept.positions), "state": tensors}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` gave.

        Raises:
            StateError: these are states of another network.
        """
        if not isinstance(state, dict) or state.keys() != {"stream_ids", "positions", "state"}:
            raise StateError("this is not a state of a keeper: pass what its state_dict() gave")
        ids = list(state["stream_ids"])
        if not ids:
            self.clear()
            return
        like = states.over_time(self.rnn).initial_state(len(ids))
        kept = states.kept(states.belonging(like, state["state"], f"this {type(self.rnn).__name__}"))
        self._kept = _Kept(ids, list(state["positions"]), self._away(kept))

    def _away(self, state: State) -> State:
        """Where states wait."""
        return state if self.device is None else states.map_state(lambda tensor: tensor.to(self.device), state)

    def _places(self, batch: Batch) -> list[int | None]:
        """For each row of a batch, the place of the state that it goes on from; ``None`` where it needs none."""
        firsts, resets, lengths = (part.tolist() for part in (batch.positions[:, 0], batch.resets[:, 0], batch.lengths))
        ids, positions = self._kept.ids, self._kept.positions
        found: list[int | None] = []
        where: dict[tuple[str | None, int], int] | None = None
        for row, (first, reset, length) in enumerate(zip(firsts, resets, lengths, strict=True)):
            if reset or not length:
                found.append(None)
                continue
            name = batch.stream_ids[row][0]
            if row < len(ids) and ids[row] == name and positions[row] == first:
                found.append(row)
                continue
            if where is None:
                where = {key: place for place, key in enumerate(zip(ids, positions, strict=True))}
            place = where.get((name, first))
            if place is None:
                self._refuse(name, first, row)
            found.append(place)
        return found

    def _refuse(self, name: str, first: int, row: int) -> None:
        held = [position for other, position in zip(self._kept.ids, self._kept.positions, strict=True) if other == name]
        if not held:
            raise StateError(
                f"row {row} continues stream {name!r} at step {first}, but no state of that stream is kept: load the"
                " keeper's state_dict together with that of the windows, or begin the stream with a reset"
            )
        way = "went back" if first < held[0] else "left steps out"
        raise StateError(
            f"stream {name!r} {way}: its state is that before step {held[0]}, but row {row} continues with step"
            f" {first}: pass batches in their order, or clear() the keeper and begin with a reset"
        )
