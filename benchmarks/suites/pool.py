"""A pool of live sessions: half of 64 clients step in one call, against a batch of as many rows and lone sessions."""

import copy
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import cycle, repeat

import numpy as np
import torch
from torch import nn

import treadle as td
from benchmarks.bars import at_most, bar, figures, ratios
from benchmarks.gates import Check, compare
from benchmarks.race import OURS, Race
from benchmarks.registry import Bar, Case, Options, Result, Suite
from benchmarks.sizes import LAYERS
from benchmarks.timing import block

BATCH, BY_SLOT, ALONE = "a session of 32 rows", "treadle, by slot", "32 sessions, one after another"
HIDDEN_SIZES, TINY_SIZES = (64, 128, 256), (4, 7)
CLIENTS, STEPPING, CHOICES, GATE_STEPS = 64, 32, 20, 10
OPENED, TIMES, NEW_SESSIONS = 10_000, 20_000, 100


def open_race(H: int, options: Options) -> Race:
    """Ours against a batch, which gathers nothing, and against a call for each client."""
    torch.manual_seed(0)
    lstm = nn.LSTM(H, H, LAYERS)
    ours = td.LSTM(H, H, LAYERS, engine=options.engine)
    ours.load_state_dict(lstm.state_dict())
    pool, batch = ours.sessions(CLIENTS), ours.session(batch_size=STEPPING)
    for id in range(CLIENTS):
        pool.open(id)
    alone = [ours.session() for _ in range(CLIENTS)]
    rng = np.random.default_rng(0)
    some = [rng.permutation(CLIENTS)[:STEPPING].tolist() for _ in range(CHOICES)]
    xs = [dict(zip(ids, _rows(rng, H), strict=True)) for ids in some]
    slots = [np.array([pool.slot(id) for id in ids]) for ids in some]
    rows = [np.stack([*given.values()]) for given in xs]
    by_id, by_slot, stepping = cycle(xs), cycle(zip(slots, rows, strict=True)), cycle(xs)

    def one_after_another() -> None:
        for id, x in next(stepping).items():
            alone[id].step(x)

    sides: dict[str, Callable[[], object]] = {
        OURS: lambda: pool.step(next(by_id)),
        BATCH: partial(batch.step, rows[0]),
        BY_SLOT: lambda: pool.step_rows(*next(by_slot)),
        ALONE: one_after_another,
    }
    return Race(
        {name: block(side) for name, side in sides.items()}, partial(check, lstm, ours), {}, partial(costs, ours)
    )


def _rows(rng: np.random.Generator, H: int) -> np.ndarray:
    return rng.standard_normal((STEPPING, H)).astype(np.float32)


def check(lstm: nn.LSTM, ours: td.LSTM) -> list[Check]:
    """Clients that step at random give what each would give alone, and what PyTorch gives in double precision."""
    rng, pool = np.random.default_rng(1), ours.sessions()
    ids = [pool.open() for _ in range(CLIENTS)]
    sessions = [ours.session() for _ in ids]
    given: list[list[np.ndarray]] = [[] for _ in ids]
    found: list[list[np.ndarray]] = [[] for _ in ids]
    apart = 0.0
    for _ in range(GATE_STEPS):
        some = rng.permutation(ids)[:STEPPING].tolist()
        xs = dict(zip(some, _rows(rng, lstm.input_size), strict=True))
        for id, y in pool.step(xs).items():
            apart = max(apart, float(np.abs(y - sessions[id].step(xs[id])).max()))
            given[id].append(xs[id])
            found[id].append(y)
    exact = copy.deepcopy(lstm).double()
    moved = [id for id in ids if given[id]]
    reference = {str(id): exact(torch.from_numpy(np.stack(given[id])).double())[0] for id in moved}
    answers = {str(id): torch.from_numpy(np.stack(found[id])) for id in moved}
    return [compare(OURS, answers, reference), Check("a session alone, bit for bit", apart, 0.0, "the outputs")]


def costs(ours: td.LSTM) -> dict[str, float]:
    """What a client costs beside its steps: in memory, to come and to go; and a lone session, once another was made."""
    pool = ours.sessions(OPENED)
    pool.open("first")
    tracemalloc.start()
    for _ in repeat(None, OPENED - 1):
        pool.open()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pool.close("first")
    start = time.perf_counter()
    for _ in repeat(None, TIMES):
        pool.close(pool.open())
    opened = time.perf_counter() - start
    start = time.perf_counter()
    for _ in repeat(None, NEW_SESSIONS):
        ours.session()
    made = time.perf_counter() - start
    return {
        "bytes of a client beside its state": held / OPENED,
        "us to open and close": opened / TIMES * 1e6,
        "ms for a lone session": made / NEW_SESSIONS * 1e3,
    }


def cases(options: Options) -> list[Case]:
    """Every size."""
    sizes = TINY_SIZES if options.tiny else HIDDEN_SIZES
    return [Case(f"H={H}", f"H={H}", partial(open_race, H, options)) for H in sizes]


def bars(results: list[Result]) -> list[Bar]:
    """As the issue states them."""
    over_batch = [1 / ratio for ratio in ratios(results, BATCH, "H=64")]
    memory, opening, lone = ("bytes of a client beside its state", "us to open and close", "ms for a lone session")
    return [
        at_most("H=64, times a batch of as many rows", 1.3, over_batch),
        bar("times lone sessions, one after another", 3.0, ratios(results, ALONE)),
        at_most("bytes of a client beside its state", 3000, figures(results, lambda m: m.figures[memory])),
        at_most("microseconds to open and close", 20, figures(results, lambda m: m.figures[opening])),
        at_most("milliseconds for a lone session", 1, figures(results, lambda m: m.figures[lone])),
    ]


SUITE = Suite(
    "pool", "half of 64 live sessions in one call, two LSTM layers, against a batch and lone sessions", cases, bars
)
