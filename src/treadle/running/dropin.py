"""Drop-ins for `torch.nn`'s LSTM, GRU and RNN: change one import, keep everything else, and rewire.

They *are* `torch.nn`'s modules, with the same parameters, so whatever takes those takes these. The work is done by
`treadle.Recurrent` and its compiled engine, or by PyTorch's fused kernels, by a fixed rule: these run few steps, both
directions, dropout in training, autocast and other devices than the CPU.
"""

import copy
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from treadle import state as states
from treadle.cells import GRUCell, LSTMCell, RNNCell
from treadle.engines import candidates
from treadle.errors import EngineError, ShapeError
from treadle.gradients import FullBPTT, GradientMethod
from treadle.running.bidirectional import both_directions
from treadle.running.fused import flat_weights, is_faster_compiled
from treadle.running.hx import as_hx, as_state, groups_of, joined, parts_of, per_layer, stacked, state_type
from treadle.running.known_by_type import class_in_torch, say_not_quantised, tell_opacus
from treadle.running.recurrent import (
    Recurrent,
    as_one_operation,
    checked_gradient,
    refuse_torchscript,
    unusual,
)
from treadle.running.session import Session
from treadle.running.sessions import Sessions
from treadle.running.taken_steps import TakenSteps, checked_lengths, taken_steps
from treadle.torch_internals import is_exported, jit_is_tracing, vmap_is_active
from treadle.wiring import WIRINGS, Stack
from treadle.wiring.named import layer_input_size

__all__ = ["GRU", "LSTM", "RNN"]

# The layers of each drop-in as a Recurrent, while its weights are the same tensors. Not kept in the module, which is
# copied and pickled.
_made: "weakref.WeakKeyDictionary[nn.Module, tuple[Any, Recurrent]]" = weakref.WeakKeyDictionary()


