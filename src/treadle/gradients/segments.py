"""A sequence in segments, as one node of autograd.

Each segment has a graph of its own: it begins at stand-ins for what it reads, the state before it among them. So the
node itself decides what happens at the borders. The graphs are kept from the forward pass on, or made again one after
another while going back. What comes from above at a segment goes back as far as ``reach`` says; gradients of different
reach go back side by side, because where one of them ends the other goes on.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.engines import Call, Result, run
from treadle.engines.autograd import gradients_of
from treadle.generators import Generators, generators, generators_at
from treadle.gradients.schedule import backwards, kept_at_first
from treadle.gradients.surroundings import Surroundings, leaves_beyond
from treadle.protocol import State
from treadle.state import map_state, named_tensors, with_tensors
from treadle.torch_internals import is_batched

Found = list[Tensor | None]
"""Gradients, None where none flows."""


class Trial:
    """A step or two of a call, run beforehand to see what it depends on."""

    def __init__(self, call: Call):
        self.call = call
        self.surroundings = Surroundings(call.cell, call.xs.device)
        results, leaves = self.run(1)
        self.others = leaves_beyond(_listed(results), leaves)
        """Tensors besides the cell's own that gradients flow to: leaves that its Python reaches on other ways."""

    def run(self, steps: int) -> tuple[Result, list[Tensor]]:
        """What the first steps give, as if they had not been run, and the leaves of their graph."""
        call, device = self.call.beginning(steps), self.call.xs.device
        sources = [_stand_in(tensor, True) for tensor in self.surroundings.sources]
        state, initial = (map_state(lambda t: _stand_in(t, True), part) for part in (call.state, call.initial))
        xs = _stand_in(call.xs, self.call.xs.requires_grad)
        before = generators(device)
        with torch.enable_grad(), generators_at(device, before), self.surroundings.again(sources):
            results = run(dataclasses.replace(call, xs=xs, state=state, initial=initial))
            self.is_random = generators(device, before) is not before
        return results, [xs, *sources, *(tensor for part in (state, initial) for _, tensor in named_tensors(part))]

    @property
    def is_differentiated(self) -> bool:
        """Whether there is anything that gradients flow to."""
        call = self.call
        parts = (call.state,) if call.resets is None else (call.state, call.initial)
        given = [call.xs, *(tensor for part in parts for _, tensor in named_tensors(part))]
        return bool(self.surroundings.sources or self.others) or any(tensor.requires_grad for tensor in given)


def run_in_segments(
    call: Call,
    trial: "Trial",
    segments: Sequence[tuple[int, int]],
    reach: Sequence[int],
    most: int | None,
    plain: Callable[[Call], Result],
) -> Result:
    """Run a cell over a sequence whose gradient goes back in segments.

    Args:
        call: the cell and the sequence.
        trial: what the call depends on.
        segments: begin and end of each, up to ``call.steps``.
        reach: for each segment the first one that what comes from above there gets back to; it never falls.
        most: how many states to keep at a time, to run each segment again from; None to keep every segment's graph.
        plain: runs a call as autograd itself can follow it: for the derivative of the derivative.
    """
    plan = _Plan(call, trial.surroundings, segments, reach, most, plain)
    tensors = [tensor for part in (call.state, plan.fresh) for _, tensor in named_tensors(part)]
    tensors += [*trial.surroundings.sources, *trial.others]
    results: Any = _Node.apply(plan, call.xs, call.lengths, call.resets, call.mask, *tensors)  # pyright: ignore
    count = plan.states
    every = plan.like_state(results[1 + count :]) if call.return_states else None
    return Result(results[0], plan.like_state(results[1 : 1 + count]), every)


class _Plan:
    """What stays the same between the passes."""

    def __init__(
        self,
        call: Call,
        surroundings: Surroundings,
        segments: Sequence[tuple[int, int]],
        reach: Sequence[int],
        most: int | None,
        plain: Callable[[Call], Result],
    ):
        self.segments, self.reach, self.most, self.plain = segments, reach, most, plain
        self.surroundings = surroundings
        self.states = len(named_tensors(call.state))
        # Without resets nothing starts from the initial state.
        self.fresh = call.initial if call.resets is not None else ()
        # The tensors among the arguments are saved by autograd, which sees to it that nobody writes into them.
        without = {"lengths": None, "resets": None, "mask": None}
        self.call = dataclasses.replace(call, xs=call.xs.new_empty(0, *call.xs.shape[1:]), **without)

    def like_state(self, tensors: Sequence[Tensor]) -> State:
        """A state of these tensors."""
        return with_tensors(self.call.state, tensors)

    def given(self, xs: Tensor, lengths: Any, resets: Any, mask: Any, tensors: Sequence[Tensor]) -> "_Given":
        """The node's inputs, told apart."""
        state, rest = list(tensors[: self.states]), list(tensors[self.states :])
        fresh, sources = (rest[: self.states], rest[self.states :]) if self.fresh else ([], rest)
        call = dataclasses.replace(self.call, xs=xs, lengths=lengths, resets=resets, mask=mask)
        return _Given(self, call, state, fresh, sources)


