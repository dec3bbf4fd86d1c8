"""`treadle segment`: interactive segmentation: train a network, evaluate it, use it on a page."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from treadle.atomic import all_or_none
from treadle.cli import options
from treadle.cli.training_options import (
    CheckpointEvery,
    CheckpointFile,
    Patience,
    Resume,
    TensorBoard,
    keeping,
    refuse_of_new,
    say_that_it_was_over,
)

if TYPE_CHECKING:
    from treadle.recipes.segment import Evaluation, Examples, Segmenter

MAX_SEED = 2**31 - 1
NETWORKS = ("two-stage", "fcn-32s", "fcn-8s")
JUDGES = 20
"""Objects that a new network is evaluated on."""
DATA = "Training set: scenes (generated), a folder with images/ and masks/, or COCO's JSON with --images."

TRUNK_RATE, FIRST_RATE = "with --trunk: 0, fcn 0.1; else 0.3, fcn 1", "1; two-stage: --trunk-rate"
"""What these options are if they are left out, in words."""


def _rate(what: str, default: str) -> Any:
    """An option that compares a part's learning rate with that of the rest."""
    return typer.Option(min=0, max=1, help=what, show_default=default)


segment = typer.Typer(help="Interactive segmentation by clicks: train a network, evaluate it, use it on a page.")


@segment.command()
def fit(
    data: Annotated[str, typer.Argument(help=DATA)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File for the trained network, such as model.safetensors.")
    ],
    images: Annotated[Path | None, typer.Option(help="Folder of the images of COCO's JSON.")] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="Network architecture: two-stage, fcn-32s (the paper's) or fcn-8s.", show_default="two-stage"
        ),
    ] = None,
    trunk: Annotated[
        str | None,
        typer.Option(
            help="Pretrained VGG-16: a state dict in torchvision's layout (.pth, .safetensors), or torchvision to"
            " download it.",
            show_default="random weights",
        ),
    ] = None,
    new_channels: Annotated[
        str | None,
        typer.Option(help="Initialisation of the click channels: xavier or zeros (fcn).", show_default="xavier"),
    ] = None,
    trunk_rate: Annotated[
        float | None, _rate("Learning rate of the trunk, as a factor of --learning-rate; 0 freezes it.", TRUNK_RATE)
    ] = None,
    first_rate: Annotated[
        float | None, _rate("Learning rate of the trunk's first layer, as a factor of --learning-rate.", FIRST_RATE)
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            help="Number of channels of fc6 and fc7 (fcn), or of the head (two-stage).",
            show_default="512, 32",
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="Loss: softmax with two outputs, or euclidean with one.", show_default="softmax")
    ] = None,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side of the image crops in training, in pixels.")] = 128,
    longest: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=4096,
            help="Longer side to which images are scaled after training, in pixels.",
            show_default="1.5 times --size; fcn: --size",
        ),
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, max=10**6, help="Number of generated scenes.")] = 1000,
    budget: Annotated[str, typer.Option(help="Length of training: 90s, 10m, 300steps, 20epochs.")] = "10m",
    rows: Annotated[int, typer.Option(min=1, help="Batch size, in images.")] = 8,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak learning rate.", show_default="0.001; fcn: 0.0002")
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Fraction of the images for the validation set.")
    ] = 0.1,
    patience: Patience = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed.")] = 0,
    resume: Resume = None,
    checkpoint: CheckpointFile = None,
    checkpoint_every: CheckpointEvery = "60s",
    tensorboard: TensorBoard = None,
    report: Annotated[bool, typer.Option("--report", help="Print how each tensor of --trunk was used.")] = False,
) -> None:
    """Train a network for interactive segmentation. Ctrl-C stops and saves it."""
    start = options.start_of_process()
    of_new = {"--trunk": trunk, "--network": network, "--new-channels": new_channels, "--width": width, "--loss": loss}
    refuse_of_new(resume, of_new)
    network, new_channels, loss = network or "two-stage", new_channels or "xavier", loss or "softmax"
    options.choice("--network", network, NETWORKS)
    options.choice("--new-channels", new_channels, ("xavier", "zeros"))
    options.choice("--loss", loss, ("softmax", "euclidean"))
    inputs = [resume, None if trunk is None else Path(trunk)]
    options.check_outputs({"--output": output, "--checkpoint": checkpoint}, inputs)
    length = options.parse_length("--budget", budget)
    often = options.parse_length("--checkpoint-every", checkpoint_every)

    import torch

    from treadle.cli.fitting import check_tensorboard, watching
    from treadle.recipes.segment import Learning, Segmenter, evaluate, read_trunk, split, start_from, summary
    from treadle.recipes.segment.evaluation import TARGETS
    from treadle.recipes.segment.segmenter import looked_at
    from treadle.training.budget import ShareDone
    from treadle.training.fit_run import contents
    from treadle.training.training_loop import refuse_checkpoint

    check_tensorboard(tensorboard)
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
        model, about = segmenter.model, contents({"the file of --resume": resume})
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
    about |= {"seed": seed, "width": width, "loss": loss, "validation": validation, "patience": patience}
    about |= {"trunk_rate": trunk_rate, "first_rate": first_rate, "learning_rate": learning.learning_rate}
    if checkpoint is not None:
        refuse_checkpoint(checkpoint, learning.model, about)
    parameters = sum(parameter.numel() for parameter in learning.model.parameters())
    learns = sum(parameter.numel() for parameter in learning.model.parameters() if parameter.requires_grad)
    err.print(
        f"Training a network of {parameters:,} parameters ({learns:,} trainable) on {data}"
        f" ({len(training):,} objects for training, {len(held_out):,} for validation)."
    )
    with watching(err, "pixels", tensorboard) as watch:
        epoch_steps = len(learning.batches)
        share_done = ShareDone(**length.of(epoch_steps), start=start, stop=watch.interrupted)
        kept = keeping(checkpoint, often, epoch_steps)
        for step in learning.steps(share_done, about=about, evaluating=watch.evaluating, **kept):
            watch.follow(step)
    learning.model.requires_grad_(True)
    segmenter = Segmenter(learning.model, longest or (size if fcn else looked_at(size)), size)
    segmenter.save(output)
    stopped = f"{output}: interrupted after {learning.done} steps; the network trained so far is saved"
    options.exit_if(watch.interrupted(), stopped)
    judges = judges or [held_out[i] for i in range(min(len(held_out), JUDGES))]
    evaluation = _judged(err, evaluate, segmenter, judges)
    watch.judged({f"clicks_to_{target:.2f}": float(evaluation.clicks_to(target).mean()) for target in TARGETS})
    print(f"{output}: after {learning.done} steps, {summary(evaluation)}")
    if not watch.steps:
        say_that_it_was_over(checkpoint)


