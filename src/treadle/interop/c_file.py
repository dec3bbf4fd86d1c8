"""A live step in C: one file without dependencies, for microcontrollers, audio plug-ins and games."""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from treadle.atomic import replacing
from treadle.engines.passes.int8 import in_int8, round_parameters, summed_axes
from treadle.errors import InteropError
from treadle.interop.c_code.file_text import field_names, file_text
from treadle.interop.exported_step import ExportedStep, Numbers, as_array, exported_step
from treadle.interop.report import Report, check_agreement, relative_difference
from treadle.running.copies import detached_copy

_COMPARED = 200
"""How many steps both sides take before a file is written."""
_TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


def to_c(
    network: Any,
    path: str | os.PathLike[str],
    name: str = "net",
    weights: str = "float32",
    input_size: int | tuple[int, ...] | None = None,
    tolerance: float | None = None,
    compiler: str | None = "cc",
) -> Report:
    """Write the live step of a network as one C99 file without dependencies and without malloc.

    The file has ``NAME_state``, the constant ``NAME_rest`` (the state before the first step),
    ``void NAME_step(const float *x, float *y, NAME_state *state)`` and ``int NAME_selftest(void)``, which is 0 where
    recorded steps come out right. It is written from the traced program, so any cell and any wiring that traces can be
    exported; `treadle.explain` says why one does not. Loops are plain: compile with ``-O3 -march=native`` (or the like)
    to have them vectorised.

    Before the file is written it is compiled here, 200 steps are run on both sides, and compared.

    Args:
        network: a `treadle.Recurrent`, a drop-in, or a cell; it is exported in evaluation mode, for one row.
        path: the file.
        name: what the names in C begin with, an identifier.
        weights: ``"float32"`` keeps the numbers as they are (double where the network is float64); ``"int8"`` keeps the
            matrices of products as int8 with a factor for each output: a quarter of the memory. Sums stay floats. They
            are the numbers of ``session(weights="int8")``.
        input_size: what a step reads; needed only where the cell does not say it.
        tolerance: how far both sides may differ, relative to the largest number; 1e-5 unless given (1e-10 for float64).
        compiler: the C compiler that the file is tried with; ``None`` writes it untried.

    Returns:
        A `Report`: how far both sides agree, and, of int8, how far the rounded network is from the network itself.

    Raises:
        TraceError: the step cannot be traced, or holds an operation that cannot be said in C.
        InteropError: there is no such compiler, it fails, or both sides differ; nothing is written.
        ValueError: ``name`` is no identifier; other ``weights``; ``"int8"`` of matrices that are not finite.

    Example:
        >>> from pathlib import Path
        >>> import treadle as td
        >>> rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 8), td.LSTMCell(8, 8)]))
        >>> report = td.interop.to_c(rnn, "net.c", compiler=None)
        >>> Path("net.c").read_text().splitlines()[0]
        '/* A Stack, written by treadle.'
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"name is what names in C begin with, an identifier such as 'net', but {name!r} was passed")
    if weights not in ("float32", "int8"):
        raise ValueError(f"weights are 'float32' or 'int8', but {weights!r} was passed")
    step = exported_step(network, input_size)
    notes: tuple[str, ...] = ()
    if weights == "int8":
        whole = step
        step = _rounded(step)
        notes = (
            f"int8: {_distance(step, whole):.1e} from the network itself, over {_COMPARED} random steps",
            *_left_out(step),
        )
    tolerance = _TOLERANCES.get(step.dtype, 1e-5) if tolerance is None else tolerance
    about = f"A {type(step.network.cell).__name__}, written by treadle."
    text = file_text(step, name, weights == "int8", max(tolerance, 1e-5), about)
    if compiler is None:
        difference, compared = None, ""
    else:
        difference = _tried(text, step, name, compiler)
        check_agreement(difference, tolerance, "the C file")
        compared = f"{_COMPARED} steps, compiled with {compiler}"
    with replacing(path) as beside:
        beside.write_text(text)
    return Report(str(path), compared, difference, notes)


def _rounded(step: ExportedStep) -> ExportedStep:
    """The same network with the matrices of its products as int8 says them, everywhere that they are read."""
    network = detached_copy(step.network)  # the other one is what the rounded one is compared with
    parameters = dict(network.cell.named_parameters(remove_duplicate=False))
    round_parameters(parameters, summed_axes(step.program))
    return exported_step(network, tuple(step.x.shape[1:]))


def _left_out(step: ExportedStep) -> list[str]:
    """Which matrices have no int8 form, a sentence each: their columns are no multiples of a factor each."""
    numbers = Numbers(step.constants)
    found = {value: value.inputs[1] for value in step.program.values() if value.op == "dot"}
    return [
        f"{step.program.lines.get(value) or 'a step'}: a matrix [{', '.join(map(str, matrix.shape))}] stays as it is"
        for value, matrix in found.items()
        if not matrix.has_rows and in_int8(torch.from_numpy(numbers(matrix))) is None
    ]


def _distance(step: ExportedStep, other: ExportedStep) -> float:
    _, found, after = step.recorded(_COMPARED)
    _, wanted, after_wanted = other.recorded(_COMPARED)
    return relative_difference([found, *after.values()], [wanted, *after_wanted.values()])


def _tried(text: str, step: ExportedStep, name: str, compiler: str) -> float:
    """How far a file is from the network: it is compiled, and takes the steps that the cell's own Python takes."""
    with tempfile.TemporaryDirectory() as folder:
        library = _compiled(text, Path(folder), compiler)
        handle = ctypes.CDLL(str(library))
        try:
            failures = getattr(handle, f"{name}_selftest")()
            if failures:
                raise InteropError(f"the C file's own test finds {failures} wrong numbers: nothing was written")
            return _compared(handle, step, name)
        finally:
            _close(handle)