@dataclasses.dataclass
class _Given:
    """The inputs of the node."""

    plan: _Plan
    call: Call
    state: list[Tensor]
    fresh: list[Tensor]
    sources: list[Tensor]

    def told_apart(self, parts: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """What belongs to the state, to the initial state and to the sources."""
        state, fresh = len(self.state), len(self.state) + len(self.fresh)
        return list(parts[:state]), list(parts[state:fresh]), list(parts[fresh:])

    def run(self, segment: int, state: Sequence[Tensor]) -> list[Tensor]:
        """A segment without its derivative: outputs, the state after it, every state."""
        begin, end = self.plan.segments[segment]
        initial = self.plan.like_state(self.fresh) if self.fresh else self.call.initial
        return _listed(run(self.call.part(begin, end, self.plan.like_state(state), initial)))

    def graph(self, segment: int, state: Sequence[Tensor], needs: "_Needs") -> "_Segment":
        """A segment with its derivative."""
        begin, end = self.plan.segments[segment]
        xs = _stand_in(self.call.xs[begin:end], needs.xs)
        state = [_stand_in(tensor, segment > 0 or need) for tensor, need in zip(state, needs.state, strict=True)]
        fresh = [_stand_in(tensor, need) for tensor, need in zip(self.fresh, needs.fresh, strict=True)]
        own = len(self.plan.surroundings.sources)
        sources = [_stand_in(tensor, tensor.requires_grad) for tensor in self.sources[:own]] + self.sources[own:]
        initial = self.plan.like_state(fresh) if fresh else self.call.initial
        with torch.enable_grad(), self.plan.surroundings.again(sources):
            results = _listed(run(self.call.part(begin, end, self.plan.like_state(state), initial, xs)))
        return _Segment(xs, state, fresh, sources, results)


@dataclasses.dataclass
class _Needs:
    """Which of the node's inputs want a gradient."""

    xs: bool
    state: list[bool]
    fresh: list[bool]
    sources: list[bool]


@dataclasses.dataclass
class _Segment:
    """A segment's graph: its leaves, and what came of them."""

    xs: Tensor
    state: list[Tensor]
    fresh: list[Tensor]
    sources: list[Tensor]
    results: list[Tensor]

    @property
    def leaves(self) -> list[Tensor]:
        """Everything that it reads."""
        return [self.xs, *self.state, *self.fresh, *self.sources]

    def back(self, from_above: Found, keep: bool) -> Found:
        """The gradients of the leaves."""
        needs = [leaf.requires_grad for leaf in self.leaves]
        return gradients_of(self.leaves, needs, self.results, from_above, retain_graph=keep)


@dataclasses.dataclass
class _Border:
    """What is known before a segment."""

    state: list[Tensor]
    generators: Generators


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, xs: Tensor, lengths: Any, resets: Any, mask: Any, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        given = plan.given(xs, lengths, resets, mask, tensors)
        _, needs_xs, _, _, _, *others = ctx.needs_input_grad
        ctx.plan, ctx.needs = plan, _Needs(needs_xs, *given.told_apart(others))
        ctx.set_materialize_grads(False)
        device = xs.device
        border = _Border(given.state, generators(device))
        ctx.generators = border.generators
        first = set() if plan.most is None else set(kept_at_first(len(plan.segments), plan.most))
        ctx.borders = {}
        graphs: list[_Segment] = []
        whole: list[Tensor] = []
        for i, (begin, end) in enumerate(plan.segments):
            if plan.most is None:
                graphs.append(given.graph(i, border.state, ctx.needs))
                results = [tensor.detach() for tensor in graphs[-1].results]
            else:
                if i in first:
                    ctx.borders[i] = border
                results = given.run(i, border.state)
            _write(whole, results, begin, end, xs.shape[0], plan.states)
            after = _own(results[1 : 1 + plan.states])
            border = _Border(after, generators(device, border.generators) if plan.most is not None else ())
        outputs = _completed(whole, plan, given)
        ctx.mark_non_differentiable(*(tensor for tensor in outputs if not tensor.is_floating_point()))
        # The graphs are saved through their ends, so that autograd lets go of them when it may.
        ends = [tensor for graph in graphs for tensor in (*graph.leaves, *graph.results)]
        ctx.sizes = [(len(graph.leaves), len(graph.results)) for graph in graphs]
        ctx.given = len(tensors)
        ctx.save_for_backward(xs, lengths, resets, mask, *tensors, *ends)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *from_above: Tensor | None) -> tuple[Any, ...]:
        plan, needs = ctx.plan, ctx.needs
        xs, lengths, resets, mask, *saved = ctx.saved_tensors
        given = plan.given(xs, lengths, resets, mask, saved[: ctx.given])
        if torch.is_grad_enabled() or any(g is not None and is_batched(g) for g in from_above):
            with generators_at(xs.device, ctx.generators):
                found = _by_autograd(given, needs, from_above)
        else:
            sums = _Sums(given)
            pending = _Pending(given, from_above)
            packets: dict[int, Found] = {}
            for i, segment in _graphs_backwards(ctx, given, saved[ctx.given :]):
                packets = {first: above for first, above in packets.items() if first <= i}
                own = plan.reach[i]
                packets[own] = _added(packets.get(own), pending.ending(i))
                left = len(packets)
                before: dict[int, Found] = {}
                for first, above in packets.items():
                    left -= 1
                    outputs, every = pending.at(i) if first == own else (None, [None] * pending.moments)
                    keep = plan.most is None or left > 0
                    before[first] = sums.add(i, segment.back([outputs, *above, *every], keep))
                packets = before
            state = _added(packets.get(0), pending.never_run())
            state = [g if need else None for g, need in zip(state, needs.state, strict=True)]
            found = [sums.xs_gradient(), *state, *sums.shared()]
        return (None, found[0], None, None, None, *found[1:])


