"""Networks as PT2 archives, for processes without treadle: programs of PyTorch, or machine code of its compiler."""

import contextlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim

from treadle import state as states
from treadle.atomic import replacing
from treadle.errors import InteropError
from treadle.interop.exported_step import prepared
from treadle.interop.report import Report, check_agreement, relative_difference
from treadle.interop.sequence import Direction, SequenceNetwork, as_sequence

_TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
_ROWS, _STEPS = 3, 5
"""Of the example by which a program is traced; it takes others."""
ABOUT = "treadle.json"
"""The file within an archive, and the entry among the metadata of a compiled one, that says what the states are."""


def to_pt2(
    network: Any,
    path: str | os.PathLike[str],
    form: Literal["step", "sequence"] = "step",
    compiled: bool = False,
    input_size: int | tuple[int, ...] | None = None,
    tolerance: float | None = None,
) -> Report:
    """Write a network as a PT2 archive, which PyTorch runs without treadle, for any number of rows and steps.

    ``form="step"`` is a live step, ``y, state = program(x, state)``: ``x`` [B, I], the state a dict of tensors by name,
    ``{"layer0.h": …}``. ``form="sequence"`` is a whole sequence, ``ys, state = program(xs, lengths, state)``: ``xs``
    [B, T, I] ([T, B, I] where the network is not ``batch_first``), ``lengths`` [B] (T, or more, where a row is whole).
    Past the length of its row an output is zero, and the state stands still.

    Without ``compiled``, the archive is a program of `torch.export`: PyTorch's own operators and a loop over time. It is
    loaded by ``torch.export.load(path).module()``; its ``example_inputs`` hold the state before the first step, and so
    does ``treadle.json`` among its extra files. With ``compiled``, it is machine code of AOTInductor for this
    kind of CPU, which takes a C++ compiler and some minutes; it is loaded by
    ``torch._inductor.aoti_load_package(path)``, or by C++ without Python. PyTorch's machine code does not look at
    strides: give it contiguous tensors.

    Before the file is written it is loaded again and run beside the network, and compared.

    Args:
        network: a `treadle.Recurrent`, a drop-in, a cell, or a `torch.nn.Sequential` that has these between layers
            without memory; as a sequence also a `treadle.Bidirectional`; exported in evaluation mode.
        path: the file, which ends in ``.pt2``.
        form: ``"step"`` or ``"sequence"``.
        compiled: whether to write machine code.
        input_size: what a step reads; needed only where the cell does not say it.
        tolerance: how far both sides may differ, relative to the largest number; 1e-5 unless given (1e-10 for float64).

    Returns:
        A `Report`: how far both sides agree.

    Raises:
        TypeError: ``network`` is nothing that can be exported; the part that is not known is named.
        InteropError: PyTorch cannot export or compile it; there is no C++ compiler; both sides differ. Nothing is written.
        ValueError: another ``form``, or another suffix.

    Source: https://docs.pytorch.org/docs/stable/export.html

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.Recurrent(td.GRUCell(3, 5))
        >>> report = td.interop.to_pt2(rnn, "net.pt2")
        >>> program = torch.export.load("net.pt2").module()
        >>> y, state = program(torch.randn(2, 3), {"h": torch.zeros(2, 5)})
        >>> y.shape
        torch.Size([2, 5])
    """  # noqa: E501
    if form not in ("step", "sequence"):
        raise ValueError(f"form is 'step' or 'sequence', but {form!r} was passed")
    if Path(path).suffix != ".pt2":
        raise ValueError(f"PyTorch loads archives that end in .pt2 only: name {path} so")
    compiler = os.environ.get("CXX", "g++")
    if compiled and shutil.which(compiler) is None:
        raise InteropError(
            f"there is no C++ compiler {compiler!r}, which machine code takes: install one, or leave out `compiled`"
        )
    module = _Step(network, input_size) if form == "step" else as_sequence(network, input_size)
    numbers = (*module.parameters(), *module.buffers(), module.x)
    dtype = next((one.dtype for one in numbers if one.is_floating_point()), torch.float32)
    with replacing(path) as beside, _quietly(), torch.no_grad():
        program = _exported(module)
        load = _compiled if compiled else _saved
        difference = _difference(load(program, beside, _about(module, form)), module)
        check_agreement(difference, _TOLERANCES.get(dtype, 1e-5) if tolerance is None else tolerance, "the program")
    what = "machine code" if compiled else "operators of PyTorch"
    notes = ("takes contiguous tensors: PyTorch's machine code does not look at strides",) if compiled else ()
    return Report(str(path), f"{what}, run in PyTorch {torch.__version__.partition('+')[0]}", difference, notes)


