"""`treadle segment`: learn to select objects by clicks, find out how many clicks it takes, and do it on a page."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from treadle.atomic import all_or_none
from treadle.cli import options

if TYPE_CHECKING:
    from treadle.recipes.segment import Evaluation, Examples, Segmenter

MAX_SEED = 2**31 - 1
NETWORKS = ("two-stage", "fcn-32s", "fcn-8s")
JUDGES = 20
"""Objects that a new network is evaluated on."""
DATA = "Training set: scenes (generated), a folder with images/ and masks/, or COCO's JSON with --images."

TRUNK_RATE, FIRST_RATE = "with --trunk 0, 0.1 for an fcn; else 0.3, 1", "1, for two-stage --trunk-rate"
"""What these options are if they are left out, in words."""


def _rate(what: str, default: str) -> Any:
    """An option that compares a part's learning rate with that of the rest."""
    return typer.Option(min=0, max=1, help=what, show_default=default)


segment = typer.Typer(help="Select objects by clicks: learn it, find out how many clicks it takes, do it on a page.")


@segment.command()
def fit(
    data: Annotated[str, typer.Argument(help=DATA)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the network goes, such as model.safetensors.")],
    images: Annotated[Path | None, typer.Option(help="The folder of the images of COCO's JSON.")] = None,
    network: Annotated[
        str | None, typer.Option(help="two-stage, fcn-32s (the paper's) or fcn-8s.", show_default="two-stage")
    ] = None,
    trunk: Annotated[
        str | None,
        typer.Option(
            help="Start from this VGG-16: a state dict as torchvision has it (.pth, .safetensors), or torchvision to"
            " download theirs.",
            show_default="random weights",
        ),
    ] = None,
    new_channels: Annotated[
        str | None, typer.Option(help="fcn: how channels for clicks start, xavier or zeros.", show_default="xavier")
    ] = None,
    trunk_rate: Annotated[
        float | None, _rate("How fast the trunk learns; 1 is as fast as the rest, 0 not at all.", TRUNK_RATE)
    ] = None,
    first_rate: Annotated[
        float | None, _rate("The same for its first layer, which reads the clicks in an fcn.", FIRST_RATE)
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Channels of fc6 and fc7 (fcn), or of the head (two-stage).", show_default="512, 32"
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="softmax, or euclidean with one output.", show_default="softmax")
    ] = None,
    size: Annotated[
        int, typer.Option(min=16, max=1024, help="Pixels of a side of the pieces of images that it is trained on.")
    ] = 128,
    longest: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=4096,
            help="Pixels of the longer side at which it looks at images once it has learned.",
            show_default="half as much again as --size, for an fcn --size",
        ),
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, max=10**6, help="How many are generated.")] = 1000,
    budget: Annotated[str, typer.Option(help="How long to learn: 90s, 10m, 300steps, 20epochs.")] = "10m",
    rows: Annotated[int, typer.Option(min=1, help="Batch size, in images.")] = 8,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak learning rate.", show_default="0.001, 0.0002 for an fcn")
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Share of the images in the validation set.")
    ] = 0.1,
    patience: Annotated[int | None, typer.Option(min=1, help="Validations without a new best, to stop after.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed.")] = 0,
    resume: Annotated[Path | None, typer.Option(help="Resume from this network instead of a new one.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep the run here, and resume the one that is kept here already.")
    ] = None,
    checkpoint_every: Annotated[str, typer.Option(help="How often: 60s, 100steps.")] = "60s",
    report: Annotated[bool, typer.Option("--report", help="Print what became of each tensor of --trunk.")] = False,
) -> None:
    """Learn to select objects by clicks. Ctrl-C keeps what is learned so far."""
    start = options.start_of_process()
    of_new = {"--trunk": trunk, "--network": network, "--new-channels": new_channels, "--width": width, "--loss": loss}
    for option, value in of_new.items():
        if resume is not None and value is not None:
            raise typer.BadParameter(f"{option}: the network of --resume {resume} has its own already; leave it out")
    network, new_channels, loss = network or "two-stage", new_channels or "xavier", loss or "softmax"
    options.choice("--network", network, NETWORKS)
    options.choice("--new-channels", new_channels, ("xavier", "zeros"))
    options.choice("--loss", loss, ("softmax", "euclidean"))
    inputs = [resume, None if trunk is None else Path(trunk)]
    options.check_outputs({"--output": output, "--checkpoint": checkpoint}, inputs)
    length = options.parse_length("--budget", budget)
    often = options.parse_length("--checkpoint-every", checkpoint_every)

    import torch

    from treadle.cli.fitting import Watch
    from treadle.recipes.segment import Learning, Segmenter, evaluate, read_trunk, split, start_from, summary
    from treadle.recipes.segment.segmenter import looked_at
    from treadle.training.budget import ShareDone, every
    from treadle.training.training_loop import refuse_checkpoint

    torch.manual_seed(seed)
    err = options.console(sys.stderr)
    # Views are pieces of images, so that these may have more pixels than what is learned from.
    examples, judges = _data(data, images, size if data == "scenes" else 3 * size, scenes, seed), None
    training, held_out = split(examples, validation, seed)
    if data == "scenes":
        judges = _data("scenes", None, size, JUDGES, seed, test=True)
    about: dict[str, Any] = {}
    if resume is not None:
        segmenter = Segmenter.load(resume)
        model, about["resume"] = segmenter.model, str(resume)
    else:
        state = None if trunk is None else read_trunk(trunk)
        model = _network(network, state, width, loss, size)
        if state is not None:
            model, became = start_from(model, state, new_channels)  # pyright: ignore[reportArgumentType]
            err.print(str(became) if report else "; ".join(f"{n} tensors {what}" for what, n in became.counts.items()))
    fcn = not hasattr(model, "reduce")
    if trunk_rate is None:
        rates = {(True, True): 0.1, (True, False): 1.0, (False, True): 0.0, (False, False): 0.3}
        trunk_rate = rates[fcn, bool(trunk or resume)]
    if first_rate is None and fcn:
        first_rate = 1.0
    learning = Learning(
        model,
        training,
        held_out[: 2 * JUDGES],
        size=size,
        rows=rows,
        learning_rate=learning_rate if learning_rate is not None else 2e-4 if fcn else 1e-3,
        trunk_rate=trunk_rate,
        first_rate=first_rate,
        patience=patience,
        seed=seed,
    )
    about |= {"data": data, "network": network, "trunk": trunk, "size": size, "scenes": scenes, "rows": rows}
    about |= {"seed": seed, "width": width, "loss": loss}
    about |= {"trunk_rate": trunk_rate, "first_rate": first_rate, "learning_rate": learning.learning_rate}
    if checkpoint is not None:
        refuse_checkpoint(checkpoint, learning.model, about)
    parameters = sum(parameter.numel() for parameter in learning.model.parameters())
    learns = sum(parameter.numel() for parameter in learning.model.parameters() if parameter.requires_grad)
    err.print(
        f"A network of {parameters:,} parameters, of which {learns:,} learn, learns from {data}"
        f" ({len(training):,} objects; {len(held_out):,} for validation)."
    )
    with options.noticing_interrupts() as interrupted, Watch(err, "pixels", None) as watch:
        lasts, kept = (one.of(len(learning.batches)) for one in (length, often))
        share_done = ShareDone(**lasts, start=start, stop=interrupted)
        for step in learning.steps(share_done, checkpoint=checkpoint, checkpoint_at=every(**kept), about=about):
            watch.follow(step)
    learning.model.requires_grad_(True)
    segmenter = Segmenter(learning.model, longest or (size if fcn else looked_at(size)), size)
    segmenter.save(output)
    stopped = f"{output}: interrupted after {learning.done} steps; what was learned so far is saved"
    options.exit_if(interrupted(), stopped)
    judges = judges or [held_out[i] for i in range(min(len(held_out), JUDGES))]
    print(f"{output}: after {learning.done} steps, {summary(_judged(err, evaluate, segmenter, judges))}")


