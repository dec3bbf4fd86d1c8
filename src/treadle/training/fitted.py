"""A trained network with its scaling, column names and labels, in one model file."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.errors import DataError, ModelFileError
from treadle.files import model_file
from treadle.running.recurrent import Recurrent
from treadle.training.evaluate import outputs_of
from treadle.training.scaling import Scaling, fill_previous
from treadle.training.source import Source


@dataclasses.dataclass
class Fitted:
    """What ``treadle fit`` makes of series and labelled sequences: a network with scaling, names and labels.

    Attributes:
        model: the network: scaled inputs [B, T, I] in; scores of labels, or scaled numbers, [B, T, K] out.
        inputs: names and scaling of the I columns that it reads.
        targets: names and scaling of the columns that it predicts; None for a classifier.
        labels: the labels of a classifier, in the order of its scores.
        predict: ``"every"`` (many-to-many) or ``"last"`` (many-to-one).
        horizon: forecast horizon, in steps; 0 for the present step; None if it does not forecast.
        window: steps that it reads for a forecast with ``predict="last"``; else None.
        source: the columns of its tables beside those that it reads, and how their sets were split.

    Example:
        >>> import torch, treadle as td
        >>> from treadle.training import Fitted, sequence_model
        >>> from treadle.training.scaling import Scaling
        >>> xs = 20 + torch.randn(50, 1)
        >>> fitted = Fitted(sequence_model(1, 2, hidden_size=4), Scaling.fit(["heat"], [xs]), labels=("day", "night"))
        >>> fitted.save("day.safetensors")
        >>> again = Fitted.load("day.safetensors")
        >>> again.predict_all([xs])[0] in ("day", "night")
        True
    """

    model: Recurrent
    inputs: Scaling
    targets: Scaling | None = None
    labels: tuple[str, ...] = ()
    predict: str = "last"
    horizon: int | None = None
    window: int | None = None
    source: Source = dataclasses.field(default_factory=Source)

    @property
    def outputs_per_step(self) -> int:
        """``K`` of the network: a score for each label, or a number for each target and step ahead."""
        return len(self.labels) if self.targets is None else max(self.horizon or 1, 1) * len(self.targets.names)

    def check(self) -> None:
        """Refuse what no fit makes.

        Raises:
            ValueError: with what it is.
        """
        if self.predict not in ("last", "every"):
            raise ValueError(f"predict is {self.predict!r:.40}")
        for name, least in (("horizon", 0), ("window", 1)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not least <= value <= 10**9):
                raise ValueError(f"{name} is {value!r:.40}")
        if not all(isinstance(label, str) for label in self.labels) or (self.targets is None) != bool(self.labels):
            raise ValueError("labels")
        if self.horizon is not None and self.targets is None:
            raise ValueError("a horizon without targets")

    def refuse_other(self, name: str, inputs: Sequence[str], targets: Sequence[str] | None) -> None:
        """Refuse data that the network cannot be trained further on.

        Args:
            name: how messages call the data.
            inputs: its columns, as many and in the order in which the network would read them.
            targets: what there is to be predicted; None if it is labels.

        Raises:
            DataError: with what differs.
        """

        def words(names: Sequence[str] | None) -> str:
            return "labels" if names is None else ", ".join(names)

        ours = None if self.targets is None else self.targets.names
        for what, here, there in (("reads", inputs, self.inputs.names), ("predicts", targets, ours)):
            if words(here) != words(there):
                raise DataError(
                    f"{name}: the resumed network {what} {words(there)}, but here it would be {words(here)}"
                )

    def refuse_option(self, name: str, value: Any) -> None:
        """Refuse an option that says something else than what the network was made for.

        Raises:
            DataError: with what it was made for.
        """
        if value not in (None, getattr(self, name)):
            raise DataError(
                f"`{name}={value!r}`: the resumed network was made with {getattr(self, name)}; leave it out"
            )

    def scale(self, xs: Tensor) -> Tensor:
        """A sequence in its own units, [T, I], as the network reads it; a missing value is as the one before it."""
        if xs.ndim != 2 or xs.shape[1] != len(self.inputs.names):
            raise DataError(
                f"a sequence is [T, {len(self.inputs.names)}] ({', '.join(self.inputs.names)}), but"
                f" {list(xs.shape)} was passed"
            )
        return fill_previous(self.inputs.apply(xs))

    def outputs(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """The network's outputs for sequences in their own units, each [T, K]; see `meaning`."""
        scaled = [self.scale(one) for one in xs]
        if self.window is None:
            return outputs_of(self.model, scaled)
        # Only last answers count, so each step needs a window of its own, from the initial state.
        found = []
        for one in scaled:
            windows = [one[max(end - self.window, 0) : end] for end in range(1, len(one) + 1)]
            found.append(torch.stack([ys[-1] for ys in outputs_of(self.model, windows)]))
        return found

    def meaning(self, ys: Tensor) -> Any:
        """Outputs [T, K] as predictions: T labels; or numbers in their own units, [T, K], forecasts [T, horizon, K]."""
        if self.targets is None:
            return [self.labels[place] for place in ys.argmax(-1).tolist()]
        if self.horizon is not None:
            ys = ys.unflatten(-1, (max(self.horizon, 1), len(self.targets.names)))
        return self.targets.undo(ys)

    def predict_all(self, xs: Iterable[Tensor], places: Sequence[str] = ()) -> list[Any]:
        """Predictions for sequences in their own units.

        Args:
            xs: each [T, I], NaN where a value is missing.
            places: how messages call each of them.

        Returns:
            For each: with ``predict="every"`` or forecasts the predictions of all steps, in the form of `meaning`, else
            the last. Numbers are as precise as those that were passed.

        Raises:
            DataError: a sequence has other columns, no steps, or numbers that give no finite prediction.
        """
        xs = list(xs)
        places = places or [f"sequence {i}" for i in range(len(xs))]
        for one, place in zip(xs, places, strict=True):
            if not len(one):
                raise DataError(f"{place} has no steps to predict from")
        outputs = self.outputs(xs)
        for ys, place in zip(outputs, places, strict=True):
            wrong = (~ys.isfinite()).any(-1).nonzero()
            if len(wrong):
                raise DataError(
                    f"{place}, step {int(wrong[0]) + 1}: the network's output is not a finite number: correct values"
                    " that are far from those of the training set, or train it again"
                )
        answers = [self.meaning(ys) for ys in outputs]
        if self.targets is not None:
            answers = [answer.to(one.dtype) for answer, one in zip(answers, xs, strict=True)]
        every = self.predict == "every" or self.horizon is not None
        return answers if every else [answer[-1] for answer in answers]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one model file; `treadle.load` reads only the network of it.

        Raises:
            OSError: the file cannot be written.
        """
        values = {
            "inputs": self.inputs.as_json(),
            "targets": None if self.targets is None else self.targets.as_json(),
            "labels": list(self.labels),
            "predict": self.predict,
            "horizon": self.horizon,
            "window": self.window,
            "source": self.source.as_json(),
        }
        model_file.save(path, self.model, {"fitted": values})

    @classmethod
    def load(cls, path: str | os.PathLike[str], cells: Iterable[type] = ()) -> "Fitted":
        """Read what `save` wrote. Nothing that the file names is imported or run.

        Raises:
            ModelFileError: the file is damaged, or holds a network alone.
            OSError: the file cannot be read.
        """
        model, notes = model_file.load(path, cells), model_file.read_notes(path)
        if "fitted" not in notes or not isinstance(model, Recurrent):
            raise ModelFileError(
                f"{path} does not describe the inputs and outputs of its network: make one with"
                " 'treadle fit DATA -o MODEL'"
            )
        try:
            values = notes["fitted"]
            inputs = Scaling.from_json(values["inputs"])
            targets = None if values["targets"] is None else Scaling.from_json(values["targets"])
            rest = {name: values[name] for name in ("predict", "horizon", "window")}
            source = Source.from_json(values["source"]) if "source" in values else Source()
            found = cls(model, inputs, targets, tuple(values["labels"]), **rest, source=source)
            found.check()
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"{path} is damaged: its description of inputs and outputs does not fit ({error})"
            ) from None
        if (model.input_size, model.output_size) != (len(inputs.names), found.outputs_per_step):
            raise ModelFileError(
                f"{path} is damaged: its network reads {model.input_size} numbers and gives {model.output_size}, but it"
                f" says that there are {len(inputs.names)} and {found.outputs_per_step}"
            )
        return found
