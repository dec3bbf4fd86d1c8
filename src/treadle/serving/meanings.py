"""What a model's numbers mean: the tensors that its clients send and get, and the rows that its network reads."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from treadle.errors import ModelFileError
from treadle.running.recurrent import Recurrent
from treadle.serving.refusals import Kind, Refused
from treadle.serving.tensors import NAMES, TensorKind
from treadle.training import Fitted

Tensors = Mapping[str, NDArray[Any]]
Named = list[tuple[str, NDArray[Any]]]


class Meaning:
    """Rows of features in, rows of features out, as the network has them.

    A request holds ``B`` rows of one step each, [B, ...], or blocks of ``T`` steps, [B, T, ...].

    Attributes:
        inputs: what a request may hold.
        outputs: what an answer holds.
        row: the shape of one row at one step.
        dtype: of the rows that the network reads.
        window: steps that it reads from the initial state for an answer; None if it reads an endless sequence.
    """

    window: int | None = None

    def __init__(self, rnn: Recurrent, dtype: np.dtype[Any], output: tuple[int, ...]):
        size = rnn.input_size
        self.row = (size,) if isinstance(size, int) else tuple(size)
        self.dtype = np.dtype(np.int64) if self.row == () else dtype
        self.highest = min((one.num_embeddings for one in rnn.modules() if isinstance(one, nn.Embedding)), default=0)
        self.inputs = (TensorKind("x", NAMES[self.dtype], self.row),)
        self.outputs = (TensorKind("y", NAMES[dtype], output),)

    @functools.cached_property
    def expected(self) -> str:
        """The inputs in words."""
        return ", ".join(f"{one.name} {one.datatype} {['B', *one.shape]}" for one in self.inputs).replace("'", "")

    def check_sequences(self, name: str) -> None:
        """Refuse sequences of a model, called by its name, that always begins at the initial state."""

    def rows(self, tensors: Tensors) -> tuple[NDArray[Any], bool]:
        """The rows that the network reads, [B, T, ...], and whether they were a block."""
        if len(tensors) != 1 or self.inputs[0].name not in tensors:
            raise self.wrong(f"inputs called {', '.join(sorted(tensors)) or 'nothing'}"[:120])
        return self.numbers(tensors[self.inputs[0].name])

    def numbers(self, values: NDArray[Any]) -> tuple[NDArray[Any], bool]:
        """An array of rows or blocks in the precision of the network, once it is known to fit."""
        axes = values.ndim - len(self.row)
        if axes not in (1, 2) or values.shape[axes:] != self.row:
            raise self.wrong(f"the shape {list(values.shape)}")
        if values.dtype != self.dtype:
            if values.dtype.kind not in ("iu" if self.dtype.kind in "iu" else "iuf"):
                raise self.wrong(NAMES.get(values.dtype, str(values.dtype)))
            with np.errstate(over="ignore"):
                values = values.astype(self.dtype)
        self.check(values)
        return (values[:, None], False) if axes == 1 else (values, True)

    def check(self, values: NDArray[Any]) -> None:
        """Refuse what would spoil a state: numbers that are not finite, tokens that there are not."""
        if self.dtype.kind == "f":
            flat = values.reshape(-1)
            # Where the sum of squares is finite, every number is; that is asked in a fraction of the time.
            with np.errstate(over="ignore", invalid="ignore"):  # which is no news to a server's log
                has_finite_square = math.isfinite(flat.dot(flat))
            if not has_finite_square and not np.isfinite(flat).all():
                raise Refused(
                    Kind.MALFORMED,
                    f"{self.inputs[0].name!r} has a number that is not finite in the network's precision; the state of"
                    " the sequence is as it was",
                )
        elif self.highest and not (values.min() >= 0 and values.max() < self.highest):
            raise Refused(Kind.MALFORMED, f"{self.inputs[0].name!r} has tokens that are not 0 to {self.highest - 1}")

    def wrong(self, what: str) -> Refused:
        """A refusal that says what the model reads."""
        return Refused(
            Kind.MALFORMED,
            f"the request has {what}, but the model reads {self.expected}, B rows, or blocks of T steps with a second"
            " axis of T",
        )

    def answers(self, ys: NDArray[Any], block: bool) -> Named:
        """What the network gave, [B, T, ...], as the outputs; with an axis for steps if the request was a block."""
        return [(self.outputs[0].name, ys if block else ys[:, 0])]


class TextMeaning(Meaning):
    """A byte-level language model: bytes in, scores of the next byte out."""

    def __init__(self, rnn: Recurrent, dtype: np.dtype[Any]):
        super().__init__(rnn, dtype, (256,))
        self.inputs = (TensorKind("bytes", "UINT8", ()),)
        self.outputs = (TensorKind("scores", NAMES[dtype], (256,)),)

    @functools.cached_property
    def expected(self) -> str:
        """The inputs in words."""
        return "bytes UINT8 [B] (or texts, BYTES [B], all equally long)"

    def numbers(self, values: NDArray[Any]) -> tuple[NDArray[Any], bool]:
        """Bytes, as numbers or as texts."""
        if not values.dtype.hasobject:
            return super().numbers(values)
        lengths = {len(one) for one in values.reshape(-1)}
        if values.ndim != 1 or len(lengths) != 1 or lengths == {0}:
            raise self.wrong("texts of different lengths, or without any bytes")
        return super().numbers(np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1))


class FittedMeaning(Meaning):
    """A network with scaling and labels, as `treadle fit` makes it: columns in their own units in, predictions out."""

    def __init__(self, fitted: Fitted, dtype: np.dtype[Any]):
        super().__init__(fitted.model, dtype, (fitted.outputs_per_step,))
        self.fitted, self.window = fitted, fitted.window
        columns = fitted.inputs.names
        self.inputs = (TensorKind("x", "FP64", (len(columns),), columns),)
        if fitted.targets is None:
            scores = TensorKind("scores", NAMES[dtype], (len(fitted.labels),), fitted.labels)
            self.outputs = (TensorKind("label", "BYTES", ()), scores)
        else:
            targets = fitted.targets.names
            ahead = () if fitted.horizon is None else (max(fitted.horizon, 1),)
            self.outputs = (TensorKind("y", "FP64", (*ahead, len(targets)), targets),)

    @functools.cached_property
    def expected(self) -> str:
        """The inputs in words."""
        columns = self.inputs[0].columns
        return f"x FP64 [B, {len(columns)}] (or each column for itself, [B]: {', '.join(columns)})"[:300]

    def check_sequences(self, name: str) -> None:
        """Refuse sequences where forecasts are made from windows."""
        if self.window is not None:
            raise Refused(
                Kind.MALFORMED,
                f"{name} forecasts from the last {self.window} steps, always from the initial state: send these steps"
                " as one block without a sequence_id",
            )

    def rows(self, tensors: Tensors) -> tuple[NDArray[Any], bool]:
        """Columns, together or each for itself, scaled."""
        columns = self.inputs[0].columns
        if set(tensors) == set(columns) and set(tensors) != {"x"}:
            parts = [tensors[name] for name in columns]
            if any(part.shape != parts[0].shape or part.dtype.hasobject for part in parts):
                raise self.wrong("columns of different shapes")
            tensors = {"x": np.stack(parts, -1)}
        return super().rows(tensors)

    def numbers(self, values: NDArray[Any]) -> tuple[NDArray[Any], bool]:
        """Rows in their own units, scaled as the network reads them."""
        if values.dtype.kind not in "iuf":
            raise self.wrong(NAMES.get(values.dtype, str(values.dtype)))
        scaling = self.fitted.inputs
        if values.shape[-1:] == (len(scaling.names),):
            with np.errstate(over="ignore", invalid="ignore"):
                scaled = (values.astype(np.float64) - scaling.means.numpy()) / scaling.deviations.numpy()
                values = scaled.astype(np.float32)
        rows, block = super().numbers(values)
        if self.window is not None and rows.shape[1] > self.window:
            raise self.wrong(f"{rows.shape[1]} steps, and the model reads {self.window} for a forecast: the shape")
        return rows, block

    def answers(self, ys: NDArray[Any], block: bool) -> Named:
        """Predictions in their own units, or labels with their scores."""
        if self.window is not None:
            ys, block = ys[:, -1:], False
        ys = ys if block else ys[:, 0]
        if self.fitted.targets is None:
            labels = np.array([one.encode() for one in self.fitted.labels], object)
            return [("label", labels[ys.argmax(-1)]), ("scores", ys)]
        flat = torch.from_numpy(ys.reshape(-1, ys.shape[-1]))
        values = np.asarray(self.fitted.meaning(flat).numpy(), np.float64)
        return [("y", values.reshape(*ys.shape[:-1], *values.shape[1:]))]


def meaning_of(name: str, rnn: Any, fitted: Fitted | None = None, is_text: bool = False) -> Meaning:
    """What the numbers of a model mean.

    Raises:
        ModelFileError: it cannot be served, with the reason.
    """
    if not isinstance(rnn, Recurrent):
        raise ModelFileError(f"{name} is a {type(rnn).__name__}, but what is served is a treadle.Recurrent")
    weights = {parameter.dtype for parameter in rnn.parameters() if parameter.is_floating_point()}
    if weights not in ({torch.float32}, {torch.float64}):
        found = ", ".join(sorted(map(str, weights))) or "no floats"
        raise ModelFileError(f"{name} has weights of {found}, but what is served has float32 or float64 alone")
    if rnn.input_size is None:
        raise ModelFileError(f"{name} does not say its input_size, which its clients have to know: give its cell one")
    dtype = np.dtype("<f4" if weights == {torch.float32} else "<f8")
    if fitted is not None:
        return FittedMeaning(fitted, dtype)
    return TextMeaning(rnn, dtype) if is_text else Meaning(rnn, dtype, _output_row(rnn))


@torch.no_grad()
def _output_row(rnn: Recurrent) -> tuple[int, ...]:
    """The shape of one row of what a network gives, which is what a step gives."""
    size = rnn.input_size
    row = (size,) if isinstance(size, int) else tuple(size)
    weight = next(one for one in rnn.parameters() if one.is_floating_point())
    x = torch.zeros(1, *row, dtype=weight.dtype if row else torch.long)
    return tuple(rnn.step(x)[0].shape[1:])
