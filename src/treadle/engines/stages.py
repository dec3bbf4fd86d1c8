"""The sections of a plan in stages, as an engine takes them: which it runs as one, and which are left to PyTorch."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from treadle.compiler.fission import Kind, Plan, Section
from treadle.compiler.interpreter import Line
from treadle.compiler.program import Value
from treadle.engines.engine import Engine, Refusal, Runner, RunnerByStep, Taken
from treadle.engines.layout import Layout
from treadle.engines.network import Network
from treadle.engines.step_by_step import run_section


@dataclasses.dataclass(eq=False)
class Progress:
    """What is known while a plan runs over a sequence, stage by stage.

    Args:
        layout: how rows lie.
        known: values with rows as [N, ...], and those without.
        starts: of each state, [B, ...] before the first step.
        fresh: of each state, [B, ...] that resets start from.
        finals: of each state, [B, ...] after the last step of each row.
    """

    layout: Layout
    known: dict[Value, Tensor]
    starts: dict[str, Tensor]
    fresh: dict[str, Tensor]
    finals: dict[str, Tensor] = dataclasses.field(default_factory=dict)


Stage: TypeAlias = Callable[[Progress], None]
"""Runs a part of a plan before the next one begins, and adds what it gives to what is known."""


def _invariants(section: Section) -> Stage:
    """What is computed once, of parameters alone."""
    line = Line(section.outputs, section.inputs)
    return lambda now: line.run(now.known, 0)


def _shifts(section: Section, now: Progress) -> None:
    """Sequences that are moved by one step: delayed outputs, which are no loops."""
    for name, old, new in zip(section.states, section.old, section.new, strict=True):
        after, start = now.known[new], now.starts[name]
        now.known[old] = now.layout.previous(after, start, now.fresh[name])
        now.finals[name] = now.layout.last(after, start)


class _InPyTorch:
    """The `Runner` of a section that no engine takes."""

    def __init__(self, section: Section):
        self.section, self.given, self.outputs = section, section.inputs, section.outputs

    def run(
        self, layout: Layout, given: Sequence[Tensor], starts: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        return run_section(self.section, layout, given, starts, fresh)


def _running(sections: Sequence[Section], runner: Runner, plan: Plan) -> Stage:
    """Sections over the whole sequence, with whatever runs them."""
    states = tuple(name for section in sections for name in section.states)
    last = sections[-1]
    # The states before each step that are read later, and that nobody gives.
    before = [
        (name, old, new)
        for name, old, new in zip(last.states, last.old, last.new, strict=True)
        if old in plan.sunk and old not in last.outputs
    ]

    def run(now: Progress) -> None:
        known = now.known
        starts, fresh = [now.starts[name] for name in states], [now.fresh[name] for name in states]
        results, ends = runner.run(now.layout, [known[v] for v in runner.given], starts, fresh)
        known.update(zip(runner.outputs, results, strict=True))
        now.finals.update(zip(states, ends, strict=True))
        for name, old, new in before:
            known[old] = now.layout.previous(known[new], now.starts[name], now.fresh[name])

    return run


@dataclasses.dataclass(frozen=True, eq=False)
class Alone:
    """A plan that is a single run, of all states, where no rows lack steps or are reset.

    Args:
        runner: what runs it.
        order: which of the state's tensors, in the order of `named_tensors`, are those of the runner in turn; None if
            they are in that order.
        y: which of the runner's outputs is the output.
        apart: whether that lies in memory that nobody else reads or writes.
        by_step: the runner, if it takes rows step by step.
    """

    runner: Runner
    order: tuple[int, ...] | None
    y: int
    apart: bool
    by_step: RunnerByStep | None

    def run(
        self,
        network: Network,
        layout: Layout,
        xs: Tensor,
        starts: Sequence[Tensor],
        groups: tuple[tuple[int, ...], ...] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """Outputs [T, B, ...], and the state's tensors after the last step, from those before the first one.

        Where there are ``groups`` of these, those of each are given back as one tensor, [L, B, ...].
        """
        runner, order = self.runner, self.order
        if order is not None:
            starts = [starts[i] for i in order]
            groups = tuple(tuple(order.index(i) for i in group) for group in groups)
        # Not contiguous, they are copied once, for both directions.
        by_step = self.by_step if xs.is_contiguous() else None
        if by_step is not None:
            results, ends = by_step.run_by_step(layout, network.given(runner.given, xs), starts, groups)
        else:
            results, ends = runner.run(layout, network.given(runner.given, layout.packed(xs)), starts, starts)
            ends = [torch.stack([ends[i] for i in group]) for group in groups] if groups else ends
        if order is not None and not groups:
            finals = dict(zip(order, ends, strict=True))
            ends = [finals[i] for i in range(len(ends))]
        ys = results[self.y]
        ys = ys if self.apart else ys.clone()
        return layout.padded(ys) if by_step is None else ys, ends


@dataclasses.dataclass
class _Group:
    """Sections that run together, and the engine's form of each; of none where PyTorch runs it."""

    sections: list[Section]
    taken: list[Taken]