class DropIn(nn.RNNBase):
    """What the three drop-ins share."""

    _cell: ClassVar[type[LSTMCell | GRUCell | RNNCell]]
    _own: ClassVar[tuple[str, ...]] = ()  # what this one's constructor takes besides

    def __init__(
        self,
        *args: Any,
        wiring: str = "stack",
        cell: Callable[[int, int], nn.Module] | None = None,
        gradient: GradientMethod | None = None,
        engine: str = "auto",
        **kwargs: Any,
    ):
        """Take what PyTorch's takes, and by keyword:

        Args:
            args: as PyTorch's takes them, ``batch_first=False`` included.
            wiring: how the layers connect, a name that `treadle.Stack` takes. Parameters keep PyTorch's names; where a
                layer reads more, its ``weight_ih_l{k}`` is wider.
            cell: a class of cells (called as ``cell(input_size, hidden_size)``) in place of the classic one; it must
                give its hidden state ``h`` as output. Its parameters are in ``layers``.
            gradient: how gradients go back in time.
            engine: ``"auto"`` takes treadle's compiled engine or PyTorch's fused kernels by a fixed rule (see
                `why_not_fused`); every other name is an engine that `treadle.Recurrent` takes.
            kwargs: as PyTorch's takes them.

        Raises:
            EngineError: there is no such engine.
            ValueError, TypeError: options that exclude each other; what PyTorch's raises, as PyTorch's does.
        """
        # PyTorch's own __init__ comes next in the order of bases. It is not called by its name, because torch.nn.LSTM
        # may be one of us by now, where somebody put the drop-ins into torch.nn.
        if cell is None:
            super().__init__(*args, **kwargs)
            self._set_up(wiring, None, gradient, engine)
        else:
            device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
            super().__init__(*args, **kwargs, device="meta")  # its checks are wanted; weights cost nothing on "meta"
            self._set_up(wiring, cell, gradient, engine)
            self._place_cells(cell, device, dtype)

    def _set_up(self, wiring: str, cell: Any, gradient: Any, engine: str) -> None:
        """Check treadle's own options, and give layers what they read under another wiring."""
        if wiring not in WIRINGS:
            raise ValueError(f"there is no wiring {wiring!r}: choose one of {', '.join(WIRINGS)}")
        if self.bidirectional and wiring != "stack":
            raise ValueError(
                f"wiring {wiring!r} connects layers within a step, but a bidirectional layer needs the whole sequence"
                " before the next layer starts: choose one of the two"
            )
        if cell is not None and self.proj_size:
            raise ValueError(f"proj_size belongs to the classic LSTM: leave it out, or make it part of {cell!r}")
        if cell is not None and (not self.bias or getattr(self, "nonlinearity", "tanh") != "tanh"):
            raise ValueError(
                f"bias and nonlinearity belong to the classic cells: leave them out, or make them part of {cell!r}"
            )
        candidates(engine)
        tell_opacus(type(self))
        self.wiring, self.cell, self.engine = wiring, cell, engine
        self.gradient = checked_gradient(gradient)
        if cell is None:
            self._widen()

    def _widen(self) -> None:
        bound = self.hidden_size**-0.5
        for layer in range(self.num_layers):
            name = f"weight_ih_l{layer}"
            weight, width = getattr(self, name), self._reads(layer)
            if weight.shape[1] != width:
                setattr(self, name, nn.Parameter(weight.new_empty(weight.shape[0], width).uniform_(-bound, bound)))
        self._init_flat_weights()

    def _place_cells(self, cell: Any, device: Any, dtype: Any) -> None:
        """Put cells of another class in the place of the flat weights."""
        for name in self._flat_weights_names:
            delattr(self, name)
        self._flat_weights_names, self._flat_weights, self._all_weights, self._flat_weight_refs = [], [], [], []
        made = []
        for layer in range(self.num_layers):
            for _ in range(2 if self.bidirectional else 1):
                one = cell(self._reads(layer), self.hidden_size)
                if not isinstance(one, nn.Module) or not callable(getattr(one, "initial_state", None)):
                    raise TypeError(
                        f"cell= is a class of cells, called as cell(input_size, hidden_size), but is {cell!r:.60}"
                    )
                made.append(one.to(device=device, dtype=dtype))
        self.layers = nn.ModuleList(made)

    def _reads(self, layer: int) -> int:
        size = (self.proj_size or self.hidden_size) * (2 if self.bidirectional else 1)
        return layer_input_size(self.wiring, layer, self.input_size, [size] * self.num_layers)

    def cells(self) -> list[Any]:
        """The cells, layer by layer, both directions of a layer together; classic ones made around our own weights."""
        if self.cell is not None:
            return list(self.layers)
        return [self._classic(suffix) for suffix in self.suffixes(self)]

    @staticmethod
    def suffixes(network: nn.RNNBase) -> list[str]:
        """What names of parameters end in, layer by layer and direction by direction: ``l0``, ``l0_reverse``, …"""
        ends = ("", "_reverse") if network.bidirectional else ("",)
        return [f"l{layer}{end}" for layer in range(network.num_layers) for end in ends]

    def _classic(self, suffix: str) -> Any:
        width = getattr(self, f"weight_ih_{suffix}").shape[1]
        own = {name: getattr(self, name) for name in self._own}
        cell = self._cell(width, self.hidden_size, self.bias, **own, device="meta")
        for name in list(cell._parameters):
            if cell._parameters.pop(name) is not None:
                # Set, not copied: the cell computes with our parameter, or with the tensor that stands in for it
                # (weight norm, pruning, torch.func.functional_call).
                setattr(cell, name, getattr(self, f"{name}_{suffix}"))
            else:
                cell.register_parameter(name, None)
        return cell

    def recurrent(self) -> Recurrent:
        """The same network as a `treadle.Recurrent` that computes with the same parameters.

        Raises:
            ValueError: the network is bidirectional, so that it has no steps.
        """
        if self.bidirectional:
            raise ValueError(
                "a bidirectional network reads the whole sequence before its first output: it cannot go step by step"
            )
        weights = flat_weights(self) if self.cell is None else list(self.layers)
        options = (self.wiring, self.dropout, self.batch_first, self.gradient, self.engine)
        key = (*map(id, weights), *options)  # whoever is in the cache is alive, so an identity is not used twice
        found = _made.get(self)
        if found is None or found[0] != key:
            stack = Stack(self.cells(), self.wiring, dropout=self.dropout)
            found = _made[self] = (key, Recurrent(stack, self.batch_first, self.gradient, self.engine))
        recurrent = found[1]
        # It stays the same one in both modes: programs and snapshots are kept with it.
        return recurrent if recurrent.training is self.training else recurrent.train(self.training)

    def directions(self) -> list[Recurrent]:
        """The layers of a bidirectional network, each as two networks over [T, B, …], one for each direction."""
        return [Recurrent(cell, False, self.gradient, self.engine).train(self.training) for cell in self.cells()]

    def step(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """One step, as a function: ``input`` [B, I] and ``hx`` give the output [B, H] and the next ``hx``."""
        recurrent = self.recurrent()
        y, state = recurrent.step(input, None if hx is None else as_state(self._parts(hx, 3), recurrent))
        return y, as_hx(state, self.num_layers)

    def session(self, batch_size: int = 1, weights: str = "float32") -> Session:
        """Run live, one step a call, with the state kept inside: see `treadle.Session`."""
        self.recurrent()  # says why, if there is none
        return Session(self, batch_size, weights)

    def sessions(self, capacity: int = 64, limit: int | None = None, weights: str = "float32") -> Sessions:
        """Run live for many clients, any of them in one call: see `treadle.Sessions`."""
        self.recurrent()
        return Sessions(self, capacity, limit, weights)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        lengths: Any = None,
        resets: Tensor | None = None,
        return_states: bool = False,
        mask: Any = None,
    ) -> Any:
        """Run over a sequence, as PyTorch's does.

        Args:
            input: as PyTorch's takes it: [T, B, I], [B, T, I] with ``batch_first``, [T, I] for one sequence alone, or a
                PackedSequence.
            hx: the state before the first step, ``(h_0, c_0)`` or ``h_0``; ``None`` for zeros.
            lengths: [B] whole numbers in any order, 0 to T: past its end a row's outputs are zero, its state stands
                still.
            resets: [B, T] booleans, whatever ``batch_first`` is: the row is reset before it reads that step. The
                reverse direction of a bidirectional network is reset at the same borders, from the other side.
            return_states: whether to return a third value: the states at every step, like ``hx`` with time before the
                batch ([L, T, B, H]; [L, B, T, H] with ``batch_first``).
            mask: [B, T] booleans, whatever ``batch_first`` is: where false, the step is not taken; see
                `treadle.Recurrent`.

        Returns:
            ``output, hx``: as PyTorch's returns them.

        Raises:
            ShapeError: ``lengths``, ``resets`` or ``mask`` do not fit.
            StateError: ``hx`` has not one tensor for each field of the state.
            RuntimeError, ValueError: what PyTorch's raises, as PyTorch's does.
        """
        if isinstance(input, torch.fx.Proxy):
            given = {"lengths": lengths, "resets": resets, "return_states": return_states, "mask": mask}
            return as_one_operation(self, input, hx, **given)
        why = self.why_not_fused(input, resets, return_states)
        if why is None and lengths is None and mask is None:
            return super().forward(input, hx)
        if jit_is_tracing():
            refuse_torchscript(f"a treadle.{self._get_name()} ({why or 'lengths or a mask were passed'})")
        if isinstance(input, PackedSequence):
            return self._packed(input, hx, lengths, resets, return_states, mask)
        if input.dim() not in (2, 3):
            raise ValueError(f"{self._get_name()}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        if input.dim() == 2:
            return self._unbatched(input, hx, lengths, resets, return_states, mask)
        by_time = input.transpose(0, 1) if self.batch_first else input
        lengths, rows = checked_lengths(lengths, by_time), by_time.shape[1]
        if why is None and mask is not None:
            return self._fused_with_holes(input, hx, taken_steps(mask, lengths, by_time))
        if why is None:
            return self._fused_with_lengths(input, hx, lengths)
        parts = None if hx is None else self._parts(hx, 3)
        if self._flat_weights and parts is None:
            self.check_input(input, None)
        elif self._flat_weights:
            self.check_forward_args(input, tuple(parts) if len(parts) > 1 else parts[0], None)  # pyright: ignore
        elif parts is not None and any(part.shape[:2] != (len(self.layers), rows) for part in parts):
            wanted, given = [len(self.layers), rows, "H"], [states.shape(part) for part in parts]
            raise ShapeError(f"hx is {wanted}, a slice for each layer and direction, but is {', '.join(given)}")
        run = self._both_directions if self.bidirectional else self._wired
        return run(input, parts, lengths, resets, return_states, mask)

    def why_not_fused(
        self, input: Tensor | PackedSequence | None = None, resets: Any = None, return_states: bool = False
    ) -> str | None:
        """Why PyTorch's fused kernels do not do the work; ``None`` where they do.

        Args:
            input: what is to be read; without it, the options alone decide.
            resets: as `forward` takes them.
            return_states: likewise.
        """
        if self.wiring != "stack":
            return f"wiring is {self.wiring!r}"
        if self.cell is not None:
            return "the cell is not the classic one"
        if type(self.gradient) is not FullBPTT:
            return f"gradient is {self.gradient!r}"
        if self.engine != "auto":
            return f"engine is {self.engine!r}"
        if resets is not None:
            return "resets were passed"
        if return_states:
            return "return_states was asked for"
        if vmap_is_active():
            return "they have no rule for torch.func.vmap"
        if is_exported(input):
            return "torch.export would unroll PyTorch's kernels"
        return "the compiled engine is faster" if input is not None and is_faster_compiled(self, input) else None

    # What is passed in other forms is brought into the form [T, B, I] or [B, T, I] with hx of [L, B, H].

    def _unbatched(self, input: Tensor, hx: Any, lengths: Any, resets: Any, return_states: bool, mask: Any) -> Any:
        batch_axis = 0 if self.batch_first else 1
        hx = None if hx is None else joined([part.unsqueeze(1) for part in self._parts(hx, 2)])
        if lengths is not None:
            lengths = states.as_tensor(lengths)
            if lengths.numel() != 1:
                raise ShapeError(f"one sequence without a batch has one length, but {lengths.numel()} were passed")
            lengths = lengths.reshape(1)
        resets, mask = (None if one is None else states.as_tensor(one).reshape(1, -1) for one in (resets, mask))
        output, hidden, *every = self.forward(input.unsqueeze(batch_axis), hx, lengths, resets, return_states, mask)
        hidden = joined([part.squeeze(1) for part in self._parts(hidden, 3)])
        every = [joined([part.squeeze(batch_axis + 1) for part in self._parts(one, 4)]) for one in every]
        return output.squeeze(batch_axis), hidden, *every

    def _packed(self, input: PackedSequence, hx: Any, lengths: Any, resets: Any, return_states: bool, mask: Any) -> Any:
        if lengths is not None:
            raise ValueError("a PackedSequence has its lengths itself: leave out lengths=")
        padded, lengths = pad_packed_sequence(input, self.batch_first)
        output, *rest = self.forward(padded, hx, lengths, resets, return_states, mask)
        if input.sorted_indices is not None:
            output = output.index_select(0 if self.batch_first else 1, input.sorted_indices)
            lengths = lengths[input.sorted_indices.cpu()]
        packed = pack_padded_sequence(output, lengths, self.batch_first)
        return PackedSequence(packed.data, input.batch_sizes, input.sorted_indices, input.unsorted_indices), *rest

    def _fused_with_lengths(self, input: Tensor, hx: Any, lengths: Tensor) -> Any:
        if not lengths.numel() or not input.numel():
            return super().forward(input, hx)
        batch_axis, steps = (0, input.shape[1]) if self.batch_first else (1, input.shape[0])
        # Packing has no place for a row without steps: such a row reads one zero, and what comes of it is left out.
        some = (lengths > 0).reshape((-1, 1, 1) if self.batch_first else (1, -1, 1))
        input = torch.where(some, input, input.new_zeros(()))
        packed = pack_padded_sequence(input, lengths.clamp(min=1).cpu(), self.batch_first, enforce_sorted=False)
        output, hidden = super().forward(packed, hx)
        output, _ = pad_packed_sequence(output, self.batch_first, total_length=steps)
        if hx is None:
            initial = (cell.initial_state(input.shape[batch_axis]) for cell in self.cells())
            before = [part.to(input.device, input.dtype) for part in stacked(initial)]
        else:
            before = self._parts(hx, 3)
        rows = (lengths > 0)[None, :, None]
        kept = [torch.where(rows, new, old) for new, old in zip(self._parts(hidden, 3), before, strict=True)]
        return torch.where(some, output, output.new_zeros(())), joined(kept)

    def _fused_with_holes(self, input: Tensor, hx: Any, taken: TakenSteps) -> Any:
        axis = 1 if self.batch_first else 0
        output, hidden = self._fused_with_lengths(taken.closed(input, axis), hx, taken.lengths)
        return taken.opened(output, axis), hidden

    def _wired(self, input: Tensor, parts: Any, lengths: Any, resets: Any, return_states: bool, mask: Any) -> Any:
        """All layers together, one step after another."""
        recurrent = self.recurrent()
        state = None if parts is None else as_state(parts, recurrent)
        if self.cell is None and self.wiring == "stack" and lengths is resets is mask is None and not return_states:
            again = recurrent._again(input, state, groups_of(self.num_layers, len(self._cell.State._fields)))
            if again is not None:
                return again[0], joined(again[1])
        output, state, *every = recurrent(input, state, lengths, resets, return_states, mask)
        return output, *(as_hx(one, self.num_layers) for one in (state, *every))

    def _both_directions(
        self, input: Tensor, parts: Any, lengths: Any, resets: Any, return_states: bool, mask: Any
    ) -> Any:
        """Layer after layer, each in both directions over the whole sequence."""
        ys = input.transpose(0, 1) if self.batch_first else input
        networks = self.directions()
        before = self._states_before(parts, networks)
        finals, everies = [], []
        for i in range(0, len(networks), 2):
            given = both_directions(networks[i : i + 2], ys, before[i : i + 2], lengths, resets, return_states, mask)
            outputs, ends, *every = zip(*given, strict=True)
            ys = torch.cat(outputs, 2)
            if i + 2 < len(networks):
                ys = nn.functional.dropout(ys, self.dropout, self.training)
            finals += ends
            everies += [states for both in every for states in both]
        hidden = joined(stacked(finals))
        output = ys.transpose(0, 1) if self.batch_first else ys
        if not return_states:
            return output, hidden
        return output, hidden, joined([p.transpose(1, 2) if self.batch_first else p for p in stacked(everies)])

    @staticmethod
    def _states_before(parts: Any, networks: list[Recurrent]) -> list[Any]:
        return [None] * len(networks) if parts is None else per_layer(parts, [n.cell for n in networks])

    def states_of(self, hx: Any) -> Any:
        """``hx`` as the state that `recurrent` takes; of a bidirectional network, as that of each of `directions`."""
        parts = None if hx is None else self._parts(hx, 3)
        if self.bidirectional:
            return self._states_before(parts, self.directions())
        return None if parts is None else as_state(parts, self.recurrent())

    def hx_of(self, state: Any) -> Any:
        """The inverse of `states_of`, of a network that goes forwards alone; None of None."""
        return None if state is None else as_hx(state, self.num_layers)

    def _parts(self, hx: Any, axes: int) -> list[Tensor]:
        kind = self._cell.State if self.cell is None else state_type(self.layers[0])
        return parts_of(hx, kind._fields, axes)

    def extra_repr(self) -> str:
        """PyTorch's, and the options that are not the usual ones."""
        usual = {"wiring": "stack", "gradient": FullBPTT(), "engine": "auto"}
        return ", ".join([super().extra_repr(), *unusual(self, usual)])

    @classmethod
    def torch_arguments(cls, network: nn.RNNBase) -> dict[str, Any]:
        """The arguments that construct one of PyTorch's networks again, of the class that this one stands in for."""
        names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
        return {name: getattr(network, name) for name in (*names, *cls._own)}

    def constructor_arguments(self) -> dict[str, Any]:
        """The arguments that construct this module again."""
        own = ("wiring", "cell", "gradient", "engine")
        return self.torch_arguments(self) | {name: getattr(self, name) for name in own}

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` compiles: PyTorch's own module with our parameters; it takes no subclass of that.

        PyTorch also puts it into the model that is scripted, in our place.
        """
        why = self.why_not_fused()
        if why is not None:
            raise EngineError(
                f"torch.jit.script takes the classic {self._get_name()} alone, but {why}: use torch.export"
            )
        theirs: Any = copy.copy(self)
        for option in ("wiring", "cell", "gradient", "engine"):
            delattr(theirs, option)
        theirs.__class__ = class_in_torch(type(self))
        return theirs

    @property
    def qconfig(self) -> Any:
        """How `torch.ao.quantization` is to quantise a module, which it says to every module of a model."""
        if "qconfig" not in vars(self):
            raise AttributeError("qconfig")
        return vars(self)["qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        say_not_quantised(type(self))
        vars(self)["qconfig"] = value

    @qconfig.deleter
    def qconfig(self) -> None:
        del vars(self)["qconfig"]

    def flatten_parameters(self) -> None:
        """Lay the weights out for cuDNN, where there are any of PyTorch's; see `torch.nn.RNNBase`."""
        if self._flat_weights:
            super().flatten_parameters()

    def __setstate__(self, d: dict[str, Any]) -> None:
        if d.get("cell") is None:
            super().__setstate__(d)
            for name, value in (("wiring", "stack"), ("cell", None), ("gradient", FullBPTT()), ("engine", "auto")):
                self.__dict__.setdefault(name, value)  # pickled by torch.nn's own module
        else:
            nn.Module.__setstate__(self, d)
            self._flat_weight_refs = []


class LSTM(DropIn, nn.LSTM):
    """Drop-in for `torch.nn.LSTM`: the same arguments, defaults, parameters, results and errors.

    How it is made, with ``wiring=``, ``cell=``, ``gradient=`` and ``engine=`` besides PyTorch's arguments, is at
    ``__init__``; how it is called, with ``lengths=``, ``resets=``, ``mask=`` and ``return_states=``, at ``forward``.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.LSTM(10, 20, num_layers=2)
        >>> _ = rnn.load_state_dict(torch.nn.LSTM(10, 20, num_layers=2).state_dict())
        >>> output, (h_n, c_n) = rnn(torch.randn(5, 3, 10), lengths=[5, 0, 2])
        >>> output.shape, h_n.shape
        (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
        >>> rewired = td.LSTM(10, 20, num_layers=2, wiring="skip")
        >>> rewired.weight_ih_l1.shape                      # the upper layer reads 20 + 10 features
        torch.Size([80, 30])
    """

    _cell, _own = LSTMCell, ("proj_size",)


class GRU(DropIn, nn.GRU):
    """Drop-in for `torch.nn.GRU`: the same arguments, defaults, parameters, results and errors.

    How it is made, with ``wiring=``, ``cell=``, ``gradient=`` and ``engine=`` besides PyTorch's arguments, is at
    ``__init__``; how it is called, with ``lengths=``, ``resets=``, ``mask=`` and ``return_states=``, at ``forward``.

    Example:
        >>> import torch, treadle as td
        >>> output, h_n = td.GRU(10, 20, bidirectional=True)(torch.randn(5, 3, 10))
        >>> output.shape, h_n.shape
        (torch.Size([5, 3, 40]), torch.Size([2, 3, 20]))
    """

    _cell = GRUCell


class RNN(DropIn, nn.RNN):
    """Drop-in for `torch.nn.RNN`: the same arguments, defaults, parameters, results and errors.

    How it is made, with ``wiring=``, ``cell=``, ``gradient=`` and ``engine=`` besides PyTorch's arguments, is at
    ``__init__``; how it is called, with ``lengths=``, ``resets=``, ``mask=`` and ``return_states=``, at ``forward``.

    Example:
        >>> import torch, treadle as td
        >>> output, h_n = td.RNN(10, 20, nonlinearity="relu")(torch.randn(5, 10))       # one sequence, no batch
        >>> output.shape, h_n.shape
        (torch.Size([5, 20]), torch.Size([1, 20]))
    """

    _cell, _own = RNNCell, ("nonlinearity",)