def _compiled(text: str, folder: Path, compiler: str) -> Path:
    if shutil.which(compiler) is None:
        raise InteropError(
            f"there is no C compiler {compiler!r} to try the file with: install one, name another, compiler='gcc', or"
            " write the file untried, compiler=None"
        )
    source, library = folder / "net.c", folder / "net.so"
    source.write_text(text)
    words = [compiler, "-std=c99", "-O1", "-shared", "-fPIC", str(source), "-o", str(library), "-lm"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
        raise InteropError(f"{compiler} does not compile the file: {first}")
    return library


def _close(handle: ctypes.CDLL) -> None:
    if os.name == "posix":
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(handle._handle))


def _compared(handle: ctypes.CDLL, step: ExportedStep, name: str) -> float:
    xs, wanted, after_wanted = step.recorded(_COMPARED, seed=1)
    fields = field_names(step.initial)
    kinds = [(component, as_array(step.initial[component])) for component in fields]
    layout = np.dtype([(fields[c], a.dtype, (max(1, a.size),)) for c, a in kinds] or [("nothing", "i1")], align=True)
    rest = (ctypes.c_char * layout.itemsize).in_dll(handle, f"{name}_rest")
    state = np.frombuffer(bytes(rest), layout).copy()
    function = getattr(handle, f"{name}_step")
    function.restype = None
    ys = np.empty((len(xs), max(1, wanted[0].numel())), as_array(wanted).dtype)
    given = as_array(xs).reshape(len(xs), -1)
    for t in range(len(xs)):
        x = np.ascontiguousarray(given[t])
        function(x.ctypes.data_as(ctypes.c_void_p), ys[t].ctypes.data_as(ctypes.c_void_p),
                 state.ctypes.data_as(ctypes.c_void_p))  # fmt: skip
    after = [torch.from_numpy(state[fields[component]].reshape(-1).copy()) for component in fields]
    return relative_difference([torch.from_numpy(ys), *after], [wanted, *(after_wanted[c] for c in fields)])
