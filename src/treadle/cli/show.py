"""`treadle show`: draw how the layers of a network connect, or say what the compiler does with it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from treadle.cli.options import check_outputs, check_picture


def show(
    model: Annotated[
        str, typer.Argument(help="Saved network, or the name of a wiring (drawn with three LSTM layers).")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File for the picture: .svg or .png.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of time steps in the unrolled picture.")] = 3,
    explain: Annotated[bool, typer.Option("--explain", help="Print what the compiler does with the network.")] = False,
) -> None:
    """Draw how the layers of a network connect, folded and unrolled over time; or explain how it is compiled."""
    from treadle import WIRINGS
    from treadle.files import model_file

    if output is None and not explain:
        raise typer.BadParameter("pass '--output' FILE for a picture, or '--explain'")
    if output is not None:
        check_picture("--output", output)
        check_outputs({"--output": output}, [Path(model)])
    if model not in WIRINGS and not Path(model).exists():
        raise typer.BadParameter(
            f"there is neither a file nor a wiring {model!r}; the wirings are {', '.join(WIRINGS)}"
        )
    network = model_file.load(model) if Path(model).exists() else three_layers(model)
    if output is not None:
        from treadle.show.wiring import draw_wiring

        try:
            draw_wiring(network, output, steps=steps)
        except (TypeError, ValueError) as error:
            raise typer.BadParameter(f"{model} cannot be drawn: {error}") from error
    if explain:
        print(explained(network))


def three_layers(wiring: str) -> Any:
    """Three LSTM layers under a named wiring."""
    from treadle import LSTMCell, Stack

    return Stack.of(LSTMCell, input_size=8, hidden_size=16, layers=3, wiring=wiring)


def explained(network: Any) -> Any:
    """What the compiler does with a network."""
    from treadle import Recurrent
    from treadle.insight.explain import explain
    from treadle.state import takes_hx

    over_time = takes_hx(network) or isinstance(network, Recurrent)
    return explain(network if over_time else Recurrent(network))
