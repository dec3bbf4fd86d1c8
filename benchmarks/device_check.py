"""What the GPU engine does on a GPU: whether it is right, in each precision; then how fast it is beside others.

``python -m benchmarks.device_check [--seconds 540] [--json FILE]`` prints a line of JSON for each number, the most
important ones first, and stops by itself. ``--tiny`` runs the same on the CPU, by Triton's interpreter, with sizes that
say nothing about time. It has not been run on a GPU yet.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import treadle as td
from benchmarks.gates import compare
from tests.tolerances import TOLERANCES
from treadle.engines import verification
from treadle.engines.gpu import device
from treadle.engines.gpu.lower.tiling import Mode
from treadle.engines.gpu.plan import launches

CELLS: dict[str, Callable[[int], Any]] = {
    "lstm": lambda H: td.LSTMCell(H, H),
    "gru": lambda H: td.GRUCell(H, H),
    "layer-norm-lstm": lambda H: td.LayerNormLSTMCell(H, H),
    "slstm": lambda H: td.SLSTMCell(H, H),
    "feedback": lambda H: td.Stack([td.LSTMCell(2 * H, H), td.LSTMCell(H, H)], "feedback"),
}
CLASSIC: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU}
ALLOWED = {"float32": TOLERANCES[torch.float32], "tf32": 3e-3, "bfloat16": TOLERANCES[torch.bfloat16]}


class Size(NamedTuple):
    """Rows, features and steps."""

    B: int
    H: int
    T: int


SIZES = [Size(64, 128, 512), Size(64, 64, 512), Size(16, 256, 256), Size(64, 512, 256), Size(1024, 128, 256)]
TINY = [Size(3, 5, 4)]


class Check:
    """A run: on which device, until when, and where its lines go."""

    def __init__(self, given: argparse.Namespace):
        self.tiny, self.seconds, self.path = given.tiny, given.seconds, given.json
        self.cells = given.cells.split(",")
        # The interpreter has no TF32.
        self.precisions = [name for name in ALLOWED if name != "tf32"] if self.tiny else list(ALLOWED)
        self.device = torch.device("cpu" if self.tiny else "cuda")
        self.began = time.perf_counter()

    def say(self, **line: Any) -> None:
        """Print a line, and keep it."""
        text = json.dumps({**line, "at": round(time.perf_counter() - self.began, 1)})
        print(text, flush=True)
        if self.path:
            with self.path.open("a") as file:
                file.write(text + "\n")

    def has(self, seconds: float) -> bool:
        """Whether there is that much time left."""
        return self.seconds - (time.perf_counter() - self.began) > seconds

    def timed(self, call: Callable[[], object]) -> float:
        """Median seconds of a call, after two to warm up."""
        samples = []
        for number in range(3 if self.tiny else 12):
            self.wait()
            begin = time.perf_counter()
            call()
            self.wait()
            if number >= 2:
                samples.append(time.perf_counter() - begin)
        return statistics.median(samples)

    def agrees(
        self, side: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], how: str, **line: Any
    ) -> bool:
        """Whether a side has computed what the reference has, in this precision; a line says so."""
        found = {name: tensor.to(expected[name].device) for name, tensor in found.items()}
        gate = dataclasses.replace(compare(side, found, expected), tolerance=ALLOWED[how])
        what = "agreement" if gate.ok else "wrong"
        self.say(what=what, by=side, precision=how, **line, error=gate.error, of=gate.where)
        return gate.ok

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@contextlib.contextmanager
def precision(name: str, kind: str) -> Iterator[None]:
    """How products multiply in PyTorch and in the engine."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=name == "bfloat16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def gradients(rnn: nn.Module, xs: Tensor, **options: Any) -> dict[str, Tensor]:
    """The output, and the gradients of a weighted sum of it."""
    xs = xs.detach().clone().requires_grad_()
    ys = rnn(xs, **options)[0]
    weights = torch.linspace(0.5, 1.5, ys.numel(), dtype=torch.float64).reshape(ys.shape).to(ys)
    leaves = {"x": xs, **dict(rnn.named_parameters())}
    found = torch.autograd.grad((ys * weights).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {"output": ys.detach(), **dict(zip(leaves, found, strict=True))}


@contextlib.contextmanager
def in_mode(mode: Mode) -> Iterator[None]:
    """A context in which kernels that are made have this mode, whatever the engine would choose."""
    usual = launches.tiling_of
    launches.tiling_of = functools.partial(usual, mode=mode)
    launches.launches.cache_clear()
    try:
        yield
    finally:
        launches.tiling_of = usual
        launches.launches.cache_clear()


def agreement(check: Check) -> bool:
    """Whether the engine agrees with the cells' own Python in float64, over all that it gives, in each mode."""
    size = TINY[0] if check.tiny else Size(37, 96, 33)
    lengths = torch.arange(size.B) % (size.T + 1)
    resets = torch.rand(size.B, size.T, generator=torch.Generator().manual_seed(0)) < 0.2
    right = True
    for how, name, mode in itertools.product(check.precisions, check.cells, Mode):
        if check.tiny and mode is Mode.SPLIT:  # the interpreter runs one program after another
            continue
        torch.manual_seed(0)
        cell, xs = CELLS[name](size.H), torch.randn(size.B, size.T, size.H)
        fine = td.Recurrent(copy.deepcopy(cell).double(), engine="reference")
        rnn = td.Recurrent(cell, engine="gpu").to(check.device)
        for given in ({}, {"lengths": lengths, "resets": resets}):
            expected = gradients(fine, xs.double(), **given)
            try:
                with precision(how, check.device.type), verification.switched("never"), in_mode(mode):
                    gradients(rnn, xs.to(check.device), **given)  # the second call is captured in a graph
                    found = gradients(rnn, xs.to(check.device), **given)
            except Exception as error:
                check.say(what="broken", cell=name, mode=mode, precision=how, error=repr(error)[:300])
                right = False
                continue
            right &= check.agrees("treadle", found, expected, how, cell=name, mode=mode, ragged=bool(given))
    return right


def sessions(check: Check) -> bool:
    """Whether sessions give what the sequence gives, and microseconds a step beside a session in Python."""
    size, right = TINY[0] if check.tiny else Size(1, 256, 20), True
    for name in check.cells:
        torch.manual_seed(0)
        cell, xs = CELLS[name](size.H).to(check.device), torch.randn(size.B, size.T, size.H, device=check.device)
        expected = {
            "output": _output(td.Recurrent(copy.deepcopy(cell).double(), engine="reference"), xs.double(), None)
        }
        for engine in ("gpu", "reference"):
            try:
                session = td.Recurrent(cell, engine=engine).session(batch_size=size.B)
                found = torch.stack([session.step(x).clone() for x in xs.unbind(1)], 1)
                right &= check.agrees(f"a session, {engine}", {"output": found}, expected, "float32", cell=name)
                seconds = check.timed(functools.partial(session.step, xs[:, 0]))
                check.say(what="time", by=f"a session, {engine}", cell=name, **size._asdict(), step_us=seconds * 1e6)
            except Exception as error:
                check.say(what="broken", by=f"a session, {engine}", cell=name, error=repr(error)[:300])
                right = False
    return right


def no_waiting(check: Check) -> bool:
    """Whether a training step asks the device for nothing."""
    if check.device.type != "cuda":
        return True
    rnn, xs = td.Recurrent(CELLS["lstm"](64), engine="gpu").cuda(), torch.randn(16, 32, 64, device="cuda")
    gradients(rnn, xs)  # verified and compiled
    torch.cuda.set_sync_debug_mode("error")
    try:
        rnn(xs)[0].sum().backward()
        check.say(what="no host sync in a training step", ok=True)
        return True
    except RuntimeError as error:
        check.say(what="no host sync in a training step", ok=False, error=repr(error)[:300])
        return False
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Side(NamedTuple):
    """A way to run a cell over a sequence."""

    name: str
    run: Callable[[], Tensor | PackedSequence]
    weights: Mapping[str, Tensor]
    """Those of the cell, by the cell's own names; empty for what has no gradient."""

    def values(self, steps: int) -> dict[str, Tensor]:
        """The output [B, T, H], zero past the end of a row, and the gradients of a weighted sum of it."""
        result = self.run()
        ys = pad_packed_sequence(result, True, total_length=steps)[0] if isinstance(result, PackedSequence) else result
        found = {"output": ys.detach().clone()}
        if self.weights:
            weights = torch.linspace(0.5, 1.5, ys.numel(), dtype=torch.float64, device=ys.device).reshape(ys.shape)
            weighted = (ys.double() * weights).sum()
            found |= zip(self.weights, torch.autograd.grad(weighted, list(self.weights.values())), strict=True)
        return found

    def backward(self) -> None:
        """Run it, and its gradient."""
        result = self.run()
        (result.data if isinstance(result, PackedSequence) else result).sum().backward()


def sides(check: Check, cell: nn.Module, name: str, xs: Tensor, lengths: Tensor | None) -> Iterator[Side]:
    """Everything that is timed for a cell, the engine first; all with the cell's own weights."""
    rnn, weights = td.Recurrent(cell, engine="gpu"), dict(cell.named_parameters())
    yield Side("treadle", lambda: rnn(xs, lengths=lengths)[0], weights)
    if name in CLASSIC:
        own = CLASSIC[name](cell.input_size, cell.hidden_size, batch_first=True).to(check.device)  # pyright: ignore
        own.load_state_dict({f"{called}_l0": tensor for called, tensor in cell.state_dict().items()})
        theirs = {called: getattr(own, f"{called}_l0") for called in weights}
        if lengths is None:
            yield Side("torch.nn", lambda: own(xs)[0], theirs)
        else:
            pack = functools.partial(pack_padded_sequence, batch_first=True, enforce_sorted=False)
            yield Side("torch.nn, packed", lambda: own(pack(xs, lengths))[0], theirs)
    if lengths is not None:
        return
    reference = td.Recurrent(cell, engine="reference")
    yield Side("Python", lambda: reference(xs)[0], weights)
    if check.device.type == "cuda":
        yield Side("Python in a CUDA graph", _captured(lambda: reference(xs)[0]), {})
        step = torch.compile(cell)

        def compiled() -> Tensor:
            state, ys = cell.initial_state(len(xs)), []  # pyright: ignore
            for x in xs.unbind(1):
                y, state = step(x, state)
                ys.append(y)
            return torch.stack(ys, 1)

        yield Side("a step under torch.compile", compiled, weights)


def _captured(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.no_grad(), torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def times(check: Check) -> bool:
    """Microseconds a step: forwards, and with the gradient; of each side that computes what the reference does.

    Returns:
        Whether the engine does.
    """
    right = True
    for size in TINY if check.tiny else SIZES:
        for name, ragged in itertools.product(check.cells, (False, True)):
            if not check.has(30):
                check.say(what="out of time")
                return right
            torch.manual_seed(0)
            cell, xs = CELLS[name](size.H).to(check.device), torch.randn(size.B, size.T, size.H, device=check.device)
            lengths = torch.linspace(1, size.T, size.B).long() if ragged else None
            fine = copy.deepcopy(cell).double()
            rnn = td.Recurrent(fine, engine="reference")
            exact = Side("", functools.partial(_output, rnn, xs.double(), lengths), dict(fine.named_parameters()))
            with verification.switched("never"):
                expected = exact.values(size.T)
            for how in check.precisions:
                with precision(how, check.device.type):
                    for side in sides(check, cell, name, xs, lengths):
                        came_through = _timed(check, side, size, expected, how, {"cell": name, "ragged": ragged})
                        right &= came_through or side.name != "treadle"
    return right


def _output(rnn: td.Recurrent, xs: Tensor, lengths: Tensor | None) -> Tensor:
    return rnn(xs, lengths=lengths)[0]


def _timed(check: Check, side: Side, size: Size, expected: dict[str, Tensor], how: str, line: dict[str, Any]) -> bool:
    """Time a side behind its gate; whether it came through."""
    line |= size._asdict()
    wanted = {name: tensor for name, tensor in expected.items() if name == "output" or side.weights}
    try:
        if not check.agrees(side.name, side.values(size.T), wanted, how, **line):
            return False
        with torch.no_grad():
            found = {"forward_us": check.timed(side.run) / size.T * 1e6}
        if side.weights:
            found["both_us"] = check.timed(side.backward) / size.T * 1e6
        check.say(what="time", by=side.name, precision=how, **line, **found)
    except Exception as error:
        check.say(what="broken", by=side.name, precision=how, **line, error=repr(error)[:300])
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """0 if the engine is right, and asks the device for nothing."""
    made = argparse.ArgumentParser("python -m benchmarks.device_check", description="Check and time the GPU engine.")
    made.add_argument("--seconds", type=float, default=540, help="how long it may take (%(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="add the lines to a file")
    made.add_argument("--cells", default=",".join(CELLS), help="which cells (%(default)s)")
    made.add_argument("--tiny", action="store_true", help="on the CPU, by Triton's interpreter, in tiny sizes")
    given = made.parse_args(arguments)
    if given.tiny and os.environ.get("TRITON_INTERPRET") != "1":
        made.error("--tiny needs TRITON_INTERPRET=1 in the environment")
    if not given.tiny and not torch.cuda.is_available():
        made.error("there is no CUDA device: --tiny runs on the CPU")
    check = Check(given)
    with device.pretended() if given.tiny else contextlib.nullcontext():
        found = device.gpu_of(check.device)
        check.say(what="device", name=getattr(found, "name", str(found)), torch=torch.__version__)
        right = agreement(check)
        waits = not no_waiting(check)
        # No speed is reported of what is wrong.
        right = right and sessions(check) and times(check) and not waits
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
