"""One step of a session, batch 1: how far from the time of merely reading the weights.

Every side may use all cores that the suite has, and is timed as it is fastest, but for those that are named otherwise.
"""

import copy
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import repeat

import numpy as np
import torch
from torch import nn

import treadle as td
from benchmarks import peers
from benchmarks.bars import at_most, bar, figures, ratios
from benchmarks.gates import Check, compare
from benchmarks.race import OURS, Race
from benchmarks.registry import Bar, Case, Measurement, Options, Result, Suite
from benchmarks.sizes import LAYERS
from benchmarks.timing import Block, block

TORCH, ONNX, READING = "torch.nn", "ONNX Runtime", "reading the weights, one core"
ONNX_INT8 = "ONNX Runtime int8"
BFLOAT16, INT8, ALONE = "treadle bfloat16", "treadle int8", "treadle, one core"
HIDDEN_SIZES, TINY_SIZES = (32, 64, 128, 256, 512), (4, 7)
ROUNDED_AT = (256, TINY_SIZES[0])
CALL_SECONDS = 0.5e-6
COUNTED_STEPS, GATE_STEPS = 1000, 20
PATIENCE = 60.0
REST = 0.06  # ONNX Runtime's threads spin for 40 ms after a run

Step = Callable[[], np.ndarray]
"""One step on the x that all sides share; the answer [H]."""


def open_race(H: int, options: Options) -> Race:
    """Ours against `torch.nn`, ONNX Runtime, and a kernel that reads as many bytes."""
    torch.manual_seed(0)
    lstm = nn.LSTM(H, H, LAYERS)
    ours = td.LSTM(H, H, LAYERS, engine=options.engine)
    ours.load_state_dict(lstm.state_dict())
    x = np.zeros(H, np.float32)

    steps: dict[str, Step] = {OURS: partial(ours.session().step, x), TORCH: torch_step(lstm, x)}
    if options.threads > 1:
        torch.set_num_threads(1)  # a session takes what there is when it is made
        steps[ALONE] = partial(ours.session().step, x)
        torch.set_num_threads(options.threads)
    if H in ROUNDED_AT:
        steps[BFLOAT16] = partial(ours.session(weights="bfloat16").step, x)
        steps[INT8] = partial(ours.session(weights="int8").step, x)
    notes, reading = {}, None
    try:
        fastest_step = peers.load("onnx_runtime").fastest_step
        steps[ONNX] = fastest_step(lstm, x, options.threads, REST)
        if H in ROUNDED_AT:
            steps[ONNX_INT8] = fastest_step(lstm, x, options.threads, REST, int8=True)
    except peers.Unavailable as why:
        notes[ONNX] = str(why)
    try:
        reading = Reading(lstm)
    except peers.Unavailable as why:
        notes[READING] = str(why)

    def check() -> list[Check]:
        xs = np.random.default_rng(0).standard_normal((GATE_STEPS, H)).astype(np.float32)
        ys, _ = copy.deepcopy(lstm).double()(torch.from_numpy(xs).double())
        reference = {"ys": ys}
        checks = []
        for name, step in steps.items():
            answers = np.empty_like(xs)
            for t in range(GATE_STEPS):
                x[:] = xs[t]
                answers[t] = step()
            rounded = name in (BFLOAT16, INT8, ONNX_INT8)  # 255 levels are about as coarse as bfloat16
            precision = torch.bfloat16 if rounded else torch.float32
            checks.append(compare(name, {"ys": torch.from_numpy(answers)}, reference, precision))
        return checks if reading is None else [*checks, reading.check()]

    sides: dict[str, Block] = {name: block(step) for name, step in steps.items()}
    if reading is not None:
        sides[READING] = reading
    return Race(sides, check, notes, partial(count_allocations, steps[OURS]), REST)


