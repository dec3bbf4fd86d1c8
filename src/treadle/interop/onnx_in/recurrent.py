"""LSTM, GRU and RNN nodes over time, in one direction, the other, or both."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from treadle.adapt.gate_orders import ONNX, OURS, reordered
from treadle.cells import GRUCell, HiddenState, RNNCell
from treadle.errors import InteropError
from treadle.interop.onnx_in.cells import HiddenAndCell, LSTMNodeCell, activations, clipped
from treadle.running.recurrent import Recurrent
from treadle.running.reversed import run_reversed

_USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_KNOWN = {
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget", "layout",
    "linear_before_reset", "output_sequence",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class NodeWeights:
    """The weights of a node, an axis for the directions first: W, R, and B and P, where there are any."""

    W: Tensor
    R: Tensor
    B: Tensor | None = None
    P: Tensor | None = None


class RecurrentNode(nn.Module):
    """A node that runs over time.

    Args:
        kind: ``"LSTM"``, ``"GRU"`` or ``"RNN"``.
        attributes: those of the node.
        name: what the node is called, for messages.
        engine: what runs the steps, as of `treadle.Recurrent`.
        weights: where they are constants; else each call is given them.

    Raises:
        InteropError: an attribute that is not known, or an activation.
    """

    def __init__(
        self, kind: str, attributes: Mapping[str, Any], name: str, engine: str, weights: NodeWeights | None = None
    ):
        super().__init__()
        unknown = sorted(attributes.keys() - _KNOWN)
        if unknown:
            raise InteropError(f"node {name}: {kind} with {', '.join(unknown)} cannot be read")
        self.kind, self.attributes, self.name, self.engine = kind, dict(attributes), name, engine
        self.batch_first = bool(attributes.get("layout", 0))
        self.directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[
            attributes.get("direction", "forward")
        ]
        self.networks = nn.ModuleList()
        self._given: list[Recurrent] = []  # what each call gives weights to is no part of the network
        if weights is not None:
            self.networks = nn.ModuleList(self._built(weights))

    def _built(self, weights: NodeWeights) -> list[Recurrent]:
        usual, count = _USUAL[self.kind], len(_USUAL[self.kind])
        names = self.attributes.get("activations") or usual * len(self.directions)
        try:
            functions = activations(
                names, self.attributes.get("activation_alpha", ()), self.attributes.get("activation_beta", ())
            )
        except KeyError as error:
            raise InteropError(f"node {self.name}: there is no activation {error.args[0]}") from None
        clip = self.attributes.get("clip", math.inf)
        return [
            Recurrent(
                self._cell(weights, n, functions[count * n : count * (n + 1)], clip),
                batch_first=False,
                engine=self.engine,
            ).eval()
            for n in range(len(self.directions))
        ]

    def _cell(self, weights: NodeWeights, n: int, functions: list[Any], clip: float) -> nn.Module:
        functions = [*(clipped(one, clip) for one in functions[:2]), *functions[2:]]  # not of what comes out of an LSTM
        given = self._numbers(weights, n)
        if self.kind == "LSTM":
            return LSTMNodeCell(**given, functions=functions, input_forget=bool(self.attributes.get("input_forget", 0)))
        sizes: Any = (weights.W.shape[2], weights.R.shape[2], weights.B is not None)
        if self.kind == "GRU":
            reset_after = bool(self.attributes.get("linear_before_reset", 0))
            f, g = functions
            cell: Any = GRUCell(*sizes, activation=g, gate_activation=f, reset_after=reset_after, device="meta")
        else:
            cell = RNNCell(*sizes, nonlinearity=functions[0], device="meta")
        for name, tensor in given.items():
            setattr(cell, name, nn.Parameter(tensor))
        return cell

    def _numbers(self, weights: NodeWeights, n: int) -> dict[str, Any]:
        """Those of a direction's cell, by name."""
        W, R, B, P = (None if one is None else one[n] for one in (weights.W, weights.R, weights.B, weights.P))
        if self.kind == "LSTM":
            return {"W": W, "R": R, "B": B, "P": P}
        found = {"weight_ih": W, "weight_hh": R}
        if B is not None:
            found["bias_ih"], found["bias_hh"] = B.chunk(2)
        return {name: reordered(tensor, ONNX[self.kind], OURS[self.kind]) for name, tensor in found.items()}  # pyright: ignore

    def give(self, weights: NodeWeights) -> None:
        """Take the weights of a call."""
        self._given = self._given or self._built(weights)
        for n, network in enumerate(self._given):
            with torch.no_grad():
                for name, tensor in self._numbers(weights, n).items():
                    if tensor is not None:
                        getattr(network.cell, name).copy_(tensor)

    def forward(
        self, xs: Tensor, lengths: Tensor | None = None, h: Tensor | None = None, c: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Y, Y_h, and of an LSTM Y_c, in the node's layout.

        Args:
            xs: [T, B, I], or [B, T, I] where the layout is 1.
            lengths: [B], or None.
            h: [directions, B, H], or [B, directions, H]; None for zeros.
            c: the same.
        """
        if self.batch_first:
            xs = xs.transpose(0, 1)
            h, c = (None if one is None else one.transpose(0, 1) for one in (h, c))
        lengths = None if lengths is None else lengths.long()
        found = [self._one_direction(n, xs, lengths, h, c) for n in range(len(self.directions))]
        ys = torch.stack([ys for ys, _ in found], 1)  # [T, directions, B, H]
        after = [torch.stack(parts) for parts in zip(*(state for _, state in found), strict=True)]
        if self.batch_first:
            ys, after = ys.permute(2, 0, 1, 3), [part.transpose(0, 1) for part in after]
        return ys, *after

    def _one_direction(
        self, n: int, xs: Tensor, lengths: Tensor | None, h: Tensor | None, c: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        network: Any = (self.networks or self._given)[n]
        state = None
        if h is not None or c is not None:
            zeros = network.cell.initial_state(xs.shape[1])
            first = zeros.h if h is None else h[n]
            state = HiddenAndCell(first, zeros.c if c is None else c[n]) if self.kind == "LSTM" else HiddenState(first)
        ys, after = (
            run_reversed(network, xs, state, lengths) if self.directions[n] else network(xs, state, lengths=lengths)
        )
        if lengths is not None:  # of a row without steps ONNX Runtime gives zeros
            after = [torch.where((lengths > 0)[:, None], part, 0) for part in after]
        return ys, after