@segment.command(name="evaluate")
def evaluate_(
    model: Annotated[Path, typer.Argument(help="Network saved by treadle segment fit.")],
    data: Annotated[str, typer.Argument(help=DATA.replace("Training", "Test"))],
    images: Annotated[Path | None, typer.Option(help="Folder of the images of COCO's JSON.")] = None,
    clicks: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of clicks per object.")] = 20,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of objects to evaluate on.")] = 100,
    longest: Annotated[
        int, typer.Option(min=16, max=8192, help="Longer side to which larger images are scaled down, in pixels.")
    ] = 1024,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed of generated scenes.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of the mean IoU by number of clicks: .svg or .png.")
    ] = None,
    figures: Annotated[Path | None, typer.Option("--json", help="File for all results, as JSON.")] = None,
) -> None:
    """Evaluate a network with a simulated user, who clicks into the largest error until the mask is good."""
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
    model: Annotated[Path, typer.Argument(help="Network saved by treadle segment fit.")],
    image: Annotated[Path | None, typer.Argument(help="Image to open first.", show_default="none")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes any free one.")] = 0,
) -> None:
    """Select objects on a page: left-click the object, right-click the background. Ctrl-C stops it."""
    from treadle.recipes.segment import Segmenter, read_image
    from treadle.recipes.segment.page import application, serve

    segmenter = Segmenter.load(model)
    answers = application(segmenter, None if image is None else read_image(image))
    serve(answers, port, lambda address: print(f"Open {address} in a browser. Ctrl-C stops it.", flush=True))


def _data(data: str, images: Path | None, size: int, count: int, seed: int, test: bool = False) -> "Examples":
    from treadle.recipes.segment import read_coco, read_folder, scenes

    if data.lower().endswith(".json"):
        return read_coco(data, images or Path(data).parent, size)
    if images is not None:
        raise typer.BadParameter("--images needs COCO's JSON as data: leave it out")
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
