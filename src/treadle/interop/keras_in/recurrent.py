"""LSTM, GRU and SimpleRNN as Keras runs them: masked steps, backwards, from a state, in both directions."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from treadle import cells
from treadle.files.description import kept_in_files
from treadle.interop.keras_in.gates import GATES, is_of_cudnn, to_torch_layout, todays_layout
from treadle.interop.keras_in.layer import KerasLayer, Masked, Weights, fill
from treadle.interop.keras_in.options import Options, is_tensorflow
from treadle.running.recurrent import Recurrent
from treadle.running.taken_steps import repeat_last

_SWITCHES = ("return_sequences", "return_state", "go_backwards", "zero_output_for_mask")


@kept_in_files("treadle.KerasRNN")
class KerasRNN(KerasLayer):
    """A recurrent layer of Keras.

    A masked step is not taken: the state stands still, and the output of the step before is given again (zeros before
    the first step that is taken). ``network`` is the same without all that: a `treadle.Recurrent`.

    Args:
        network: the recurrence.
        return_sequences: whether the output of every step is given, or that of the last.
        return_state: whether the final state is given besides.
        go_backwards: whether the steps are read, and given, from the last to the first.
        zero_output_for_mask: whether the output of a masked step is zeros.
    """

    def __init__(
        self,
        network: Recurrent,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
    ):
        super().__init__()
        self.network, self.return_sequences, self.return_state = network, return_sequences, return_state
        self.go_backwards, self.zero_output_for_mask = go_backwards, zero_output_for_mask

    def forward(self, sequence: Masked, *initial: Masked, initial_state: Any = None, ignore_mask: bool = False) -> Any:
        """Over a sequence [B, T, I], from zeros or from the given states; the mask passes even if it is ignored."""
        ys, after = self.over_time(sequence, initial_state or initial, ignore_mask)
        mask = sequence.mask
        y = Masked(ys, mask) if self.return_sequences else Masked(ys[:, -1])
        return (y, *(Masked(part) for part in after)) if self.return_state else y

    def over_time(self, sequence: Masked, initial: Any, ignore_mask: bool) -> tuple[Tensor, Any]:
        """The outputs of all steps and the final state."""
        xs, mask = sequence
        before = None
        if initial:
            cell: Any = self.network.cell
            before = cell.State(*(part.x for part in (initial if isinstance(initial, list | tuple) else [initial])))
        if self.go_backwards:
            xs = xs.flip(1)
        if mask is None or ignore_mask:
            return self.network(xs, before)
        mask = mask.flip(1) if self.go_backwards else mask
        ys, after = self.network(xs, before, mask=mask)  # zeros at masked steps
        return ys if self.zero_output_for_mask else repeat_last(ys, mask), after

    def step(self) -> nn.Module | None:
        """The cell."""
        return None if self.go_backwards else self.network.cell


@kept_in_files("treadle.KerasBidirectional")
class KerasBidirectional(KerasLayer):
    """Two recurrent layers over one sequence, one from each end.

    Args:
        ahead: the layer that goes forwards (as Keras says; it may go backwards, and the other forwards).
        back: the other one, whose outputs are turned round.
        merge_mode: ``"concat"``, ``"sum"``, ``"ave"``, ``"mul"``, or None: both.
    """

    def __init__(self, ahead: KerasRNN, back: KerasRNN, merge_mode: str | None):
        super().__init__()
        self.ahead, self.back, self.merge_mode = ahead, back, merge_mode

    def forward(self, sequence: Masked, *initial: Masked, initial_state: Any = None, ignore_mask: bool = False) -> Any:
        """Over a sequence [B, T, I]; the states of both directions one after the other, in and out."""
        states = list(initial_state or initial)
        half = len(states) // 2
        one, end = self.ahead.over_time(sequence, states[:half], ignore_mask)
        other, other_end = self.back.over_time(sequence, states[half:], ignore_mask)
        whole = self.ahead.return_sequences
        one, other = (one, other.flip(1)) if whole else (one[:, -1], other[:, -1])
        mask = sequence.mask if whole else None
        ys = (
            [Masked(one, mask), Masked(other, mask)]
            if self.merge_mode is None
            else [Masked(self._merged(one, other), mask)]
        )
        if self.ahead.return_state:
            ys += [Masked(part) for part in (*end, *other_end)]
        return ys[0] if len(ys) == 1 else tuple(ys)

    @property
    def is_usual(self) -> bool:
        """Whether it gives the outputs of both directions one after the other, and no states."""
        forwards = not self.ahead.go_backwards and self.back.go_backwards
        return forwards and self.merge_mode == "concat" and not self.ahead.return_state

    def _merged(self, one: Tensor, other: Tensor) -> Tensor:
        if self.merge_mode == "concat":
            return torch.cat([one, other], -1)
        if self.merge_mode == "mul":
            return one * other
        return (one + other) / (2 if self.merge_mode == "ave" else 1)


def read_recurrent(options: Options, weights: Weights, engine: str, notes: list[str]) -> KerasRNN:
    """An LSTM, GRU or SimpleRNN layer, of CuDNN or not."""
    of_cudnn = options.layer.kind.startswith("CuDNN")
    kind = options.layer.kind.removeprefix("CuDNN")
    units, arrays = options.number("units"), weights.raw()
    gates = 1 if kind == "SimpleRNN" else None
    activation = options.activation(usual="tanh")
    usual = "sigmoid" if options.major >= 3 or is_tensorflow(options.version) or of_cudnn else "hard_sigmoid"
    gate = "" if gates else options.activation("recurrent_activation", usual)
    is_today = options.major >= 3
    reset_after = kind == "GRU" and options.flag("reset_after", is_today or of_cudnn)
    bias = options.flag("use_bias", True)
    if kind in ("LSTM", "GRU") and is_of_cudnn(kind, arrays):
        bias, reset_after = True, kind == "GRU"
        if (activation, gate) != ("tanh", "sigmoid"):
            raise options.error(
                f"its weights are of CuDNN's layer, which has tanh and sigmoid, not {activation} and {gate}"
            )
    elif of_cudnn:
        raise options.error(
            f"its weights are not of CuDNN's layer, which has a bias of {2 * GATES[kind]} times its units"
        )
    cell = _cell(kind, options, weights.give(_without_states(options, kind, todays_layout(kind, arrays), bias)),
                 units, activation, gate, reset_after, bias)  # fmt: skip
    switches = {name: options.flag(name) for name in _SWITCHES}
    options.refuse("time_major", False, None)
    _say(options, notes)
    return KerasRNN(Recurrent(cell, engine=engine), **switches)


def _without_states(options: Options, kind: str, arrays: list[np.ndarray], bias: bool) -> list[np.ndarray]:
    """The weights alone: a stateful layer may keep the state of its last batch among them."""
    count = 2 + bias
    return arrays[:count] if options.ignored("stateful") else arrays


def _cell(
    kind: str, options: Options, weights: Weights, units: int, activation: str, gate: str, reset_after: bool, bias: bool
) -> Any:
    gates = GATES[kind]
    kernel = weights.take("kernel", None, gates * units)
    recurrent = weights.take("recurrent kernel", units, gates * units)
    shape = (2, gates * units) if reset_after else (gates * units,)
    biases = weights.take("bias", *shape) if bias else None
    weights.finish()
    of: dict[str, Any] = {"bias": bias, "dtype": weights.dtype}
    bend, bend_gate = (_bend(options, name) for name in (activation, gate or "linear"))
    if kind == "SimpleRNN":
        cell: Any = cells.RNNCell(kernel.shape[0], units, nonlinearity=bend, **of)
    else:
        of |= {"activation": bend, "gate_activation": bend_gate}
        of |= {"reset_after": reset_after} if kind == "GRU" else {}
        cell = {"LSTM": cells.LSTMCell, "GRU": cells.GRUCell}[kind](kernel.shape[0], units, **of)
    fill(cell, weights.dtype, weight_ih=to_torch_layout(kind, kernel).T, weight_hh=to_torch_layout(kind, recurrent).T)
    if biases is not None:
        both = to_torch_layout(kind, biases if biases.ndim == 2 else np.stack([biases, np.zeros_like(biases)]))
        fill(cell, weights.dtype, bias_ih=both[0], bias_hh=both[1])
    return cell


def _bend(options: Options, name: str) -> Any:
    """An activation as cells take it."""
    if name == "leaky_relu":
        return nn.LeakyReLU(0.2)
    if name not in cells.ACTIVATIONS:
        raise options.error(f"{name} within a recurrence cannot be read")
    return name


def _say(options: Options, notes: list[str]) -> None:
    name = options.layer.name
    if options.flag("stateful"):
        notes.append(
            f"layer {name!r} is stateful in Keras: here the state is an argument, and each call begins at zeros"
        )
    for what in ("dropout", "recurrent_dropout", "dropout_W", "dropout_U"):
        options.take(what)
        if options.ignored(what):
            notes.append(f"layer {name!r}: {what}={options.ignored(what)} acts in training only, and is left out")


def read_bidirectional(options: Options, weights: Weights, engine: str, notes: list[str]) -> KerasBidirectional:
    """A Bidirectional of two recurrent layers."""
    mode = options.take("merge_mode", "concat")
    if mode not in ("concat", "sum", "ave", "mul", None):
        raise options.error(f"merge_mode={mode!r:.40} is none of Keras'")
    layers = [options.inner(), options.inner("backward_layer") if options.ignored("backward_layer") else None]
    layers[1] = layers[1] or _turned(layers[0])
    arrays = weights.raw()
    if layers[0].config.get("stateful"):  # its states may lie behind the weights of both
        arrays = arrays[: 2 * (2 + bool(layers[0].config.get("use_bias", True)))]
    half = len(arrays) // 2
    both = []
    for layer, own in zip(layers, (arrays[:half], arrays[half:]), strict=True):
        if layer.kind.removeprefix("CuDNN") not in GATES:
            raise options.error(f"a {layer.kind} in both directions cannot be read")
        inner = Options(layer, options.version)
        both.append(read_recurrent(inner, Weights(inner, own), engine, notes))
        inner.finish()
    ahead, back = both
    if ahead.go_backwards == back.go_backwards or ahead.return_sequences != back.return_sequences:
        raise options.error("its two layers do not fit together")
    for one in both:  # Keras says so, whatever its layers say
        one.zero_output_for_mask = ahead.return_sequences and (options.major >= 3 or is_tensorflow(options.version))
    return KerasBidirectional(ahead, back, mode)


def _turned(layer: Any) -> Any:
    config = dict(layer.config)
    config["go_backwards"] = not config.get("go_backwards", False)
    return type(layer)(layer.name, layer.kind, config)
