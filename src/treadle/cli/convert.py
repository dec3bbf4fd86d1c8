"""`treadle convert`: a network from one kind of file to another."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from treadle.cli.options import check_outputs, choice

CHOICES = {"form": ("step", "sequence"), "weights": ("float32", "int8")}


def convert(
    model: Annotated[
        Path,
        typer.Argument(
            help="File to read: .safetensors (treadle fit, treadle compare, td.save), .onnx, .keras, .h5 (of Keras), or"
            " .json (treadle's own)."
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            help="File to write: .safetensors, .onnx, .keras, .h5, .pt2 (PyTorch without treadle), .c, or .json (wiring"
            " and weights as text)."
        ),
    ],
    form: Annotated[
        str | None,
        typer.Option(
            help="Form of an ONNX or PT2 file: step (live, one step a call) or sequence (any length).",
            show_default="step",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights in a C file: float32, or int8 with a scale for each output, a quarter as large.",
            show_default="float32",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Prefix of the names in a C file, such as net_step.", show_default="net")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Machine code in a PT2 file, by PyTorch's compiler, which takes minutes.")
    ] = False,
    input_size: Annotated[
        int | None, typer.Option(min=1, help="Features of one step; needed where the network does not say it.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Largest difference between both sides, relative to the largest number (1e-5)."),
    ] = None,
    compiler: Annotated[
        str | None, typer.Option(help="C compiler that a C file is tried with before it is written.", show_default="cc")
    ] = None,
) -> None:
    """Convert a network from one kind of file to another, by their suffixes.

    Both sides are run and compared first. Where they differ by more than the tolerance, nothing is written, and the
    exit status is 1.
    """
    from treadle.errors import InteropError, ModelFileError
    from treadle.interop import formats

    options = {"form": form, "weights": weights, "name": name, "compiler": compiler, "input_size": input_size}
    options["compiled"] = compiled or None
    given = {option: value for option, value in options.items() if value is not None}
    _check_suffix(model, formats.readable(), "read")
    _check_suffix(output, formats.writable(), "write")
    for option, value in given.items():
        _check_option(option, value, output, formats.writable(option))
    check_outputs({"OUTPUT": output}, [model])
    try:
        lines = formats.convert(model, output, tolerance, **given)
    except InteropError as error:
        if error.difference is None:
            raise
        print(f"treadle: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (TypeError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise typer.BadParameter(f"{model} cannot be converted: {error}") from error
    print("\n".join(lines))


def _check_suffix(path: Path, known: list[str], verb: str) -> None:
    if path.suffix.lower() not in known:
        raise typer.BadParameter(
            f"{path} must end in {', '.join(known[:-1])} or {known[-1]}, which says what to {verb}"
        )


def _check_option(option: str, value: Any, output: Path, takers: list[str]) -> None:
    words = "--" + option.replace("_", "-")
    if output.suffix.lower() not in takers:
        raise typer.BadParameter(f"{words} is for {' and '.join(takers)} files: leave it out")
    if option in CHOICES:
        choice(words, value, CHOICES[option])
