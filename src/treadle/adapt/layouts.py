"""Rules for weights that another library lays out in another way: transposed, gates in another order, other biases."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor

from treadle.adapt.gate_orders import reordered
from treadle.adapt.patterns import close_to
from treadle.errors import AdaptError


@dataclasses.dataclass(frozen=True)
class Transpose:
    """Put the axes of a tensor in another order: Keras' kernel [inputs, outputs] becomes a weight [outputs, inputs].

    A square matrix fits either way, so no shape shows that it has to be transposed: name it in a rule.

    Args:
        axes: which axis of the given tensor comes first, second, and so on; by default they are turned around.
            ``(3, 2, 0, 1)`` turns a kernel of a convolution [height, width, inputs, outputs] into PyTorch's.
        source: as in `Copy`.
    """

    axes: tuple[int, ...] | None = None
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Gates:
    """Put the gates, equal blocks of an axis, into another order: ``Gates("iofg", "ifgo")``.

    | library | LSTM | GRU |
    | --- | --- | --- |
    | PyTorch, treadle, cuDNN | i f g o | r z n |
    | Keras | i f c o (c is g) | z r h (h is n) |
    | ONNX | i o f c | z r h |

    Args:
        given: a letter for each gate, in the order of the given weights.
        wanted: the same letters, in the order of the network.
        axis: which axis the blocks lie along, after the rules before this one.
        source: as in `Copy`.
    """

    given: str
    wanted: str
    axis: int = 0
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """Take one of several equal parts of an axis: ONNX keeps both biases of a layer in one tensor, one after the other.

    Args:
        number: which part, from 0.
        of: how many parts there are.
        axis: which axis they lie along. Where each index is a part, the axis is dropped.
        source: as in `Copy`.
    """

    number: int
    of: int
    axis: int = 0
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class MergeBiases:
    """Turn two biases into one, their sum; or one into two: the first of them is the given one, the other is zero.

    The two biases of a layer are only ever added to each other, except those of a GRU's candidate where the reset gate
    is applied after the product (PyTorch, cuDNN, Keras with ``reset_after``): there the recurrent one is multiplied by
    the reset gate. A sum of such biases is refused, unless the recurrent bias is zero.

    Args:
        source: the bias; or the first of two.
        second: the other one, of the recurrent product. Without it the pattern has to name two tensors of the network.
        gru: whether these are the biases of such a GRU. By default that is read from the weights beside ``second``,
            [3 H, H] or [H, 3 H].
    """

    source: str
    second: str | None = None
    gru: bool | None = None


@dataclasses.dataclass(frozen=True)
class Where:
    """What a rule is applied to: for the words of a refusal."""

    name: str
    pattern: str

    def refuse(self, value: Tensor, tensor: Tensor, why: str) -> AdaptError:
        return AdaptError(
            f"the rule for {self.pattern!r} does not fit {self.name}, which is {list(value.shape)} in the given weights"
            f" and {list(tensor.shape)} in the network: {why}"
        )


Made = tuple[Tensor, str, str]
"""What a rule makes of a tensor, what was done, and how."""


def transposed(step: Transpose, value: Tensor, tensor: Tensor, where: Where) -> Made:
    """See `Transpose`."""
    axes = tuple(reversed(range(value.ndim))) if step.axes is None else tuple(step.axes)
    if sorted(axes) != list(range(value.ndim)):
        raise where.refuse(value, tensor, f"axes={axes} are not its {value.ndim} axes, each once")
    return value.permute(axes), "copied", "transposed" if step.axes is None else f"axes {', '.join(map(str, axes))}"


def gates_in_order(step: Gates, value: Tensor, tensor: Tensor, where: Where) -> Made:
    """See `Gates`."""
    if not step.given or sorted(step.given) != sorted(step.wanted) or len(set(step.given)) != len(step.given):
        raise where.refuse(
            value, tensor, f"Gates({step.given!r}, {step.wanted!r}) does not name the same gates, a letter for each"
        )
    axis = _axis(step.axis, value, tensor, where)
    if value.shape[axis] % len(step.given):
        raise where.refuse(value, tensor, f"axis {axis} is not made of {len(step.given)} gates of one size")
    return reordered(value, step.given, step.wanted, axis), "copied", f"gates {step.given} to {step.wanted}"


def part(step: Part, value: Tensor, tensor: Tensor, where: Where) -> Made:
    """See `Part`."""
    axis = _axis(step.axis, value, tensor, where)
    size = value.shape[axis]
    if step.of < 1 or size % step.of or not 0 <= step.number < step.of:
        raise where.refuse(value, tensor, f"axis {axis} has no part {step.number} of {step.of} equal ones")
    size //= step.of
    taken = value.narrow(axis, step.number * size, size)
    return taken.squeeze(axis) if size == 1 else taken, "copied", f"part {step.number} of {step.of}"


def merged(step: MergeBiases, pattern: str, source: str, second: str, given: Mapping[str, Tensor]) -> Tensor:
    """The sum of two biases; see `MergeBiases`."""
    if second not in given:
        raise AdaptError(
            f"the rule for {pattern!r} adds {second!r} to {source!r}, but the given weights have no such tensor"
            f"{close_to(second, given)}"
        )
    first, other = given[source], given[second]
    if first.shape != other.shape:
        raise AdaptError(
            f"the rule for {pattern!r} adds {second!r} {list(other.shape)} to {source!r} {list(first.shape)}, but two"
            " biases that are merged have one shape: name the biases of one layer"
        )
    if step.gru is not False and bool(other.any()) and (step.gru or _has_three_gates(second, given)):
        raise AdaptError(
            f"the rule for {pattern!r} adds {second!r}, which is not zero, but in a GRU the recurrent bias of the"
            " candidate is multiplied by the reset gate, so there is no such sum: give the network two biases; if these"
            " are of another cell with three gates, pass gru=False"
        )
    return first + other


def _has_three_gates(bias: str, given: Mapping[str, Tensor]) -> bool:
    """Whether the recurrent weights beside a bias are [3 H, H] or [H, 3 H], of three gates."""
    size = given[bias].numel()
    beside = bias.rpartition(".")[0]
    matrices = (t for name, t in given.items() if name.rpartition(".")[0] == beside and t.ndim >= 2)
    return any(sorted(matrix.shape[-2:]) == [size // 3, size] for matrix in matrices)


def fitting_axes(has: Sequence[int], wants: Sequence[int]) -> tuple[int, ...] | None:
    """The order of axes in which a shape is the one that is wanted; that of Keras' kernels where several are."""
    usual = (*range(len(has) - 1, len(has) - 3, -1), *range(len(has) - 2))
    orders = [usual, *itertools.permutations(range(len(has)))] if 2 <= len(has) <= 5 else []
    return next((order for order in orders if [has[axis] for axis in order] == list(wants)), None)


def _axis(axis: int, value: Tensor, tensor: Tensor, where: Where) -> int:
    if not isinstance(axis, int) or not -value.ndim <= axis < value.ndim:
        raise where.refuse(value, tensor, f"there is no axis {axis}")
    return axis % value.ndim