@segment.command(name="evaluate")
def evaluate_(
    model: Annotated[Path, typer.Argument(help="A network that treadle segment fit made.")],
    data: Annotated[str, typer.Argument(help=DATA.replace("Training", "Test"))],
    images: Annotated[Path | None, typer.Option(help="The folder of the images of COCO's JSON.")] = None,
    clicks: Annotated[int, typer.Option(min=1, max=100, help="The most for each object.")] = 20,
    limit: Annotated[int, typer.Option(min=1, help="Objects; the first ones.")] = 100,
    longest: Annotated[
        int, typer.Option(min=16, max=8192, help="Larger images are scaled down to this, with their masks.")
    ] = 1024,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of generated scenes.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the mean IoU by clicks: .svg or .png.")] = None,
    figures: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Find out how many clicks it takes: a simulated user clicks into the largest error, until the mask is good."""
    options.check_outputs({"--plot": plot, "--json": figures}, [model])

    from treadle.recipes.segment import Segmenter, evaluate, summary
    from treadle.recipes.segment.evaluation import TARGETS
    from treadle.show.iou_by_clicks import draw_iou_by_clicks

    segmenter = Segmenter.load(model)
    examples = _data(data, images, segmenter.learned_at if data == "scenes" else longest, limit, seed, test=True)
    result = _judged(options.console(sys.stderr), evaluate, segmenter, examples[:limit], clicks)
    print(summary(result))
    with all_or_none():
        if figures is not None:
            options.write_text(figures, json.dumps(result.as_dict(), indent=1) + "\n")
        if plot is not None:
            draw_iou_by_clicks(plot, {model.name: result.mean_iou().tolist()}, TARGETS)


@segment.command()
def click(
    model: Annotated[Path, typer.Argument(help="A network that treadle segment fit made.")],
    image: Annotated[Path | None, typer.Argument(help="The image to begin with.", show_default="none")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0 takes any that is free.")] = 0,
) -> None:
    """Select objects on a page: left click the object, right click the background. Ctrl-C ends it."""
    from treadle.recipes.segment import Segmenter, read_image
    from treadle.recipes.segment.page import application, serve

    segmenter = Segmenter.load(model)
    answers = application(segmenter, None if image is None else read_image(image))
    serve(answers, port, lambda address: print(f"Open {address} in a browser. Ctrl-C ends it.", flush=True))


def _data(data: str, images: Path | None, size: int, count: int, seed: int, test: bool = False) -> "Examples":
    from treadle.recipes.segment import read_coco, read_folder, scenes

    if data.lower().endswith(".json"):
        return read_coco(data, images or Path(data).parent, size)
    if images is not None:
        raise typer.BadParameter("--images has a meaning for COCO's JSON only: leave it out")
    if data == "scenes":
        return scenes(count, size, seed, test)
    return read_folder(data, size)


def _network(name: str, state: Any, width: int | None, loss: str, size: int) -> Any:
    from treadle.recipes.segment import ClickFCN, TwoStageNetwork
    from treadle.recipes.segment.click_fcn import CUT_OFF
    from treadle.recipes.segment.segmenter_training import PAPER_SIZE
    from treadle.recipes.segment.vgg import CHANNELS, trunk_channels

    outputs = 2 if loss == "softmax" else 1
    channels = CHANNELS if state is None else trunk_channels(state)
    if name == "two-stage":
        return TwoStageNetwork(outputs, channels, width or 32)
    # The paper cuts distances off at 255 pixels of images of 500: in smaller ones, that would be out of the image.
    return ClickFCN(name == "fcn-8s", outputs, channels, width or 512, cut_off=CUT_OFF * size / PAPER_SIZE)


def _judged(err: Any, evaluate: Any, segmenter: "Segmenter", examples: Any, clicks: int = 20) -> "Evaluation":
    from rich.progress import Progress

    with Progress(console=err) as bar:
        task = bar.add_task("evaluating", total=len(examples))
        return evaluate(segmenter, examples, clicks, lambda done: bar.update(task, completed=done))
