"""Time, applied from outside: a cell over a whole sequence, or one step."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from treadle import state as states
from treadle.engines import Call, autocast_dtype, candidates
from treadle.errors import EngineError, InputError, ShapeError, StateError
from treadle.gradients import FullBPTT, GradientMethod
from treadle.protocol import State, cell_in_place_of, example_input, first_weight, is_lazy, materialise
from treadle.running import plain_operators, sequence_operator
from treadle.running.repeats import KnownCall, Repeats
from treadle.running.session import Session
from treadle.running.sessions import Sessions
from treadle.running.taken_steps import checked_lengths, checked_resets, taken_steps
from treadle.torch_internals import is_compiled, is_exported, jit_is_tracing


class Recurrent(nn.Module):
    """Runs a cell over time: over whole sequences when called, one step with `step`, live with `session`.

    All three are the same function: a sequence passed whole, in chunks (each chunk's final state is the next one's
    initial state) or step by step gives the same outputs, states and gradients, to rounding.

    `torch.compile` takes it for one operator, which runs here. `torch.export`, and so `torch.onnx.export`, writes the
    cell's own operators and a loop over time, for sequences of any length and for processes without treadle; only
    programs that give states need it imported, for the names of these. Their gradient is the full one.

    Args:
        cell: any `treadle.Cell`: a cell, a `treadle.Stack`, a `treadle.Graph`, a module of your own.
        batch_first: whether sequences are [B, T, ...]; if not, [T, B, ...].
        gradient: how gradients go back in time: ``td.FullBPTT()``, ``td.TruncatedBPTT(steps, horizon)`` or
            ``td.CheckpointedBPTT(memory)``.
        engine: what runs the steps. ``"auto"`` compiles the cell to machine code where that can be done, and says once
            why it could not. ``"cpu"`` does so or raises, as does ``"gpu"`` (experimental) on CUDA devices;
            ``"interpreter"`` runs the same program in PyTorch; ``"reference"`` runs the cell's own Python. See
            `treadle.explain`. Under ``torch.autocast(..., dtype=torch.bfloat16)`` the first three multiply in bfloat16
            and add in float32; all that they give stays in the precision of the weights.
        learn_initial_state: whether the initial state is a parameter, one row for all sequences, starting at the
            cell's own.

    Raises:
        TypeError: ``cell`` is not a cell.
        EngineError: there is no such engine; when it runs, the engine that was asked for by name cannot.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.LSTMCell(5, 5)]))
        >>> xs = torch.randn(2, 7, 3)
        >>> ys, state = rnn(xs)                             # whole
        >>> first, middle = rnn(xs[:, :4])                  # in chunks
        >>> second, end = rnn(xs[:, 4:], middle)
        >>> torch.allclose(ys, torch.cat([first, second], 1), atol=1e-6)
        True
        >>> y, state = rnn.step(torch.randn(2, 3), state)   # one step more
        >>> y.shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        cell: Any,
        batch_first: bool = True,
        gradient: Any = None,
        engine: str = "auto",
        learn_initial_state: bool = False,
    ):
        super().__init__()
        if not isinstance(cell, nn.Module) or not callable(getattr(cell, "initial_state", None)):
            better = cell_in_place_of(cell)
            raise TypeError(
                "Recurrent takes a cell, a torch.nn.Module with forward(x, state) and initial_state(batch_size),"
                f" but was given a {type(cell).__name__}{better and f': pass {better}'}"
            )
        gradient = checked_gradient(gradient)
        candidates(engine)
        self.cell: Any = cell
        self.batch_first, self.gradient, self.engine = batch_first, gradient, engine
        self.learn_initial_state = learn_initial_state
        self.handle, self._repeats = sequence_operator.number(self), Repeats()
        self._is_lazy = is_lazy(cell)
        if learn_initial_state:
            rows = states.named_tensors(self.cell.initial_state(1))
            # A parameter's name may not have a dot, so "layer0.delayed/0" becomes "layer0|delayed/0".
            self.initial = nn.ParameterDict(
                {name.replace(".", "|"): nn.Parameter(row[0].clone()) for name, row in rows if row.is_floating_point()}
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.handle, self._repeats = sequence_operator.number(self), Repeats()  # a copy is another network

    @property
    def input_size(self) -> Any:
        """Features of x, where the cell says so."""
        return getattr(self.cell, "input_size", None)

    @property
    def output_size(self) -> Any:
        """Features of y, where the cell says so."""
        return getattr(self.cell, "output_size", None)

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step: the cell's own, or the learned one. Gradients flow into the latter."""
        state = self.cell.initial_state(batch_size)
        if not self.learn_initial_state:
            return state
        learned = {name.replace("|", "."): row.expand(batch_size, *row.shape) for name, row in self.initial.items()}
        return states.rebuild(state, dict(states.named_tensors(state)) | learned)

    def forward(
        self,
        xs: Tensor,
        state: State = None,
        lengths: Any = None,
        resets: Tensor | None = None,
        return_states: bool = False,
        mask: Any = None,
    ) -> Any:
        """Run over a sequence.

        Args:
            xs: [B, T, I] ([T, B, I] without ``batch_first``); with other axes than I if the cell takes them.
            state: the state before the first step; ``None`` for the initial one.
            lengths: [B] whole numbers from 0 to T, on any device, in any order: past its end a row's state stands still
                and its outputs are zero. What is in ``xs`` there does not matter.
            resets: [B, T] booleans, whatever ``batch_first`` is: where true, the row starts from the initial state
                before it reads that step, and no gradient crosses.
            return_states: whether to return the states after every step as well.
            mask: [B, T] booleans, whatever ``batch_first`` is: where false, the step is not taken. The row's state
                stands still and its output is zero there, what is in ``xs`` does not matter, and a reset does nothing.
                A row with holes gives what it gives without these steps, gradients included (for truncated BPTT they
                count); ``lengths`` is the mask whose holes are at the end. `treadle.repeat_last` repeats outputs in
                holes, as Keras does.

        Returns:
            ``ys, state``: outputs [B, T, H] (or [T, B, H]), and the state after the last step of each row.
            With ``return_states`` a third value, of the structure of the state, every tensor with time like ``ys``.
            Gradients flow through all of them.

        Raises:
            ShapeError: ``xs``, ``lengths``, ``resets`` or ``mask`` do not fit.
            StateError: ``state`` is of another network, batch, precision or device.
        """
        if isinstance(xs, torch.fx.Proxy):
            given = {"lengths": lengths, "resets": resets, "return_states": return_states, "mask": mask}
            return as_one_operation(self, xs, state, **given)
        if jit_is_tracing():
            refuse_torchscript(f"{self._name()} over a sequence")
        exported = is_exported(xs)
        if not exported and is_compiled(xs):
            return sequence_operator.run(self, xs, state, lengths, resets, return_states, mask)
        initial = None
        is_plain = not exported and type(xs) is Tensor
        is_plain = is_plain and lengths is None and resets is None and mask is None and not return_states
        if is_plain:
            known = self._repeats.find(self, xs)
            if known is not None:
                again, initial = self._repeated(known, xs, state)
                if again is not None:
                    return again
        call = self.call(xs, state, lengths, resets, return_states, mask, initial)
        if is_plain:
            self._repeats.learn(self, xs, call)
        steps, initial = call.xs.shape[0], call.initial
        if steps:
            ys, state, every = plain_operators.run(call) if exported else self.gradient.run(call)
        else:
            y, _ = states.check_results(self.cell, self.cell(call.xs.new_zeros(call.xs.shape[1:]), initial))
            ys, state = y.new_zeros(0, *y.shape), states.map_state(Tensor.clone, call.state)
            every = states.map_state(lambda t: t.new_zeros(0, *t.shape), state) if return_states else None
        if self.batch_first:
            ys = ys.transpose(0, 1)
            every = states.map_state(lambda t: t.transpose(0, 1), every) if return_states else None
        return (ys, state, every) if return_states else (ys, state)

    def _again(
        self, xs: Tensor, state: State, groups: tuple[tuple[int, ...], ...]
    ) -> tuple[Tensor, list[Tensor]] | None:
        """What `forward` gives, by a call like one before, for a network around this one; None if it is no such call.

        Args:
            xs: as `forward` takes it.
            state: likewise.
            groups: which tensors of the state after the last step are given back as one, [L, B, ...].
        """
        hooks = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
        if type(xs) is not Tensor or hooks or is_compiled(xs):
            return None
        known = self._repeats.find(self, xs)
        # An initial state that somebody else's code makes is asked for once.
        return self._repeated(known, xs, state, groups)[0] if known is not None and known.starts_at_zero() else None

    def _repeated(
        self, known: KnownCall, xs: Tensor, state: State, groups: tuple[tuple[int, ...], ...] = ()
    ) -> tuple[Any, State]:
        """What `forward` gives, by a call like this one, or None; and the initial state, if it had to be asked for."""
        xs, initial = xs.transpose(0, 1) if self.batch_first else xs, None
        zeros = known.starts_at_zero()
        if not zeros:  # what somebody else's code says is asked for in each call, as it always is
            initial = self._initial_state(xs)
        again = known.run(xs, (known.zeros if zeros else initial) if state is None else state, groups)
        if again is not None and self.batch_first:
            again = again[0].transpose(0, 1), again[1]
        return again, initial

    def call(
        self,
        xs: Tensor,
        state: State = None,
        lengths: Any = None,
        resets: Tensor | None = None,
        return_states: bool = False,
        mask: Any = None,
        initial: State = None,
    ) -> Call:
        """What `forward` asks of an engine, with time in front, once the arguments are known to fit.

        The ``initial`` state is asked of the network if it was not yet.
        """
        self.check_input(xs, 2, "sequence")
        xs = xs.transpose(0, 1) if self.batch_first else xs
        steps, rows = xs.shape[:2]
        if self._is_lazy and steps:
            self.materialise(xs[0])
        initial = self._initial_state(xs) if initial is None else initial
        state = initial if state is None else self._checked_state(state, initial, steps, rows)
        lengths, resets = self.checked_lengths(lengths, xs), None if resets is None else self.checked_resets(resets, xs)
        if mask is not None:
            taken = taken_steps(mask, lengths, xs)
            lengths, mask = taken.ends, None if taken.are_first else taken.mask.T
        products = autocast_dtype(xs.device)
        return Call(self.cell, initial, xs, state, lengths, resets, return_states, self.engine, products, mask)

    def _initial_state(self, xs: Tensor) -> State:
        """That of the rows of xs [T, B, ...]."""
        return states.initial_state(self, xs[0] if xs.shape[0] else xs.new_zeros(xs.shape[1:]))

    def step(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """One step, as a function: nothing is kept in the module.

        Args:
            x: [B, I].
            state: the state before it; ``None`` for the initial one.

        Returns:
            ``y, state``: the output [B, H] and the state after it.

        Raises:
            ShapeError: ``x`` does not fit.
            StateError: ``state`` is of another network, batch, precision or device.
        """
        self.check_input(x, 1, "step")
        initial = states.initial_state(self, x)
        state = initial if state is None else self._checked_state(state, initial, None, x.shape[0])
        y, after = states.check_results(self.cell, self.cell(x, state))
        # Copies: most cells give their output as a part of the state, and callers may write into what they get.
        return y.clone(), states.map_state(Tensor.clone, states.check_kept(self.cell, after, state))

    def session(self, batch_size: int = 1, weights: str = "float32") -> Session:
        """Run live, one step a call, with the state kept inside: see `treadle.Session`.

        Args:
            batch_size: rows.
            weights: ``"float32"`` keeps the weights as they are; ``"bfloat16"`` and ``"int8"`` round the matrices, see
                `Session`.
        """
        self._materialise_for(batch_size)
        return Session(self, batch_size, weights)

    def sessions(self, capacity: int = 64, limit: int | None = None, weights: str = "float32") -> Sessions:
        """Run live for many clients, each with a state of its own, any of them in one call: see `treadle.Sessions`.

        Args:
            capacity: for how many sessions there is memory to begin with; it doubles when it is used up.
            limit: how many may be open at most.
            weights: ``"float32"`` keeps the weights as they are; ``"bfloat16"`` and ``"int8"`` round the matrices, see
                `Session`.
        """
        self._materialise_for(1)
        return Sessions(self, capacity, limit, weights)

    def _materialise_for(self, batch_size: int) -> None:
        x = example_input(self.cell, batch_size) if self._is_lazy else None
        if x is not None:
            self.materialise(x)

    def materialise(self, x: Tensor) -> None:
        """Let lazy modules, such as `nn.LazyLinear`, take the sizes of their parameters from one step on x [B, I]."""
        if self._is_lazy:
            materialise(self.cell, x, states.initial_state(self, x))
            self._is_lazy = False

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` asks a module for before it compiles it."""
        raise EngineError(f"torch.jit.script cannot compile {self._name()}: use torch.export")

    def extra_repr(self) -> str:
        """The options that are not the usual ones, for ``print``."""
        usual = {"batch_first": True, "gradient": FullBPTT(), "engine": "auto", "learn_initial_state": False}
        return ", ".join(unusual(self, usual))

    def check_input(self, x: Tensor, leading: int, what: str) -> None:
        """Refuse an input that does not fit, with ``leading`` axes before those of a row."""
        if not isinstance(x, Tensor):
            how = "convert it with torch.as_tensor"
            if isinstance(x, PackedSequence):
                how = "pass what torch.nn.utils.rnn.pad_packed_sequence gives, xs and lengths=, or use a drop-in"
            raise InputError(f"a {what} is a torch.Tensor, but is a {type(x).__name__}: {how}")
        axes = ("B",) if leading == 1 else ("B", "T") if self.batch_first else ("T", "B")
        features = self.input_size
        row = None if features is None else (features,) if isinstance(features, int) else tuple(features)
        if x.ndim < leading or (row is not None and x.shape[leading:] != row):
            wanted = ", ".join([*axes, *(map(str, row) if row is not None else ["..."])])
            alone = row is not None and x.ndim == leading - 1 + len(row) and self.batch_first and leading == 2
            hint = "; one sequence alone needs a batch of one: xs[None]" if alone else ""
            raise ShapeError(f"{self._name()} takes a {what} of [{wanted}], but was given {states.shape(x)}{hint}")
        weight = first_weight(self.cell)
        weight = x if weight is None else weight
        if x.is_floating_point() and x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"{self._name()} has weights of {weight.dtype}, but the {what} is {x.dtype}: convert one, with"
                f" x.to({weight.dtype}) or model.to({x.dtype})"
            )

    def _name(self) -> str:
        return f"Recurrent({type(self.cell).__name__})"

    def _checked_state(self, state: State, initial: State, steps: int | None, rows: int) -> State:
        try:
            return states.check_state(state, initial, rows, self._name())
        except StateError:
            if steps in (None, rows) or not states.has_rows(state, steps):
                raise
        order = "[B, T, ...]" if self.batch_first else "[T, B, ...]"
        raise StateError(
            f"the input has {rows} rows and {steps} steps, but the state has {steps} rows: batch and time are swapped;"
            f" this Recurrent takes {order}, so pass xs.transpose(0, 1) or batch_first={not self.batch_first}"
        )

    checked_lengths, checked_resets = staticmethod(checked_lengths), staticmethod(checked_resets)


def refuse_torchscript(what: str) -> None:
    """Refuse to be noted by `torch.jit.trace`, which knows no loops: it is tracing."""
    raise EngineError(
        f"torch.jit.trace, which torch.onnx.export(dynamo=False) calls, would note {what} for the number of steps"
        " of its example alone, and cut every other: use torch.export or torch.onnx.export(dynamo=True)"
    )


def as_one_operation(network: nn.Module, xs: torch.fx.Proxy, before: Any, **options: Any) -> torch.fx.Proxy:
    """What `torch.fx` notes of a network: one operation, as of PyTorch's own modules, whatever is inside."""
    given = (xs,) if before is None else (xs, before)
    options = {name: value for name, value in options.items() if value is not None and value is not False}
    tracer: Any = xs.tracer
    if tracer.root is network:
        raise EngineError(f"torch.fx takes a {type(network).__name__} for one operation: trace a module that holds it")
    return tracer.create_proxy("call_module", tracer.path_of_module(network), given, options)


def checked_gradient(gradient: Any) -> GradientMethod:
    """The method that was passed, `FullBPTT` if none was."""
    gradient = FullBPTT() if gradient is None else gradient
    if not isinstance(gradient, GradientMethod):
        raise TypeError(f"gradient is a method such as td.FullBPTT(), but is {gradient!r:.60}")
    return gradient


def unusual(network: nn.Module, usual: dict[str, Any]) -> list[str]:
    """The options of a network that are not the usual ones, for ``print``."""
    given = {name: getattr(network, name, value) for name, value in usual.items()}
    return [f"{name}={value!r}" for name, value in given.items() if value != usual[name]]
