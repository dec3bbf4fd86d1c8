"""A backward pass bound to where its parameters lie: see `BoundPass`.

Most gradients are what a kernel has written, perhaps with axes in another order or with one axis less. In which form a
gradient lay in the memory that a kernel wrote was seen once; then kernels write to new memory of that form.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from treadle.engines.cpu.plan.backward import BackwardRecipe
from treadle.engines.cpu.plan.bound_pass import BoundPass, Form, Passed
from treadle.engines.cpu.plan.call_form import CallForm
from treadle.engines.cpu.plan.invariants import Invariants
from treadle.engines.cpu.plan.rows import Role, TensorKey


class BoundBackward:
    """A backward pass, bound to the parameters among the arguments of a call.

    Args:
        places: of each argument and start, which of the new tensors is its gradient, if it has any.

    Attributes:
        fits: whether the parameters among some arguments are where those were.
    """

    def __init__(self, bound: BoundPass, places: Sequence[int | None]):
        self._bound, self._places, self.fits = bound, places, bound.fits

    @staticmethod
    def of(
        recipe: BackwardRecipe,
        invariants: Invariants,
        form: CallForm,
        arguments: Sequence[Tensor],
        tensors: Mapping[TensorKey, Tensor],
        gradients: Sequence[Tensor | None],
    ) -> "BoundBackward | None":
        """The pass, bound to these arguments.

        Args:
            recipe: its recipe.
            invariants: the step from arguments to what it reads.
            form: of the call.
            arguments: of the call, with rows as [N, ...].
            tensors: the recipe was followed with them.
            gradients: what the call gave, None where nobody asks.

        Returns:
            The pass; None where PyTorch computes any of the gradients, or where parameters are read from copies.
        """
        passed, count = recipe.passed, len(recipe.links.outputs)
        if form.groups:
            ends = {TensorKey(Role.END_GRADIENT, k): Passed(count + i, None, *part) for k, i, *part in form.places()}
            passed = {key: ends.get(key, one) for key, one in passed.items()}
        if not BoundPass.can_be(recipe.supply, passed):
            return None
        written = {tensors[key].data_ptr(): key for key in recipe.supply.written if tensors[key].numel()}
        owners: dict[TensorKey, Tensor] = {}
        places: list[int | None] = []
        for gradient in gradients:
            if gradient is None:
                places.append(None)
                continue
            key = written.get(gradient.data_ptr())
            if (
                key is None
                or not _is_all_of(gradient, tensors[key])
                or owners.setdefault(key, gradient) is not gradient
            ):
                return None
            places.append(list(owners).index(key))
        wanted = [(_form_of(gradient), [key]) for key, gradient in owners.items()]
        bound = BoundPass(recipe.supply, invariants, form, arguments, tensors, passed, wanted)
        return BoundBackward(bound, places) if bound.reads_no_copies() else None

    def run(
        self,
        arguments: Sequence[Tensor],
        from_above: Sequence[Any],
        made: Sequence[Tensor],
        kept: Tensor | None,
    ) -> list[Tensor | None]:
        """The gradients of arguments and starts. Two arguments with the same gradient get the same tensor."""
        results, _ = self._bound.run(arguments, from_above, made, kept)
        return [None if place is None else results[place] for place in self._places]


def _form_of(gradient: Tensor) -> Form:
    return Form(tuple(gradient.shape), None if gradient.is_contiguous() else tuple(gradient.stride()))


def _is_all_of(view: Tensor, whole: Tensor) -> bool:
    """Whether a view has all numbers of a dense tensor, in any order."""
    last = sum((size - 1) * stride for size, stride in zip(view.shape, view.stride(), strict=True))
    return view.dtype == whole.dtype and view.numel() == whole.numel() == last + 1 and whole.is_contiguous()
