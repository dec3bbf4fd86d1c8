"""`treadle convert`: a saved network as a file that runs without treadle."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from treadle.cli.options import check_outputs, choice

SUFFIXES = (".onnx", ".c")
FORMS, WEIGHTS = ("step", "sequence"), ("float32", "int8")


def convert(
    model: Annotated[Path, typer.Argument(help="Network saved by treadle fit, treadle compare or td.save.")],
    output: Annotated[Path, typer.Argument(help="File to write: .onnx or .c.")],
    form: Annotated[
        str, typer.Option(help="Form of an ONNX file: step (live, one step a call) or sequence (any length).")
    ] = "step",
    weights: Annotated[
        str,
        typer.Option(help="Weights in a C file: float32, or int8 with a scale for each output, a quarter as large."),
    ] = "float32",
    name: Annotated[str, typer.Option(help="Prefix of the names in a C file, such as net_step.")] = "net",
    input_size: Annotated[
        int | None, typer.Option(min=1, help="Features of one step; needed where the network does not say it.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Largest difference between both sides, relative to the largest number (1e-5)."),
    ] = None,
    compiler: Annotated[str, typer.Option(help="C compiler that a C file is tried with before it is written.")] = "cc",
) -> None:
    """Write a saved network as an ONNX or C file.

    Both sides are run and compared first. Where they differ by more than the tolerance, nothing is written, and the
    exit status is 1.
    """
    from treadle.errors import InteropError
    from treadle.files import model_file
    from treadle.interop import to_c, to_onnx

    if output.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{output} must end in {' or '.join(SUFFIXES)}, which says what to write")
    choice("--form", form, FORMS)
    choice("--weights", weights, WEIGHTS)
    check_outputs({"OUTPUT": output}, [model])
    is_c = output.suffix.lower() == ".c"
    if is_c and form != "step":
        raise typer.BadParameter("--form: a C file takes one step a call: leave it out")
    if not is_c and (weights, name) != ("float32", "net"):
        raise typer.BadParameter("--weights and --name are for C files: leave them out")
    network = model_file.load(model)
    try:
        if is_c:
            report = to_c(network, output, name, weights, input_size, tolerance, compiler)
        else:
            report = to_onnx(network, output, form, input_size, tolerance)  # pyright: ignore[reportArgumentType]
    except InteropError as error:
        if error.difference is None:
            raise
        print(f"treadle: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(f"{model} cannot be converted: {error}") from error
    print(report)
