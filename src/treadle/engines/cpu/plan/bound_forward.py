"""A forward pass bound to where its parameters lie: see `BoundPass`."""

from collections.abc import Sequence

from torch import Tensor

from treadle.engines.cpu.plan.bound_pass import BoundPass, Form, Passed
from treadle.engines.cpu.plan.call_form import CallForm
from treadle.engines.cpu.plan.forward import ForwardRecipe
from treadle.engines.cpu.plan.invariants import Invariants
from treadle.engines.cpu.plan.rows import Role, TensorKey, keys_of


class BoundForward:
    """A forward pass, bound to the parameters among the arguments of a call.

    Attributes:
        fits: whether the parameters among some arguments are where those were.
    """

    def __init__(self, forward: ForwardRecipe, bound: BoundPass):
        self._forward, self._bound, self.fits = forward, bound, bound.fits

    @staticmethod
    def of(
        forward: ForwardRecipe,
        invariants: Invariants,
        form: CallForm,
        arguments: Sequence[Tensor],
        starts: Sequence[Tensor],
    ) -> "BoundForward | None":
        """The pass, bound to these arguments; None where it reads copies of parameters, or what PyTorch makes of them.

        So it is where rows lack steps or are reset.
        """
        passed = {key: Passed(k) for k, key in enumerate(keys_of(Role.START, forward.links.states))}
        if not BoundPass.can_be(forward.supply, passed):
            return None
        layout, flat = form.layout, form.flat(arguments, invariants.arguments)
        tensors = forward.tensors(layout, invariants.inputs(flat), starts, starts)
        outputs = forward.results[: len(forward.links.outputs)]
        axes = (layout.steps, layout.batch) if form.by_step else (layout.rows,)
        wanted = [(Form((*axes, *tensors[key].shape[1:])), [key]) for key in outputs]
        for group in form.groups or [(k,) for k in range(forward.links.states)]:
            keys = [TensorKey(Role.END, k) for k in group]
            wanted.append((Form((*([len(keys)] if form.groups else []), *tensors[keys[0]].shape)), keys))
        bound = BoundPass(forward.supply, invariants, form, flat, tensors, passed, wanted)
        return BoundForward(forward, bound) if bound.reads_no_copies() else None

    def run(
        self, arguments: Sequence[Tensor], starts: Sequence[Tensor], made: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """Outputs and final states, and the memory that the backward pass reads."""
        results, kept = self._bound.run(arguments, starts, made)
        return self._forward.given_back(results), kept
