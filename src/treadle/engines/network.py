"""A cell over a sequence, by its plan: each section in turn, by whatever engine takes it."""

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from treadle.compiler import interpreter
from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Plan, Section, plan
from treadle.compiler.program import BATCH, Value
from treadle.compiler.trace import trace_step
from treadle.engines.draws import masks
from treadle.engines.interpreter import run_section
from treadle.engines.layout import Layout
from treadle.engines.signature import HOOKS, signature_of
from treadle.errors import TraceError
from treadle.protocol import State
from treadle.state import named_tensors, rebuild, with_tensors

__all__ = ["Network", "network_of", "run"]

Take = Any
"""An engine for sections: `take` gives its form of one, or the reason why not; `join` makes several of them one."""


class Network:
    """The program of a cell's step for one kind of input, and the plans made of it."""

    def __init__(self, cell: nn.Module, row_shape: tuple[int, ...], dtype: torch.dtype, state: State):
        names = dict(named_tensors(state))
        hooked = next((m for m in cell.modules() if any(vars(m)[hooks] for hooks in HOOKS)), None)
        if hooked is not None:
            raise TraceError(f"{type(hooked).__name__} has hooks, which are called at every step")
        inputs = {"x": p.placeholder("x", (BATCH, *row_shape), dtype)}
        for name, tensor in names.items():
            inputs[f"state/{name}"] = p.placeholder(f"state/{name}", (BATCH, *tensor.shape[1:]), tensor.dtype)

        def step(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            before = rebuild(state, {name: given[f"state/{name}"] for name in names})
            y, after = cell(given["x"], before)
            after = dict(named_tensors(after))
            if after.keys() != names.keys():
                raise TraceError(f"a step was given a state of {sorted(names)}, but returned one of {sorted(after)}")
            return {"y": y} | {f"state/{name}": tensor for name, tensor in after.items()}

        self.program, lifted = trace_step(cell, inputs, step)
        self._check()
        self.getters = {name: _getter(cell, name, tensor) for name, tensor in lifted.items()}
        self._plans: dict[bool, Plan] = {}
        self._runners: dict[tuple[Any, Section], Any] = {}
        self._stages: dict[tuple[Any, bool], list[tuple[tuple[Section, ...], Any]]] = {}
        self._handed_over: dict[tuple[Any, bool], bool] = {}
        self._left_out: dict[tuple[Any, bool], list[tuple[str, str]]] = {}
        self.lock = threading.RLock()

    def _check(self) -> None:
        for name, value in self.program.outputs.items():
            what = "the output" if name == "y" else name.replace("/", " ", 1)
            if not value.shape or value.shape[0] is not BATCH:
                raise TraceError(
                    f"{value.source}: {what} is {p.show_shape(value.shape)}: its first axis must be the batch"
                )
            before = self.program.inputs.get(name)
            if before is not None and (before.shape != value.shape or before.dtype != value.dtype):
                raise TraceError(
                    f"{value.source}: {what} goes in as {p.show_shape(before.shape)} {before.dtype} and comes out as"
                    f" {p.show_shape(value.shape)} {value.dtype}: a step keeps the form of its state"
                )

    def plan(self, keep_states: bool) -> Plan:
        """The sections, with or without every state at every step."""
        with self.lock:
            if keep_states not in self._plans:
                self._plans[keep_states] = plan(self.program, keep_states)
            return self._plans[keep_states]

    def runner(self, take: Take, section: Section) -> Any:
        """What runs a section under an engine; the reason as text if it does not."""
        key = (take, section)
        with self.lock:
            if key not in self._runners:
                self._runners[key] = take.take(section)
            return self._runners[key]

    def stages(self, take: Take | None, keep_states: bool) -> list[tuple[tuple[Section, ...], Any]]:
        """The sections in order, as many together as an engine takes together, and what runs them.

        That is None for what PyTorch does step by step.
        """
        key = (take, keep_states)
        with self.lock:
            if key not in self._stages:
                self._stages[key] = self._joined(take, keep_states)
            return self._stages[key]

    def is_handed_over(self, take: Take | None, keep_states: bool) -> bool:
        """Whether the outputs are in memory that nobody else knows of."""
        key = (take, keep_states)
        if key not in self._handed_over:
            self._handed_over[key] = self._hands_over(take, keep_states)
        return self._handed_over[key]

    def _hands_over(self, take: Take | None, keep_states: bool) -> bool:
        plan, stages = self.plan(keep_states), self.stages(take, keep_states)
        y, states = plan.program.outputs["y"], [v for name, v in plan.program.outputs.items() if name != "y"]
        made = any(runner is not None and y in runner.outputs for _, runner in stages)
        outside = {v for sections, runner in stages for v in (runner.given if runner else sections[0].inputs)}
        return made and y not in outside and not (keep_states and y in states) and y not in plan.sunk

    def _joined(self, take: Take | None, keep_states: bool) -> list[tuple[tuple[Section, ...], Any]]:
        plan = self.plan(keep_states)
        groups: list[tuple[list[Section], list[Any]]] = []
        ended = True
        for section in plan.sections:
            runner = None
            if take is not None and section.kind in (Kind.LOOP, Kind.PARALLEL):
                runner = self.runner(take, section)
                runner = None if isinstance(runner, str) else runner
            if runner is None or ended or not groups[-1][1] or groups[-1][1][-1].dtype != runner.dtype:
                groups.append(([], []))
            groups[-1][0].append(section)
            if runner is not None:
                groups[-1][1].append(runner)
            # PyTorch makes the states before each step from those after it, where they are read later.
            ended = runner is None or any(v in plan.sunk and v not in section.outputs for v in section.old)
        stages: list[tuple[tuple[Section, ...], Any]] = []
        before: Section | None = None
        for i, (sections, runners) in enumerate(groups):
            after = [section for others, _ in groups[i + 1 :] for section in others]
            wanted = {v for name, v in plan.program.outputs.items() if name == "y" or keep_states}
            visible = {v for section in after for v in section.inputs}.union(wanted)
            last = sections[-1]
            if last.kind is Kind.INVARIANT:
                # What the sections after it alone read, they compute themselves.
                later = [section for others, _ in groups[i + 2 :] for section in others]
                elsewhere = {v for section in later for v in section.inputs}.union(wanted)
                if i + 1 < len(groups) and groups[i + 1][1] and elsewhere.isdisjoint(last.outputs):
                    before = last
                else:
                    stages.append((tuple(sections), interpreter.Line(last.outputs, last.inputs)))
                continue
            visible |= {new for old, new in zip(last.old, last.new, strict=True) if old in plan.sunk}
            joined = take.join(sections, runners, visible, before) if take is not None and runners else None
            before = None
            stages.append((tuple(sections), joined))
        return stages

    def left_out(self, take: Take, keep_states: bool) -> list[tuple[str, str]]:
        """The loops that an engine does not take: their states, and the reason."""
        key = (take, keep_states)
        if key not in self._left_out:
            self._left_out[key] = []
            for section in self.plan(keep_states).sections:
                runner = self.runner(take, section) if section.kind is Kind.LOOP else None
                if isinstance(runner, str):
                    names = ", ".join(name.removeprefix("state/") for name in section.states)
                    self._left_out[key].append((names, runner))
        return self._left_out[key]

    def constants(self) -> dict[Value, Tensor]:
        """The parameters as they are now."""
        return {self.program.inputs[name]: get() for name, get in self.getters.items()}


def _getter(cell: nn.Module, name: str, tensor: Tensor) -> Callable[[], Tensor]:
    if not name.startswith("parameter/"):
        return lambda: tensor
    *path, last = name.removeprefix("parameter/").split(".")
    # Weak, because the cell's networks are kept with the cell and must not keep it alive.
    reference = weakref.ref(cell.get_submodule(".".join(path)))
    return lambda: getattr(reference(), last)


_networks: "weakref.WeakKeyDictionary[nn.Module, dict[Any, Network | TraceError]]" = weakref.WeakKeyDictionary()
_lock = threading.RLock()
_MOST_KINDS = 32


def network_of(cell: nn.Module, x: Tensor, state: State) -> Network:
    """The network of a cell for inputs and states like these; traced when it is first asked for.

    Raises:
        TraceError: the step cannot be turned into a program; the same error whenever it is asked for again.
    """
    parts = tuple([(name, t.shape[1:], t.dtype) for name, t in named_tensors(state)])
    key = (x.shape[1:], x.dtype, parts, signature_of(cell))
    with _lock:
        kinds = _networks.setdefault(cell, {})
        found = kinds.get(key)
        if found is None:
            if len(kinds) >= _MOST_KINDS:
                kinds.pop(next(iter(kinds)))
            try:
                found = Network(cell, tuple(x.shape[1:]), x.dtype, state)
            except TraceError as error:
                found = error.with_traceback(None)
            kinds[key] = found
    if isinstance(found, TraceError):
        raise found
    return found


def run(network: Network, *arguments: Any) -> tuple[Tensor, State, State | None]:
    """Run a cell over a sequence by its plan.

    Args:
        network: the cell's program.
        arguments: the engine, None for the interpreter; then initial, xs, state, lengths, resets, return_states, as
            every engine gets them.
    """
    if not torch.is_autocast_enabled("cpu"):  # the context alone takes as long as a short step
        return _run(network, *arguments)
    with torch.autocast("cpu", enabled=False):
        return _run(network, *arguments)


def _run(
    network: Network,
    take: Take | None,
    initial: State,
    xs: Tensor,
    state: State,
    lengths: Tensor | None,
    resets: Tensor | None,
    return_states: bool,
) -> tuple[Tensor, State, State | None]:
    plan = network.plan(return_states)
    layout = Layout(xs.shape[0], xs.shape[1], None if lengths is None else lengths.cpu(), resets)
    starts = {f"state/{name}": t for name, t in named_tensors(layout.sort(state))}
    fresh = starts if resets is None else {f"state/{name}": t for name, t in named_tensors(layout.sort(initial))}
    inputs = plan.program.inputs
    env: dict[Value, Tensor] = network.constants()
    env[inputs["x"]] = layout.packed(xs)
    env.update(_draw(plan, layout, env, xs.device))
    finals: dict[str, Tensor] = {}
    for sections, runner in network.stages(take, return_states):
        _run_stage(sections, runner, layout, env, starts, fresh, finals, plan.sunk)
    outputs = plan.program.outputs
    end = with_tensors(state, [finals[name] for name in starts])
    every = None
    if return_states:
        every = with_tensors(state, [layout.held(env[outputs[name]], start) for name, start in starts.items()])
    ys = env[outputs["y"]]
    if ys.requires_grad and not network.is_handed_over(take, return_states):
        # The derivative may read what was given, and callers may write into what they get: `ys += x`, for example.
        ys = ys.clone()
    return layout.padded(ys), layout.unsort(end), every


def _run_stage(
    sections: tuple[Section, ...],
    runner: Any,
    layout: Layout,
    env: Any,
    starts: Any,
    fresh: Any,
    finals: Any,
    sunk: Any,
) -> None:
    names = [name for section in sections for name in section.states]
    begin, anew = [starts[name] for name in names], [fresh[name] for name in names]
    first = sections[0]
    if first.kind is Kind.SHIFT:
        for name, old, new, start, again in zip(names, first.old, first.new, begin, anew, strict=True):
            after = env[new]
            env[old] = layout.previous(after, start, again)
            finals[name] = layout.last(after, start)
        return
    if first.kind is Kind.INVARIANT:
        runner.run(env, 0)
        return
    if runner is None:
        outputs = first.outputs
        results, ends = run_section(first, layout, [env[v] for v in first.inputs], begin, anew)
    else:
        outputs = runner.outputs
        results, ends = runner.run(layout, [env[v] for v in runner.given], begin, anew)
    env.update(zip(outputs, results, strict=True))
    finals.update(zip(names, ends, strict=True))
    last = sections[-1]
    offset = len(names) - len(last.old)
    for old, new, start, again in zip(last.old, last.new, begin[offset:], anew[offset:], strict=True):
        if old in sunk and old not in last.outputs:
            env[old] = layout.previous(env[new], start, again)


def _draw(plan: Plan, layout: Layout, env: Any, device: torch.device) -> dict[Value, Tensor]:
    """Random numbers, step by step in the order of the program, as the cell's own Python would draw them."""
    if not plan.random:
        return {}
    result = {}
    for value, whole in zip(plan.random, _draw_all(plan.random, layout, env), strict=True):
        result[value] = layout.packed(whole).movedim(0, value.batch_axis)
    return result


def _draw_all(random: tuple[Value, ...], layout: Layout, env: Any) -> list[Tensor]:
    """[T, B, ...] of each."""
    axes = [value.batch_axis for value in random]
    shares = [share for value in random if (share := _share_of(value)) is not None]
    if len(shares) == len(random) and len({value.dtype for value in random}) == 1:
        # The generator gives one number after another: all steps in one call are the same numbers as step by step.
        sizes = [layout.batch * value.row_numel for value in random]
        drawn = masks(shares, sizes, layout.steps, random[0].dtype)
        shapes = [[layout.batch if dim is BATCH else dim for dim in value.shape] for value in random]
        return [d.reshape(layout.steps, *s).movedim(a + 1, 1) for d, s, a in zip(drawn, shapes, axes, strict=True)]
    fixed = {value: tensor for value, tensor in env.items() if not value.has_rows}
    interpreter.evaluate([operand for value in random for operand in value.inputs], fixed, layout.batch)
    steps = []
    for _ in range(layout.steps):
        known = dict(fixed)
        interpreter.evaluate(random, known, layout.batch)
        steps.append([known[value].movedim(axis, 0) for value, axis in zip(random, axes, strict=True)])
    return [torch.stack(parts) for parts in zip(*steps, strict=True)]


def _share_of(value: Value) -> float | None:
    """The probability of ones, where a value is drawn by `torch.bernoulli` from one that is the same everywhere."""
    call = value.call
    plain = call.function is torch.ops.aten.bernoulli.default and len(call.arguments) == 1 and not call.options
    return value.inputs[0].number if plain and value.inputs[0].op == "full" else None
