"""`treadle show`: draw how the layers of a network connect."""

from pathlib import Path
from typing import Annotated, Any

import typer

from treadle.cli.options import check_outputs, check_picture


def show(
    model: Annotated[
        str, typer.Argument(help="A saved network, or the name of a wiring, which is drawn as three LSTM layers.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture: .svg or .png.")],
    steps: Annotated[int, typer.Option(min=1, help="How many steps to unroll.")] = 3,
) -> None:
    """Draw how the layers of a network connect: folded into one step, and unrolled over several."""
    from treadle import WIRINGS, modelfile
    from treadle.show.wiring import draw_wiring

    check_picture("--output", output)
    check_outputs({"--output": output}, [Path(model)])
    if model not in WIRINGS and not Path(model).exists():
        raise typer.BadParameter(
            f"there is neither a file nor a wiring {model!r}; the wirings are {', '.join(WIRINGS)}"
        )
    network = modelfile.load(model) if Path(model).exists() else three_layers(model)
    try:
        draw_wiring(network, output, steps=steps)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(f"{model} cannot be drawn: {error}") from error


def three_layers(wiring: str) -> Any:
    """Three LSTM layers under a named wiring."""
    from treadle import LSTMCell, Stack
    from treadle.wiring.named import layer_input_size

    return Stack([LSTMCell(layer_input_size(wiring, layer, 8, [16] * 3), 16) for layer in range(3)], wiring)