def torch_step(lstm: nn.LSTM, x: np.ndarray) -> Step:
    """`torch.nn` with T=1; it reads the memory of ``x`` as a tensor made beforehand."""
    sequence, state = torch.from_numpy(x)[None, None], None

    def step() -> np.ndarray:
        nonlocal state
        with torch.no_grad():
            y, state = lstm(sequence, state)
        return y.numpy().reshape(-1)

    return step


class Reading:
    """A block of readings of as many bytes as the weights have; their sizes, so that the sum does not cancel."""

    def __init__(self, lstm: nn.LSTM):
        self.values = torch.cat([parameter.detach().abs().flatten() for parameter in lstm.parameters()]).numpy()
        self.sums = np.zeros(16, np.float32)
        self.read = peers.load("memory_read").read

    def __call__(self, times: int) -> None:
        self.read(self.values, self.sums, times)

    def check(self) -> Check:
        """The sum is right."""
        self(len(self.sums))
        exact = torch.full((len(self.sums),), self.values.sum(dtype=np.float64), dtype=torch.float64)
        return compare(READING, {"sum": torch.from_numpy(self.sums)}, {"sum": exact})


def count_allocations(step: Step) -> dict[str, float]:
    """What a thousand steps leave behind, and the most that they hold meanwhile, beyond a call that does nothing.

    The least of three times: a step that allocates does so every time, the process's other threads now and then.
    """
    blocks, held = (min(counts) for counts in zip(*(_allocations(step) for _ in range(3)), strict=True))
    idle_blocks, idle_held = _allocations(lambda: None)
    return {"blocks left": blocks - idle_blocks, "bytes held": max(0, held - idle_held)}


def _allocations(step: Callable[[], object]) -> tuple[int, int]:
    for _ in repeat(None, COUNTED_STEPS):
        step()
    tracemalloc.start()
    # The thread that draws the progress bar allocates too: it has to wait.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(PATIENCE)
    try:
        step()
        tracemalloc.reset_peak()
        start, _ = tracemalloc.get_traced_memory()
        blocks = sys.getallocatedblocks()
        for _ in repeat(None, COUNTED_STEPS):
            step()
        blocks = sys.getallocatedblocks() - blocks
        _, peak = tracemalloc.get_traced_memory()
        return blocks, peak - start
    finally:
        sys.setswitchinterval(interval)
        tracemalloc.stop()


def cases(options: Options) -> list[Case]:
    """Every size."""
    sizes = TINY_SIZES if options.tiny else HIDDEN_SIZES
    return [Case(f"H={H}", f"H={H}", partial(open_race, H, options)) for H in sizes]


def over_reading(measurement: Measurement) -> float | None:
    """How many times the time of reading the weights a step takes, once the call is paid."""
    if READING not in measurement.seconds:
        return None
    return (measurement.seconds[OURS].median - CALL_SECONDS) / measurement.seconds[READING].median


def bars(results: list[Result]) -> list[Bar]:
    """As the issue states them."""
    halved, quartered = (
        [1 / ratio for ratio in ratios(results, side, f"H={ROUNDED_AT[0]}")] for side in (BFLOAT16, INT8)
    )
    return [
        bar("H=64, times torch.nn", 25.0, ratios(results, TORCH, "H=64")),
        bar("H=64, times ONNX Runtime", 5.0, ratios(results, ONNX, "H=64")),
        bar("times ONNX Runtime", 4.0, ratios(results, ONNX)),
        at_most("times reading the weights, less 0.5 us for the call, worst size", 1.5, figures(results, over_reading)),
        bar(f"bfloat16 weights at H={ROUNDED_AT[0]}, times float32", 1.6, halved),
        bar(f"int8 weights at H={ROUNDED_AT[0]}, times float32", 2.5, quartered),
        at_most("memory blocks that 1000 steps leave", 0, figures(results, lambda m: m.figures["blocks left"])),
        at_most("bytes that a step allocates meanwhile", 0, figures(results, lambda m: m.figures["bytes held"])),
    ]


SUITE = Suite("step", "a session's step, batch 1, two LSTM layers, against runtimes and memory", cases, bars)