def _graphs_backwards(ctx: Any, given: _Given, ends: Sequence[Tensor]) -> Iterator[tuple[int, _Segment]]:
    """Each segment's graph from the last to the first: kept, or made again."""
    plan, device = ctx.plan, given.call.xs.device
    if plan.most is None:
        for i in reversed(range(len(plan.segments))):
            leaves, results = ctx.sizes[i]
            own, ends = ends[len(ends) - leaves - results :], ends[: len(ends) - leaves - results]
            yield i, _Segment(own[0], *given.told_apart(own[1:leaves]), list(own[leaves:]))
        return

    def advance(segment: int, border: _Border) -> _Border:
        with generators_at(device, border.generators), plan.surroundings.again():
            after = _own(given.run(segment, border.state)[1 : 1 + plan.states])
            return _Border(after, generators(device, border.generators))

    # What is used is let go of. A second pass through the same graph begins with the first state alone.
    kept, ctx.borders = ctx.borders, {}
    kept = {0: _Border(given.state, ctx.generators)} | kept
    for i, border in backwards(kept, len(plan.segments), plan.most, advance):
        with generators_at(device, border.generators):
            segment = given.graph(i, border.state, ctx.needs)
        yield i, segment


class _Pending:
    """What comes from above, segment by segment.

    Past the end of a row its state stands still. So the gradient of the final state, and of states past the end,
    belongs to the segment in which the row ends, wherever that is: as if the row ran alone.
    """

    def __init__(self, given: _Given, from_above: Sequence[Tensor | None]):
        plan = given.plan
        count = plan.states
        self.segments, self.lengths = plan.segments, given.call.lengths
        self.ys, self.every = from_above[0], list(from_above[1 + count :])
        self.moments = len(self.every)
        self.end: Found = list(from_above[1 : 1 + count])
        stop = plan.segments[-1][1]
        if self.lengths is not None:
            for k, moments in enumerate(self.every):
                if moments is not None and moments.shape[0] > stop:
                    self.end[k] = _sum_of(self.end[k], moments[stop:].sum(0))

    def at(self, segment: int) -> tuple[Tensor | None, Found]:
        """For the outputs and the states of a segment."""
        begin, end = self.segments[segment]
        ys = None if self.ys is None else self.ys[begin:end]
        every: Found = [None if moments is None else moments[begin:end] for moments in self.every]
        if self.lengths is not None and bool((ended := self.lengths <= begin).any()):
            for k, moments in enumerate(every):
                if moments is not None:
                    over = ended.reshape(1, -1, *[1] * (moments.ndim - 2))
                    self.end[k] = _sum_of(self.end[k], torch.where(over, moments, 0).sum(0))
                    every[k] = torch.where(over, 0, moments)
        return ys, every

    def ending(self, segment: int) -> Found:
        """For the final state of the rows that end in a segment."""
        begin, end = self.segments[segment]
        if self.lengths is None:
            return self.end if segment == len(self.segments) - 1 else [None] * len(self.end)
        return self._of((self.lengths > begin) & (self.lengths <= end))

    def never_run(self) -> Found:
        """For the state of rows without steps, which ends as it was given."""
        return [None] * len(self.end) if self.lengths is None else self._of(self.lengths == 0)

    def _of(self, rows: Tensor) -> Found:
        if not bool(rows.any()):
            return [None] * len(self.end)
        return [None if g is None else torch.where(rows.reshape(-1, *[1] * (g.ndim - 1)), g, 0) for g in self.end]