class Staged:
    """A plan as an engine runs it.

    Attributes:
        stages: in the order in which they run.
        runners: those of the engine, each with the sections that it runs.
        left_out: the loops that the engine refuses.
        alone: the plan as a single run of the engine's, if it is one.
    """

    def __init__(self, network: Network, engine: Engine, products: torch.dtype | None, keep_states: bool):
        self.plan = network.plan(keep_states, engine.takes_in)
        self._engine = engine
        outputs = self.plan.program.outputs.items()
        self._wanted = {name: value for name, value in outputs if name == "y" or keep_states}
        self.left_out: tuple[Refusal, ...] = ()
        self.runners: list[tuple[tuple[Section, ...], Runner]] = []
        groups = self._groups(network, products)
        self.stages = list(self._joined(groups))
        self._handed_over = self._find_handed_over(groups)
        self.alone = self._find_alone()

    def _find_alone(self) -> Alone | None:
        """The plan as a single run, if it is one."""
        if len(self.stages) != 1 or len(self.runners) != 1 or self.plan.random or len(self._wanted) != 1:
            return None
        ((sections, runner),) = self.runners
        runs = [name for section in sections for name in section.states]
        states = [name for name in self.plan.program.inputs if name.startswith("state/")]  # as a state has them
        y, last = self._wanted["y"], sections[-1]
        if sorted(runs) != sorted(states) or y not in runner.outputs or not self.plan.sunk.isdisjoint(last.old):
            return None
        order = None if runs == states else tuple(states.index(name) for name in runs)
        by_step = runner if isinstance(runner, RunnerByStep) else None
        return Alone(runner, order, runner.outputs.index(y), y in self._handed_over, by_step)

    def _groups(self, network: Network, products: torch.dtype | None) -> list[_Group]:
        groups: list[_Group] = []
        ended = True
        for section in self.plan.sections:
            own = taken(network, self._engine, section, products)
            if isinstance(own, Refusal):
                if section.kind is Kind.LOOP:
                    names = ", ".join(name.removeprefix("state/") for name in section.states)
                    self.left_out = (*self.left_out, dataclasses.replace(own, loop=names))
                own = None
            last = groups[-1].taken[-1] if groups and groups[-1].taken else None
            if own is None or last is None or ended or not self._engine.goes_with(last, own):
                groups.append(_Group([], []))
            groups[-1].sections.append(section)
            groups[-1].taken += [] if own is None else [own]
            # PyTorch makes the states before each step from those after it, where they are read later.
            ended = own is None or any(v in self.plan.sunk and v not in section.outputs for v in section.old)
        return groups

    def _joined(self, groups: list[_Group]) -> Iterator[Stage]:
        before: Section | None = None
        for i, group in enumerate(groups):
            sections, last = tuple(group.sections), group.sections[-1]
            visible = self._read_by(groups[i + 1 :])
            if last.kind is Kind.INVARIANT:
                # What the sections after it alone read, they compute themselves, if PyTorch's own operations do not.
                joins = self._engine.joins_invariants and not any(v.op == "opaque" for v in last.values())
                after = groups[i + 1] if i + 1 < len(groups) and joins else None
                if after and after.taken and self._read_by(groups[i + 2 :]).isdisjoint(last.outputs):
                    before = last
                else:
                    yield _invariants(last)
                continue
            if last.kind is Kind.SHIFT:
                yield functools.partial(_shifts, last)
                continue
            visible |= {new for old, new in zip(last.old, last.new, strict=True) if old in self.plan.sunk}
            runner: Runner = _InPyTorch(last)
            if group.taken:
                runner = self._engine.join(sections, group.taken, visible, before)
                self.runners.append((sections, runner))
            before = None
            yield _running(sections, runner, self.plan)

    def _read_by(self, groups: list[_Group]) -> set[Value]:
        """What these read, and what is wanted in the end."""
        return {v for group in groups for section in group.sections for v in section.inputs}.union(
            self._wanted.values()
        )

    def _find_handed_over(self, groups: list[_Group]) -> set[Value]:
        """What is given away once, and lies in memory that nobody else reads or writes."""
        made = {v for _, runner in self.runners for v in runner.outputs}
        read = {v for _, runner in self.runners for v in runner.given}
        read |= {v for group in groups if not group.taken for v in group.sections[0].inputs}
        once = {v for v, times in collections.Counter(self._wanted.values()).items() if times == 1}
        return (made & once) - read - self.plan.sunk

    def given_away(self, name: str, known: Mapping[Value, Tensor], layout: Layout) -> Tensor:
        """The rows of a result in memory of their own.

        The derivative may read what was computed, and callers may write into what they get: ``ys += x``, for example.
        """
        value = self._wanted[name]
        # Rows that do not have all steps are copied on their way out.
        apart = value in self._handed_over or layout.order is not None
        return known[value] if apart else known[value].clone()


def staged(network: Network, engine: Engine, products: torch.dtype | None, keep_states: bool) -> Staged:
    """A network's plan as an engine runs it, made when first asked for: see `Network.plan` and `Engine.take`."""
    return network.kept((engine, products, keep_states), lambda: Staged(network, engine, products, keep_states))


def taken(network: Network, engine: Engine, section: Section, products: torch.dtype | None) -> Taken | Refusal | None:
    """An engine's form of a section, or why it has none; None where there is nothing for an engine to do."""
    if section.kind not in (Kind.LOOP, Kind.PARALLEL):
        return None
    return network.kept((engine, products, section), lambda: engine.take(section, products))
