"""Live inference: one step per call, for as long as it is called."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle import state as states
from treadle.engines import LiveStep
from treadle.errors import EngineError, ShapeError
from treadle.protocol import State, example_input, is_lazy
from treadle.running.copies import detached_copy
from treadle.running.snapshot import WEIGHTS, Snapshot, snapshot_of
from treadle.torch_internals import is_noted_down

_OWN = frozenset({"_live", "_fast", "_fast_needs", "_outside", "_answer", "_recurrent", "_initial", "_rows", "_form"})


class Session:
    """Runs a network live, one step per call, and keeps its state; made by `treadle.Recurrent.session`.

    A session has a copy of the network in evaluation mode (no dropout, no zoneout): training the network
    further does not change it, and `refresh` fetches the new weights. Sessions of a network that is still what it was,
    byte by byte, share that copy and its packed weights: another one takes under a millisecond for up to a million
    weights, and for more as long as it takes to read them twice from memory.

    What has no machine code in a step, such as a convolution, PyTorch computes, and the rest stays compiled: the log
    and ``treadle.explain(rnn).session`` name it.

    The step of a large network is split over as many threads as PyTorch has when the session is made or refreshed, and
    over fewer if PyTorch has fewer later. ``torch.set_num_threads(1)`` keeps it in the calling thread. Threads wait
    actively for the next step for some milliseconds, then sleep.

    Args:
        recurrent: the network over time, a `treadle.Recurrent`.
        batch_size: rows.
        weights: ``"float32"`` keeps the weights as they are. ``"bfloat16"`` rounds every matrix to bfloat16, and
            on CPUs that multiply these by their like alone (AVX-512 BF16) whatever products read. ``"int8"``
            rounds the matrices of products to int8, with a float32 factor for each output feature: a quarter of the
            bytes; tables of embeddings, biases and other vectors stay as they are. Products are accumulated in the
            precision of the input; of int8 exactly, where the CPU multiplies whole numbers (VNNI, Arm's dot products):
            rows then have 23 bits for their largest number. `treadle.rounding_error` says what rounding does to the
            outputs, ``treadle.explain`` of the session which matrices are kept so.

    Raises:
        ShapeError: ``batch_size`` is not a positive whole number.
        ValueError: other ``weights``; ``"int8"`` of a network that is not float32, or whose matrices are not finite.

    Example:
        >>> import numpy as np, treadle as td
        >>> rnn = td.Recurrent(td.LSTMCell(3, 5))
        >>> session = rnn.session()
        >>> for _ in range(4):
        ...     y = session.step(np.zeros(3, np.float32))   # NumPy in, NumPy out; tensors likewise
        >>> y.shape
        (5,)
        >>> session.reset()
    """

    def __init__(self, recurrent: Any, batch_size: int = 1, weights: str = "float32"):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ShapeError(f"a session runs one or more rows, but batch_size={batch_size!r} was passed")
        if weights not in [*WEIGHTS]:
            raise ValueError(f"weights are {', '.join(map(repr, WEIGHTS))}, but {weights!r} was passed")
        self.batch_size, self.weights = batch_size, weights
        self._source = recurrent
        self._answer: Tensor | None = None
        self._live: LiveStep | None = None
        self._state: State = None
        self.refresh()

    @torch.inference_mode(False)  # what is kept is written into later, outside of it, too
    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the network's present weights; the state stays."""
        # A drop-in makes its Recurrent around the weights that it has at the moment.
        self.snapshot = snapshot_of(states.over_time(self._source)).in_weights(self.weights)
        self._start(None if self._state is None else self.state)

    def _start(self, state: State) -> None:
        """Continue from a state, ``None`` for the initial one; compiled, if it is known what it reads."""
        snapshot = self.snapshot
        self._recurrent, self._dtype, self._device = snapshot.recurrent, snapshot.dtype, snapshot.device
        initial = snapshot.initial_state(self.batch_size)
        self._initial = initial if snapshot.starts_the_same else None
        x = example_input(self._recurrent.cell, self.batch_size)
        self._step_as(None, initial if state is None else state)
        if x is not None:
            self._compile(x)

    def _compile(self, x: Tensor) -> None:
        """Make the step for inputs of this form; continue from the present state."""
        if is_lazy(self._recurrent):
            own = detached_copy(self._recurrent)
            own.materialise(x)
            self.snapshot = Snapshot(own).in_weights(self.weights)
            self._recurrent = self.snapshot.recurrent
        state = self.state
        self._step_as(self.snapshot.live(x, state), state)
        self._form = x.shape[1:], x.dtype
        if self._live is None and self._recurrent is self.snapshot.recurrent:
            # A step in Python may leave something behind in the network: that is this session's.
            self._recurrent = detached_copy(self.snapshot.recurrent)

    def _step_as(self, live: LiveStep | None, state: State) -> None:
        """Step by that, or else in Python, from a state."""
        self._live, self._form = live, None
        self._outside = None if live is None else live.network.outside
        entry = None if live is None else live.entry()
        self._fast, self._fast_needs = entry or (_takes_nothing, None)
        self._rows: list[tuple[Any, Any]] | None = None
        if live is not None and self._initial is not None:
            memory, initial = live.named(), states.named_tensors(self._initial)
            self._rows = [(states.rows_of(memory[name]), states.rows_of(tensor)) for name, tensor in initial]
        self._keep(state)

    def __getstate__(self) -> dict[str, Any]:
        # The step is machine code and memory of this process and of this session: a copy makes its own. The network
        # that it is made from is never written into, so that copies may share it.
        return {name: value for name, value in vars(self).items() if name not in _OWN} | {"_state": self.state}

    @torch.inference_mode(False)
    @torch.no_grad()
    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept, _answer=None)
        self._start(kept["_state"])

    def __deepcopy__(self, memo: dict[int, Any]) -> "Session":
        memo[id(self.snapshot)] = self.snapshot
        if id(self._source) not in memo:
            memo[id(self._source)] = detached_copy(self._source, memo)
        memo[id(self)] = other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return other

    def _keep(self, state: State) -> None:
        """Continue from a state: a copy of it."""
        if self._live is None:
            self._state = states.map_state(Tensor.clone, state)
            return
        memory = self._live.named()
        for name, tensor in states.named_tensors(state):
            memory[name].copy_(tensor)
        self._state = states.rebuild(state, memory)

    @property
    def state(self) -> State:
        """The state after the last step, as a copy: keep it, save it, pass it to `load`."""
        return states.map_state(Tensor.clone, self._state)

    @torch.inference_mode(False)  # what is kept is written into later, outside of it, too
    @torch.no_grad()
    def load(self, state: State) -> None:
        """Continue from another state, such as the final state of a sequence; ``None`` is the initial state.

        Raises:
            StateError: it is of another network, batch, precision or device.
        """
        initial = self._initial_state()
        if state is not None:
            initial = states.check_state(states.detach(state), initial, self.batch_size, "this session")
        self._keep(initial)

    def _initial_state(self) -> State:
        return self.snapshot.initial_state(self.batch_size) if self._initial is None else self._initial

    def reset(self, rows: Any = None) -> None:
        """Reset rows to the initial state.

        Args:
            rows: which rows; ``None`` for all. A number, a list, or a boolean mask of ``batch_size``.

        Raises:
            StateError: a row that the session does not have.
        """
        if self._rows is None or not (rows is None or type(rows) is int):
            self._reset(rows)
        elif rows is None:
            for memory, initial in self._rows:
                memory[:] = initial
        elif -self.batch_size <= rows < self.batch_size:
            for memory, initial in self._rows:
                memory[rows] = initial[rows]
        else:
            self._reset(rows)

    @torch.inference_mode(False)  # what is kept is written into later, outside of it, too
    @torch.no_grad()
    def _reset(self, rows: Any) -> None:
        initial = self._initial_state()
        if rows is not None:
            mask = torch.zeros(self.batch_size, dtype=torch.bool, device="cpu")
            mask[states.select(torch.arange(self.batch_size, device="cpu"), rows)] = True
            initial = states.where(mask.to(self._device), initial, self._state)
        self._keep(initial)

    @property
    def batch_first(self) -> bool:
        """Whether `steps` takes [B, T, ...]; if not, [T, B, ...]."""
        return self._recurrent.batch_first

    def step(self, x: Any) -> Any:
        """One step.

        Args:
            x: [B, I], or [I] where there is one row; a NumPy array or a tensor; floats of any precision are converted
                to that of the weights.

        Returns:
            The output [B, H] ([H] if x was [I]) in kind. **The next call writes into the same memory:** copy what you
            keep.

        Raises:
            ShapeError: x does not fit.
        """
        if self._outside is not None and not self._outside():
            self._start(self.state)
        y = self._fast(x)  # straight into machine code, if x is a dense array of the right size and precision
        return y if y is not None else self._step(x)

    @torch.inference_mode(False)  # what is kept is written into later, outside of it, too
    @torch.no_grad()
    def _step(self, x: Any) -> Any:
        tensor, back = self._taken(x, 1)
        self._recurrent.check_input(tensor, 1, "step")
        self._know(tensor)
        if self._live is not None:
            return back(self._live.step(tensor))
        y, self._state = self._recurrent.cell(tensor, self._state)
        if self._answer is None or self._answer.shape != y.shape or self._answer.dtype != y.dtype:
            self._answer = torch.empty_like(y)
        return back(self._answer.copy_(y))

    @torch.inference_mode(False)  # what is kept is written into later, outside of it, too
    @torch.no_grad()
    def steps(self, xs: Any) -> Any:
        """A block of steps at once, with the same result as `step` one by one.

        Args:
            xs: [B, T, I] ([T, B, I] if the network is not ``batch_first``), or [T, I] where there is one row; a NumPy
                array or a tensor.

        Returns:
            The outputs, shaped likewise, in kind.

        Raises:
            ShapeError: xs does not fit.
        """
        if self._outside is not None and not self._outside():
            self._start(self.state)
        tensor, back = self._taken(xs, 2)
        self._recurrent.check_input(tensor, 2, "sequence")
        self._know(tensor.select(1 if self._recurrent.batch_first else 0, 0) if tensor.shape[:2].numel() else None)
        if self._live is not None:
            ys = self._live.steps(tensor.transpose(0, 1) if self._recurrent.batch_first else tensor)
            if ys is not None:
                return back(ys.transpose(0, 1) if self._recurrent.batch_first else ys)
        ys, state = self._recurrent(tensor, self._state)
        self._keep(state)
        return back(ys)

    def _know(self, x: Tensor | None) -> None:
        """Compile, where the cell does not say what it reads, for what it is given."""
        if x is not None and self._recurrent.input_size is None and self._form != (x.shape[1:], x.dtype):
            self._compile(x)

    def _taken(self, x: Any, leading: int) -> tuple[Tensor, Any]:
        """``x`` as a tensor with a batch axis, and the way back for the answer."""
        if is_noted_down(x):
            raise EngineError("a session has its state in itself, where no trace or export finds it: use rnn.step")
        numpy = not isinstance(x, Tensor)
        # A copy, because the state may hold the input (a delayed read of x) and callers fill the same array again; in
        # the precision of the weights, because NumPy makes float64 wherever it is not told otherwise.
        tensor = torch.from_numpy(np.array(x, order="C")) if numpy else x.clone()
        tensor = tensor.to(device=self._device, dtype=self._dtype if tensor.is_floating_point() else None)
        batch_axis = 0 if leading == 1 or self._recurrent.batch_first else 1
        features = self._recurrent.input_size
        axes = None if features is None else leading + (1 if isinstance(features, int) else len(features))
        bare = self.batch_size == 1 and tensor.ndim == (axes - 1 if axes else leading)
        tensor = tensor.unsqueeze(batch_axis) if bare else tensor
        if tensor.ndim > batch_axis and tensor.shape[batch_axis] != self.batch_size:
            raise ShapeError(
                f"this session has {self.batch_size} rows, but x is {states.shape(tensor)}: its axis {batch_axis} must"
                f" be {self.batch_size}; rnn.session(batch_size=...) makes another"
            )

        def back(y: Tensor) -> Any:
            y = y.squeeze(batch_axis) if bare else y
            return y.cpu().numpy() if numpy else y

        return tensor, back


def _takes_nothing(x: Any) -> None:
    """The place of the way into machine code, where there is none."""