class _Sums:
    """The gradients of what all segments read, and of the inputs, each of which one segment reads."""

    def __init__(self, given: _Given):
        self.given = given
        self.xs: Tensor | None = None
        self.reached: dict[int, None] = {}
        self.sums: Found = [None] * len(given.fresh + given.sources)

    def add(self, segment: int, found: Found) -> Found:
        """Take the gradients of a segment's leaves; gives back those of the state before it."""
        state, fresh, sources = self.given.told_apart(found[1:])
        if found[0] is not None:
            begin, end = self.given.plan.segments[segment]
            # Laid out like the inputs themselves, so that nobody has to turn it.
            self.xs = torch.empty_like(self.given.call.xs) if self.xs is None else self.xs
            part = self.xs[begin:end]
            part.add_(found[0]) if segment in self.reached else part.copy_(found[0])
            self.reached[segment] = None
        for k, part in enumerate([*fresh, *sources]):
            if part is not None:
                # In float64, because there may be many segments; not in what was given, because two biases that are
                # added up share one gradient.
                total = self.sums[k]
                self.sums[k] = part.to(torch.float64, copy=True) if total is None else total.add_(part)
        return state

    def shared(self) -> Found:
        """The gradients of what all segments read."""
        tensors = self.given.fresh + self.given.sources
        return [None if g is None else g.to(t.dtype) for t, g in zip(tensors, self.sums, strict=True)]

    def xs_gradient(self) -> Tensor | None:
        """The gradient of the inputs."""
        if self.xs is None:
            return None
        begin = 0
        for i, (_, end) in enumerate(self.given.plan.segments):
            if i not in self.reached:
                self.xs[begin:end] = 0
            begin = end
        self.xs[begin:] = 0
        return self.xs


def _by_autograd(given: _Given, needs: _Needs, from_above: Sequence[Tensor | None]) -> Found:
    """The gradient by autograd alone, where it has a derivative itself or there are many: all is run in one graph."""
    own, again_differentiated = len(given.plan.surroundings.sources), torch.is_grad_enabled()
    tensors = [given.call.xs, *given.state, *given.fresh, *given.sources[:own]]
    flags = [needs.xs, *needs.state, *needs.fresh, *needs.sources]
    with torch.enable_grad():
        # Stand-ins: the gradient of one must not take in what reaches it through another that is made of it.
        tensors = [t.view_as(t) if need else t for t, need in zip(tensors, flags, strict=False)]
        xs, *tensors = [*tensors, *given.sources[own:]]
        again = given.plan.given(xs, given.call.lengths, given.call.resets, given.call.mask, tensors)
        initial = given.plan.like_state(again.fresh) if again.fresh else given.call.initial
        call = dataclasses.replace(again.call, state=given.plan.like_state(again.state), initial=initial)
        with given.plan.surroundings.again(again.sources):
            results = _listed(given.plan.plain(call))
        return gradients_of([xs, *tensors], flags, results, from_above, create_graph=again_differentiated)


def _stand_in(tensor: Tensor, need: bool) -> Tensor:
    return tensor.detach().requires_grad_(need and tensor.is_floating_point())


def _own(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies, because the state after a segment may be a view of all that it gave."""
    return [tensor.detach().clone() for tensor in tensors]


def _listed(results: Result) -> list[Tensor]:
    ys, end, every = results
    parts = (end,) if every is None else (end, every)
    return [ys, *(tensor for part in parts for _, tensor in named_tensors(part))]


def _write(whole: list[Tensor], results: list[Tensor], begin: int, end: int, steps: int, states: int) -> None:
    """Put what a segment gives in its place; the final states are those of the last one."""
    if not whole:
        whole += [r if 1 <= k <= states else r.new_empty(steps, *r.shape[1:]) for k, r in enumerate(results)]
    for k, result in enumerate(results):
        if 1 <= k <= states:
            whole[k] = result
        else:
            whole[k][begin:end] = result


def _completed(whole: list[Tensor], plan: _Plan, given: _Given) -> list[Tensor]:
    """The results with what is past the end of all rows: outputs of zeros, states that stand still."""
    states = plan.states
    stop = plan.segments[-1][1]
    whole[0][stop:] = 0
    for k in range(states):
        # Memory of its own: a cell may give a state on as it got it.
        whole[1 + k] = whole[1 + k].clone()
        if len(whole) > 1 + states:
            whole[1 + states + k][stop:] = whole[1 + k]
    return whole


def _added(a: Found | None, b: Found) -> Found:
    return b if a is None else [_sum_of(x, y) for x, y in zip(a, b, strict=True)]


def _sum_of(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