class _Step(nn.Module):
    """A live step whose state is a dict."""

    def __init__(self, network: Any, input_size: Any):
        super().__init__()
        copy, x = prepared(network, input_size)
        self.direction = Direction("", copy, x, False)
        self.cell, self.x = copy.cell, x
        self.eval()

    def initial(self, rows: int = 1) -> dict[str, Tensor]:
        """The state before the first step."""
        return {name: one.repeat_interleave(rows, 0) for name, one in self.direction.initial().items()}

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step."""
        y, after = self.cell(x, self.direction.state_of(state))
        # A state that stands still would be the caller's own tensor.
        return y.clone(), {self.direction.name(path): one.clone() for path, one in states.named_tensors(after)}


def _arguments(module: Any, rows: int, steps: int, state: dict[str, Tensor], seed: int = 0) -> tuple[Any, ...]:
    """What a program is called with: random inputs, of whole numbers zeros and ones."""
    random = torch.Generator().manual_seed(seed)
    live = isinstance(module, _Step)
    around = (rows,) if live else (rows, steps) if module.batch_first else (steps, rows)
    shape = (*around, *module.x.shape[1:])
    if module.x.is_floating_point():
        x = torch.randn(shape, generator=random, dtype=module.x.dtype)
    else:
        x = torch.randint(2, shape, generator=random, dtype=module.x.dtype)
    if live:
        return x, state
    lengths = torch.randint(1, steps + 1, (rows,), generator=random)
    lengths[0] = steps
    return x, lengths, state


def _exported(module: Any) -> Any:
    state = module.initial(_ROWS)
    rows = {0: Dim.DYNAMIC}
    if isinstance(module, SequenceNetwork):
        shapes: tuple[Any, ...] = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, rows)
    else:
        shapes = (rows,)
    given = _arguments(module, _ROWS, _STEPS, state)
    try:
        return torch.export.export(module, given, dynamic_shapes=(*shapes, dict.fromkeys(state, rows)))
    except Exception as error:  # PyTorch's own errors have no common base
        raise InteropError(f"PyTorch cannot export the network: {_first_line(error)}") from error


def _about(module: Any, form: str) -> str:
    rest = {name: {"rest": one[0].tolist()} for name, one in module.initial().items()}
    return json.dumps({"form": form, "states": rest})


Program = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def _saved(program: Any, path: Path, about: str) -> Program:
    torch.export.save(program, path, extra_files={ABOUT: about})
    return torch.export.load(path).module()


def _compiled(program: Any, path: Path, about: str) -> Program:
    from torch import _inductor

    try:
        _inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs={"aot_inductor.metadata": {ABOUT: about}}
        )
        return _inductor.aoti_load_package(str(path))
    except Exception as error:  # as above
        raise InteropError(f"PyTorch's compiler does not take the network: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _difference(program: Program, module: Any) -> float:
    """Rows and steps as in the example and others, one of each among them, from where the last call has ended."""
    worst = 0.0
    for rows, sizes in ((_ROWS, (_STEPS, 23, 1)), (1, (1, 7))):
        state = module.initial(rows)
        for seed, steps in enumerate(sizes):
            given = _arguments(module, rows, steps, state, seed)
            (found, after), (wanted, state) = program(*given), module(*given)
            if list(after) != list(state):
                return float("inf")
            worst = max(worst, relative_difference([found, *after.values()], [wanted, *state.values()]))
    return worst


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """A context without PyTorch's warnings and messages about its own parts."""
    logger = logging.getLogger("torch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
