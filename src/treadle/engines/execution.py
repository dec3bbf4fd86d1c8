"""A cell over a sequence by its program: stage after stage, each by what runs it."""

import torch

from treadle.engines.call import Call, Result, autocast_dtype
from treadle.engines.engine import Engine
from treadle.engines.layout import Layout, whole
from treadle.engines.network import Network
from treadle.engines.random_values import draw
from treadle.engines.second_try import with_second_try
from treadle.engines.stages import Alone, Progress, staged
from treadle.state import named_tensors, tensors_of, with_tensors


def run(network: Network, engine: Engine, call: Call) -> Result:
    """Run a call, which is in one precision, by its cell's program; an engine runs the sections that it takes."""
    device = call.xs.device
    if autocast_dtype(device) is not None:  # asked first: the context alone takes as long as a short step
        with torch.autocast(device.type, enabled=False):
            return run(network, engine, call)
    return with_second_try(lambda: _run(network, engine, call), engine.release_memory)


def _run(network: Network, engine: Engine, call: Call) -> Result:
    own = staged(network, engine, call.products, call.return_states)
    if own.alone is not None and call.lengths is None and call.resets is None and call.mask is None:
        return _run_alone(network, own.alone, call)
    xs = call.xs
    lengths, mask = (None if one is None else one.cpu() for one in (call.lengths, call.mask))
    layout = Layout(xs.shape[0], xs.shape[1], lengths, call.resets, mask, xs.device)
    starts = {f"state/{name}": t for name, t in named_tensors(layout.sort(call.state))}
    fresh = starts
    if call.resets is not None:
        fresh = {f"state/{name}": t for name, t in named_tensors(layout.sort(call.initial))}
    program, known = own.plan.program, network.constants()
    known[program.inputs["x"]] = layout.packed(xs)
    known.update(draw(own.plan.random, layout, known, engine))
    now = Progress(layout, known, starts, fresh)
    for stage in own.stages:
        stage(now)
    end = with_tensors(call.state, [now.finals[name] for name in starts])
    every = None
    if call.return_states:
        held = [layout.held(own.given_away(name, known, layout), start) for name, start in starts.items()]
        every = with_tensors(call.state, held)
    return Result(layout.padded(own.given_away("y", known, layout)), layout.unsort(end), every)


def _run_alone(network: Network, alone: Alone, call: Call) -> Result:
    """The same for a plan that is a single run, where all rows have all steps: most calls, also the shortest ones."""
    layout = whole(call.xs.shape[0], call.xs.shape[1], call.xs.device)
    ys, finals = alone.run(network, layout, call.xs, tensors_of(call.state))
    return Result(ys, with_tensors(call.state, finals), None)
