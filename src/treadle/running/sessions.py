"""Live inference for many: a pool of sessions on one compiled step."""

import copy
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle import state as states
from treadle.engines import ArrayDoor, LivePool
from treadle.errors import EngineError, ShapeError, StateError
from treadle.protocol import State, example_input, is_lazy
from treadle.running.one_by_one import OneByOne
from treadle.running.session import Session
from treadle.running.snapshot import Snapshot
from treadle.torch_internals import is_noted_down

_OWN = frozenset(
    {"_lock", "_rows", "_memory", "_first", "_like", "_initial", "_recurrent", "_outside", "_form", "_door"}
)


class Sessions:
    """A pool of live sessions of one network, for many clients; made by `treadle.Recurrent.sessions`.

    Any of them step in one call, on one compiled step and one copy of the weights. Each gives the numbers of a
    `Session` alone, bit for bit, whatever steps beside it: a row is computed in the same order, however many there are,
    and what one client sends (NaN, say) reaches no other's state. Opening, closing and resetting take microseconds. A
    session takes the memory of its state, and about a hundred bytes.

    As a session does, the pool runs the network as it was when it was made, in evaluation mode; `refresh` fetches new
    weights. Several threads may call it; they wait for each other. A call that is refused changes no state.

    Where the network has no compiled step for many rows, rows are stepped one by one, which takes as long as so many
    sessions.

    Args:
        recurrent: the network over time, a `treadle.Recurrent`.
        capacity: for how many sessions there is memory to begin with. It doubles when it is used up.
        limit: how many may be open at most; ``None``: as many as memory allows.
        weights: as for a `Session`: ``"float32"``, ``"bfloat16"`` or ``"int8"``.

    Raises:
        ShapeError: ``capacity`` or ``limit`` is not a positive whole number, or the limit is below the capacity.
        ValueError: other ``weights``, see `Session`.

    Example:
        >>> import numpy as np, treadle as td
        >>> pool = td.Recurrent(td.GRUCell(3, 5)).sessions(capacity=8)
        >>> ada, ben = pool.open("ada"), pool.open()       # an id of your own, or a new number
        >>> ys = pool.step({"ada": np.ones(3), ben: np.zeros(3)})
        >>> ys = pool.step({"ada": np.ones(3)})            # whoever has something to say
        >>> ys["ada"].shape
        (5,)
        >>> pool.close(ben)
        >>> len(pool), "ada" in pool
        (1, True)
    """

    def __init__(self, recurrent: Any, capacity: int = 64, limit: int | None = None, weights: str = "float32"):
        for name, number in (("capacity", capacity), ("limit", limit)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ShapeError(f"a pool has room for one session or more, but {name}={number!r} was passed")
        if limit is not None and limit < capacity:
            raise ShapeError(f"limit={limit} sessions were passed for a pool that begins with capacity={capacity}")
        self.capacity, self.limit = capacity, limit
        self._slots: dict[Hashable, int] = {}
        self._open: set[int] = set()
        self._free = list(range(capacity - 1, -1, -1))
        self._number = 0
        self._lock = threading.Lock()
        self._set_up(Session(recurrent, 1, weights), {})

    @torch.inference_mode(False)  # what is kept is written into later, outside of it, too
    @torch.no_grad()
    def _set_up(self, session: Session, states_before: Mapping[str, Tensor]) -> None:
        """Step the network of a session; rows have the states that they had before."""
        self._session, snapshot = session, session.snapshot
        self._recurrent, self._like = snapshot.recurrent, snapshot.initial_state(1)
        self._initial = dict(states.named_tensors(self._like)) if snapshot.starts_the_same else None
        self._form: Any = None
        self._step_by(OneByOne(session, self.capacity), states_before)
        x = example_input(self._recurrent.cell, 1)
        if x is not None:
            self._compile(x)

    def _compile(self, x: Tensor) -> None:
        """Make the step for inputs like x [1, ...], if there is such."""
        self._form = x.shape[1:], x.dtype
        if not is_lazy(self._recurrent):
            found = self._session.snapshot.pool(x, self.capacity)
            self._step_by(found or OneByOne(self._session, self.capacity), self._rows.named())

    def _step_by(self, rows: LivePool | OneByOne, states_before: Mapping[str, Tensor]) -> None:
        memory = rows.named()
        for name, before in states_before.items():
            memory[name][: len(before)] = before
        self._rows, self._outside = rows, None
        self._door: ArrayDoor | None = None
        if not isinstance(rows, OneByOne):
            self._outside, self._door = rows.network.outside, rows.door(self._slots)
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        """Find the memory of states, which has moved."""
        self._memory = {name: states.rows_of(tensor) for name, tensor in self._rows.named().items()}
        initial = self._initial or {}
        self._first = [(self._memory[name], states.rows_of(row[0])) for name, row in initial.items()]

    def refresh(self) -> None:
        """Take over the network's present weights; the states stay."""
        with self._lock:
            self._session.refresh()
            self._set_up(self._session, self._rows.named())

    def __getstate__(self) -> dict[str, Any]:
        # A copy has sessions of its own, under the same ids.
        with self._lock:
            own = {name: copy.copy(value) for name, value in vars(self).items() if name not in _OWN}
            return own | {"states": states.map_state(Tensor.clone, self._rows.named())}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        before = kept.pop("states")
        vars(self).update(kept, _lock=threading.Lock())
        self._set_up(self._session, before)

    @property
    def snapshot(self) -> Snapshot:
        """The network as it was when the pool was made or refreshed."""
        return self._session.snapshot

    # Who is in it.

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, id: Hashable) -> bool:
        return id in self._slots

    def __iter__(self) -> Iterator[Hashable]:
        return iter([*self._slots])

    def open(self, id: Hashable = None) -> Any:
        """Begin a session, in the initial state.

        Args:
            id: whatever can be a key of a dict; ``None`` for a number that the pool chooses.

        Returns:
            The id.

        Raises:
            StateError: a session of this id is open already, or as many as the limit allows.
        """
        with self._lock:
            if id is None:
                id = self._number
                while id in self._slots:
                    id += 1
                self._number = id + 1
            elif id in self._slots:
                raise StateError(f"session {id!r} is open already: close it, or reset it to start it again")
            if not self._free:
                self._grow()
            slot = self._free[-1]
            self._begin(slot)
            self._slots[id] = slot
            self._open.add(slot)
            self._free.pop()
        return id

    def close(self, id: Hashable) -> None:
        """End a session; its memory is for the next one.

        Raises:
            StateError: there is no such session.
        """
        with self._lock:
            slot = self._slot(id)
            del self._slots[id]
            self._open.remove(slot)
            self._free.append(slot)

    def reset(self, id: Hashable) -> None:
        """Put a session back into the initial state.

        Raises:
            StateError: there is no such session.
        """
        with self._lock:
            self._begin(self._slot(id))

    def slot(self, id: Hashable) -> int:
        """The number of a session's row, for `step_rows`: the same until it is closed.

        Raises:
            StateError: there is no such session.
        """
        return self._slot(id)

    def _slot(self, id: Hashable) -> int:
        slot = self._slots.get(id)
        if slot is None:
            raise StateError(f"there is no session {id!r} in this pool of {len(self)}: open it first")
        return slot

    def _begin(self, slot: int) -> None:
        if self._initial is not None:
            for memory, row in self._first:
                memory[slot] = row
        else:
            self._put(slot, self._session.snapshot.initial_state(1))

    def _put(self, slot: int, state: State) -> None:
        for name, row in states.named_tensors(state):
            self._memory[name][slot] = states.rows_of(row.detach()[0])

    @torch.inference_mode(False)
    def _grow(self) -> None:
        before = self.capacity
        capacity = 2 * before if self.limit is None else min(2 * before, self.limit)
        if capacity == before:
            raise StateError(
                f"the pool is full: {before} sessions are open, as many as its limit allows: close some, or make it"
                " with a higher limit="
            )
        self._rows.grow(capacity)
        self._look_at_memory()
        self._free.extend(range(capacity - 1, before - 1, -1))
        self.capacity = capacity

    # States.

    def state(self, id: Hashable) -> State:
        """The state of a session after its last step, as a copy with one row, as that of a `Session`.

        Raises:
            StateError: there is no such session.
        """
        with self._lock:
            slot, memory = self._slot(id), self._rows.named()
            return states.rebuild(self._like, {name: rows[slot : slot + 1].clone() for name, rows in memory.items()})

    @torch.no_grad()
    def load(self, id: Hashable, state: State) -> None:
        """Let a session continue from another state, of one row; ``None`` is the initial one.

        Raises:
            StateError: there is no such session, or the state is of another network, batch, precision or device.
        """
        with self._lock:
            slot = self._slot(id)
            if state is None:
                self._begin(slot)
            else:
                self._put(slot, states.check_state(states.detach(state), self._like, 1, "a session of this pool"))

    # Steps.

    def step(self, xs: Mapping[Any, Any]) -> dict[Any, Any]:
        """One step of some of the sessions.

        Args:
            xs: for each id an input [I], a NumPy array or a tensor; floats of any precision are converted to that of
                the weights.

        Returns:
            For each id the output [H], in kind. It is the caller's: no later call writes into it.

        Raises:
            StateError: there is no such session.
            ShapeError: an input does not fit.
        """
        with self._lock:
            ys = None if self._door is None or not self._is_current() else self._door.by_id(xs)
            if ys is None:
                ys = self._answers(xs, 0, lambda slots, rows: self._step(slots, torch.stack(rows)))
            return ys

    def steps(self, xs: Mapping[Any, Any]) -> dict[Any, Any]:
        """A block of steps of some of the sessions, with the same result as `step` one by one.

        Args:
            xs: for each id its inputs [T, I], of any number of steps.

        Returns:
            For each id its outputs [T, H], in kind.

        Raises:
            StateError: there is no such session.
            ShapeError: an input does not fit.
        """
        with self._lock:
            return self._answers(xs, 1, self._steps)

    def step_rows(self, slots: Any, xs: Any) -> Any:
        """One step of some of the sessions, by the numbers of their rows: with the least work around the step.

        Args:
            slots: [n] whole numbers, each another one, see `slot`.
            xs: [n, I], a NumPy array or a tensor.

        Returns:
            The outputs [n, H], in kind; the caller's.

        Raises:
            StateError: a slot is not that of an open session, or there twice.
            ShapeError: ``xs`` does not fit.
        """
        with self._lock:
            door = self._door if self._outside is None or self._outside() else None
            if type(slots) is list and len(slots) == 1 and door is not None:
                (slot,) = slots
                if type(slot) is int and slot in self._open:
                    ys = door.by_one_slot(slot, xs)
                    if ys is not None:
                        return ys
            slots = self._checked_slots(slots)
            ys = None if door is None else door.by_slot(slots, xs)
            return self._step_rows(slots, xs) if ys is None else ys

    def steps_rows(self, slots: Any, xs: Any) -> Any:
        """A block of steps of some of the sessions, by the numbers of their rows, with the results of `step_rows`.

        Args:
            slots: [n] whole numbers, each another one, see `slot`.
            xs: [n, T, I], a NumPy array or a tensor; T is the same for all.

        Returns:
            The outputs [n, T, H], in kind; the caller's.

        Raises:
            StateError: a slot is not that of an open session, or there twice.
            ShapeError: ``xs`` does not fit.
        """
        with self._lock:
            slots = self._checked_slots(slots)
            ys = None if self._door is None or not self._is_current() else self._door.block_by_slot(slots, xs)
            return self._block_of_rows(slots, xs) if ys is None else ys

    def _checked_slots(self, slots: Any) -> np.ndarray:
        slots = np.asarray(slots)
        if slots.ndim != 1 or (slots.size and slots.dtype.kind not in "iu"):
            raise StateError(
                f"slots are whole numbers [n], but are {[*slots.shape]} of {slots.dtype}: see pool.slot(id)"
            )
        numbers = slots.tolist()
        others = set(numbers)
        if not others <= self._open:
            wrong = next(number for number in numbers if number not in self._open)
            raise StateError(f"slot {wrong} is not that of an open session: pool.slot(id) says which ones are")
        if len(others) != len(numbers):
            raise StateError("a slot is there twice: a session takes one step a call, or a block of them with steps()")
        return slots.astype(np.int64, copy=False)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _step_rows(self, slots: np.ndarray, xs: Any) -> Any:
        x = self._tensor(xs)
        if x.ndim < 1 or len(x) != len(slots):
            raise ShapeError(f"{len(slots)} slots were passed, but xs is {states.shape(x)}: pass a row for each")
        return _in_kind(self._step(slots, x), xs)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _block_of_rows(self, slots: np.ndarray, xs: Any) -> Any:
        x = self._tensor(xs)
        if x.ndim < 2 or len(x) != len(slots):
            raise ShapeError(f"{len(slots)} slots were passed, but xs is {states.shape(x)}: pass a block for each")
        for slot, row in zip(slots.tolist(), x, strict=True):
            self._check(slot, row, x[0], 1)
        return _in_kind(torch.stack(self._steps(slots, [*x])) if len(x) else x, xs)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _answers(self, xs: Mapping[Any, Any], leading: int, run: Callable[..., Iterable[Tensor]]) -> dict[Any, Any]:
        """What runs, on tensors with so many axes before those of a row; the answer for each id, in kind."""
        slots = np.array([self._slot(id) for id in xs], np.int64)
        tensors = [self._tensor(x) for x in xs.values()]
        for id, tensor in zip(xs, tensors, strict=True):
            self._check(id, tensor, tensors[0], leading)
        answers = run(slots, tensors) if tensors else ()
        return {id: _in_kind(y, x) for (id, x), y in zip(xs.items(), answers, strict=True)}

    def _tensor(self, x: Any) -> Tensor:
        if is_noted_down(x):
            raise EngineError("a pool has its states in itself, where no trace or export finds them: use rnn.step")
        tensor = x if isinstance(x, Tensor) else torch.from_numpy(np.array(x, order="C"))
        snapshot = self._session.snapshot
        return tensor.to(device=snapshot.device, dtype=snapshot.dtype if tensor.is_floating_point() else None)

    def _check(self, id: Hashable, x: Tensor, first: Tensor, leading: int) -> None:
        features = self._recurrent.input_size
        row = first.shape[leading:] if features is None else states.sizes(features)
        if x.ndim < leading or x.shape[leading:] != row:
            wanted = ", ".join([*["T"] * leading, *map(str, row)])
            raise ShapeError(
                f"x of session {id!r} is {states.shape(x)}, but each session of this pool takes [{wanted}]"
            )
        if x.dtype != first.dtype:
            raise ShapeError(
                f"x of session {id!r} is {x.dtype}, but others are {first.dtype}: pass one kind of numbers"
            )

    def _step(self, slots: np.ndarray, x: Tensor) -> Tensor:
        self._recurrent.check_input(x, 1, "step")
        self._know(x)
        return self._rows.step(slots, x)

    def _steps(self, slots: np.ndarray, xs: Sequence[Tensor]) -> list[Tensor]:
        self._know(xs[0])
        return self._rows.steps(slots, xs)

    def _know(self, x: Tensor) -> None:
        """Compile for inputs like these [n, ...], unless that was done and is current."""
        form = x.shape[1:], x.dtype
        is_other = self._recurrent.input_size is None and form != self._form
        if is_other or not self._is_current():
            self._compile(x.new_zeros(1, *x.shape[1:]))

    def _is_current(self) -> bool:
        """Whether what the step reads that belongs to no cell is as it was."""
        return self._outside is None or self._outside()


def _in_kind(y: Tensor, x: Any) -> Any:
    return y if isinstance(x, Tensor) else y.cpu().numpy()
