"""Stages over sequences as nodes: classic layers as LSTM, GRU and RNN nodes, any other network by its program."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from treadle.interop.exported_step import ExportedStep
from treadle.interop.onnx_nodes.classic import classic_layers, go_together, put_layers
from treadle.interop.onnx_nodes.sequence import SequenceNodes
from treadle.interop.onnx_nodes.writer import TYPES, Writer
from treadle.interop.sequence import Direction


class Stages:
    """Puts down stages, one after another.

    Args:
        writer: of the graph.
        xs: the name of the sequence.
        lengths: of the steps of each row [B], T or more where it is whole.
        time_first: whether the sequence is [T, B, ...], or [B, T, ...].
        symbols: whether the sequence is of whole numbers, one a step.
        states: the names of the states before the first step, by what the file calls them.

    Attributes:
        after: the names of the states after the last step of each row, of the stages that were put down.
    """

    def __init__(
        self, writer: Writer, xs: str, lengths: str, time_first: bool, symbols: bool, states: Mapping[str, str]
    ):
        self.writer, self.states, self.after = writer, states, {}
        self._sequence, self._axes, self._time_first, self._outside = xs, 0, time_first, time_first
        axis = 0 if time_first else 1
        count = writer.node("Shape", xs, start=axis, end=axis + 1)
        self.lengths = writer.node("Min", lengths, count)
        zero, one = writer.constant(0, np.int64), writer.constant(1, np.int64)
        each = writer.node("Range", zero, writer.node("Squeeze", count, writer.indices(0)), one)
        self._active = {
            first: writer.node("Less", *(writer.node("Unsqueeze", name, writer.indices(n)) for name, n in axes))
            for first, axes in {True: ((each, 1), (self.lengths, 0)), False: ((each, 0), (self.lengths, 1))}.items()
        }
        if symbols:  # padding may hold any, but there has to be a row of the table for each
            self._sequence = writer.node("Where", self._active[time_first], xs, zero)

    def put(self, directions: Sequence[Direction], steps: Sequence[ExportedStep], last: bool) -> None:
        """A stage that reads what the stages before it give; past the ends the last one gives zeros."""
        self._axes = len(steps[0].x.shape) + 1
        # What has no state takes steps in any order, and may give wide rows, which take long to turn.
        self._turn(True if any(step.initial for step in steps) else self._outside)
        self._sequence = self._stage(directions, steps, last)
        self._axes = len(steps[0].program.outputs["y"].shape) + 1

    def outputs(self) -> str:
        """The name of what the last stage gives, as the sequence lies."""
        self._turn(self._outside)
        return self._sequence

    def _turn(self, time_first: bool) -> None:
        if self._time_first != time_first:
            self._sequence = self.writer.node("Transpose", self._sequence, perm=[1, 0, *range(2, self._axes)])
            self._time_first = time_first

    def _stage(self, directions: Sequence[Direction], steps: Sequence[ExportedStep], last: bool) -> str:
        layers = [classic_layers(step.network.cell) for step in steps]
        if len(layers) == 2 and all(one is not None and len(one) == 1 for one in layers):
            pair = [one[0] for one in layers if one is not None]
            if go_together(pair[0][1], pair[1][1]):
                names = [(one.path, cell) for one, (_, cell) in zip(directions, pair, strict=True)]
                return self._nodes([names], False)
        outputs = [self._direction(one, step, last) for one, step in zip(directions, steps, strict=True)]
        return outputs[0] if len(outputs) == 1 else self.writer.node("Concat", *outputs, axis=-1)

    def _direction(self, direction: Direction, step: ExportedStep, last: bool) -> str:
        layers = classic_layers(step.network.cell)
        if layers is not None:
            own = [[(direction.name(path) if path else direction.path, cell)] for path, cell in layers]
            return self._nodes(own, direction.reverse)
        given = self._mirrored(self._sequence) if direction.reverse else self._sequence
        names = {component: direction.name(component.removeprefix("state/")) for component in step.initial}
        states = {component: self.states[name] for component, name in names.items()}
        nodes = SequenceNodes(self.writer, step, given, self.lengths, self._active[self._time_first], states)
        ys, after = nodes.put(masked=last)
        self.after |= {names[component]: name for component, name in after.items()}
        return self._mirrored(ys) if direction.reverse else ys

    def _nodes(self, layers: list[list[tuple[str, Any]]], reverse: bool) -> str:
        lengths = self.writer.node("Cast", self.lengths, to=TYPES[torch.int32])
        ys, after = put_layers(self.writer, layers, self._sequence, lengths, self.states, reverse)
        self.after |= after
        return ys

    def _mirrored(self, xs: str) -> str:
        """The steps of each row from its own end to its start; padding stays."""
        return self.writer.node("ReverseSequence", xs, self.lengths, time_axis=0, batch_axis=1)
