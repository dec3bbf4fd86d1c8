"""`torch.nn`'s own layers, forward and backward, at the sizes people train."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import treadle as td
from benchmarks.bars import bar, ratios
from benchmarks.gates import Check, compare
from benchmarks.race import OURS, Race
from benchmarks.registry import Bar, Case, Options, Result, Suite
from benchmarks.sizes import CLASSIC, LAYERS, TINY, Size
from benchmarks.timing import block
from benchmarks.training import Forward, Training, draw, inputs

TORCH = "torch.nn"
AUTOCAST = "torch.nn autocast"


def outputs(module: Any, x: Tensor, autocast: bool = False, **options: Any) -> dict[str, Tensor]:
    """What a drop-in and the module that it stands for give; matrices in bfloat16 if asked for."""
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        ys, hidden = module(x, **options)
    names = ("h_n", "c_n") if isinstance(hidden, tuple) else ("h_n",)
    return {"ys": ys, **dict(zip(names, hidden if len(names) > 1 else [hidden], strict=True))}


def packed_outputs(module: Any, x: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """The same of rows of several lengths, as `torch.nn` does it: pack, run, pad."""
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    packed, (h_n, c_n) = module(packed)
    ys, _ = pad_packed_sequence(packed, total_length=x.shape[0])
    return {"ys": ys, "h_n": h_n, "c_n": c_n}


def open_race(
    size: Size,
    engine: str,
    kind: str = "LSTM",
    ours: Forward = outputs,
    others: dict[str, Forward] | None = None,
    precision: torch.dtype = torch.float32,
    notes: dict[str, str] | None = None,
) -> Race:
    """Ours against `torch.nn` with the same parameters; float64 `torch.nn` is what both must compute.

    Each of ``others`` calls the module of `torch.nn`, which is ``torch.nn`` itself in float32 unless said otherwise.
    """
    torch.manual_seed(0)
    reference_module = getattr(nn, kind)(size.H, size.H, LAYERS)
    our_module = getattr(td, kind)(size.H, size.H, LAYERS, engine=engine)
    our_module.load_state_dict(reference_module.state_dict())
    others = others or {TORCH: outputs}
    theirs = {name: draw(reference_module, forward, inputs(*size)) for name, forward in others.items()}
    mine = Training(our_module, ours, theirs[TORCH].x, theirs[TORCH].cotangents)

    def check() -> list[Check]:
        reference = theirs[TORCH].double().values()
        precisions = {OURS: precision, AUTOCAST: torch.bfloat16}
        return [
            compare(name, training.values(), reference, precisions.get(name, torch.float32))
            for name, training in {OURS: mine, **theirs}.items()
        ]

    return Race({name: block(training) for name, training in {OURS: mine, **theirs}.items()}, check, notes or {})


def open_ragged_race(size: Size, engine: str) -> Race:
    """Rows with lengths uniform in [T/4, T]."""
    lengths = torch.randint(max(1, size.T // 4), size.T + 1, (size.B,), generator=torch.Generator().manual_seed(3))
    return open_race(
        size, engine, ours=partial(outputs, lengths=lengths), others={TORCH: partial(packed_outputs, lengths=lengths)}
    )


def open_bfloat16_race(size: Size, engine: str) -> Race:
    """Our matrices in bfloat16 against `torch.nn` in float32, and against the same autocast as well."""
    autocast = partial(outputs, autocast=True)
    others: dict[str, Forward] = {TORCH: outputs}
    why_not = why_no_autocast()
    if why_not is None:
        others[AUTOCAST] = autocast
    notes = {} if why_not is None else {AUTOCAST: why_not}
    return open_race(size, engine, ours=autocast, others=others, precision=torch.bfloat16, notes=notes)


def why_no_autocast() -> str | None:
    """Why `torch.nn` runs no LSTM in bfloat16 on this CPU; None if it does."""
    try:
        outputs(nn.LSTM(1, 1), torch.zeros(1, 1, 1), autocast=True)
    except RuntimeError as error:
        return str(error).partition(". ")[0]
    return None


def cases(options: Options) -> list[Case]:
    """All kinds at all sizes; a batch of one row is never ragged."""
    kinds = {
        "LSTM": open_race,
        "GRU": partial(open_race, kind="GRU"),
        "LSTM ragged": open_ragged_race,
        "LSTM bfloat16": open_bfloat16_race,
    }
    return [
        Case(f"{kind} {size}", kind, partial(opened, size, options.engine))
        for kind, opened in kinds.items()
        for size in (TINY if options.tiny else CLASSIC)
        if kind != "LSTM ragged" or size.B > 1
    ]


def bars(results: list[Result]) -> list[Bar]:
    """As the issue states them."""
    return [
        bar("LSTM, times torch.nn", 1.5, ratios(results, TORCH, "LSTM")),
        bar("LSTM, times torch.nn, worst size", 1.0, ratios(results, TORCH, "LSTM"), min),
        bar("GRU, times torch.nn", 1.8, ratios(results, TORCH, "GRU")),
        bar("ragged LSTM, times PackedSequence", 2.5, ratios(results, TORCH, "LSTM ragged")),
        bar("LSTM with bfloat16 weights, times torch.nn in float32", 2.2, ratios(results, TORCH, "LSTM bfloat16")),
    ]


SUITE = Suite("classic", "LSTM and GRU of two layers, forward and backward, against torch.nn", cases, bars)
