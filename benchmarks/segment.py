"""What the page about `treadle segment` says, by experiment. ``python -m benchmarks.segment vgg16.pth``.

``benchmarks.imagenet_trunk`` makes ``vgg16.pth``. Three parts, one or more of which can be named:

- ``choices``: how to change a trained VGG-16 into the network with five channels, one choice at a time, the rest as it
  is;
- ``clicks``: clicks to 85 % IoU from ImageNet's weights and from random ones, after as much time on one core;
- ``cost``: what a click costs after the first look at the image.

Every finished run is kept in ``--results``, a JSON file, and not done again: whatever ends it, start it again.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from treadle.adapt import freeze
from treadle.atomic import replacing
from treadle.recipes.segment import (
    Click,
    ClickFCN,
    ClickSampling,
    Learning,
    Segmenter,
    TwoStageNetwork,
    distance_maps,
    evaluate,
    iou,
    make_scene,
    read_folder,
    read_trunk,
    scenes,
    start_from,
)
from treadle.recipes.segment.click_fcn import CUT_OFF
from treadle.recipes.segment.segmenter import looked_at, probabilities
from treadle.recipes.segment.segmenter_training import PAPER_SIZE
from treadle.show.iou_by_clicks import draw_iou_by_clicks
from treadle.training.budget import ShareDone

SEEDS = 3
HEAD = ("fc6", "fc7", "score", "score_pool3", "score_pool4", "upscore", "upscore2", "upscore_pool4")
CHOICES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "trunk frozen": {"learns": HEAD},
    "trunk frozen but for its first layer": {"learns": ("features.0", *HEAD), "trunk_rate": 1.0},
    "first layer learns as fast as the rest": {"first_rate": 1.0},
    "first layer learns as fast as the rest, new channels start at zero": {"first_rate": 1.0, "start": "zeros"},
    "new channels start at zero": {"start": "zeros"},
    "one output, Euclidean loss": {"outputs": 1},
    "upsampling starts at random": {"random_upsampling": True},
    "trunk learns as fast as the rest": {"trunk_rate": 1.0},
    "trunk starts at random, and learns as fast": {"trunk": "random", "trunk_rate": 1.0},
}
"""As it is: an FCN-8s on ImageNet's VGG-16 that learns at a tenth of the rate of the rest, all of it, new channels by
Xavier, softmax over two classes, bilinear upsampling."""
CLICKS: dict[str, dict[str, Any]] = {
    "two-stage, ImageNet trunk": {"trunk_rate": 0.0},
    "two-stage, random trunk that learns": {"trunk": "random", "trunk_rate": 0.3},
    "two-stage, random trunk that stays": {"trunk": "random", "trunk_rate": 0.0},
    "fcn-8s, ImageNet trunk": {"network": "fcn-8s", "trunk_rate": 0.1, "first_rate": 1.0},
    "fcn-8s, random trunk that learns": {"network": "fcn-8s", "trunk": "random", "trunk_rate": 1.0},
}
LONGEST = 256
"""Pixels of the longer side of photographs."""


class Results:
    """What was measured, by name, in a JSON file."""

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def of(self, name: str, measure: Any) -> Any:
        """A result; measured now if it was not before."""
        if name not in self.found:
            start = time.process_time()
            self.found[name] = measure()
            with replacing(self.path) as beside:
                beside.write_text(json.dumps(self.found, indent=1))
            print(f"{name}: {time.process_time() - start:.0f} s", flush=True)
        return self.found[name]

    def of_each(
        self, cases: dict[str, dict[str, Any]], measure: Any, ran: str, weights: Any, options: argparse.Namespace
    ) -> dict[str, list[Any]]:
        """Of each case, what it came to from each seed."""
        for seed in range(options.seeds):
            for name, how in cases.items():
                self.of(f"{name}, {ran}, seed {seed}", lambda s=seed, h=how: measure(weights, s, options, **h))
        return {name: [self.found[f"{name}, {ran}, seed {s}"] for s in range(options.seeds)] for name in cases}


def choice(weights: Any, seed: int, options: argparse.Namespace, **how: Any) -> float:
    """The mean IoU on unseen scenes with drawn clicks, after some steps of training."""
    torch.manual_seed(seed)
    cut_off = CUT_OFF * options.size / PAPER_SIZE
    network = ClickFCN(skips=True, outputs=how.get("outputs", 2), fc_channels=256, cut_off=cut_off)
    if how.get("trunk") != "random":
        network, _ = start_from(network, weights, how.get("start", "xavier"))
    if how.get("random_upsampling"):
        for layer in (network.upscore2, network.upscore_pool4, network.upscore):
            layer.reset_parameters()
    if "learns" in how:
        network = freeze(network, except_=how["learns"])
    size, settings = options.size, {"rows": 4, "learning_rate": 5e-4, "refine": False, "seed": seed}
    training = scenes(1_000, size, seed)
    rates = {"trunk_rate": how.get("trunk_rate", 0.1), "first_rate": how.get("first_rate")}
    learning = Learning(network, training, size=size, **rates, **settings)
    for _ in learning.steps(ShareDone(steps=options.steps)):
        pass
    found, sampling = [], ClickSampling().scaled(size / PAPER_SIZE)
    for i in range(options.judges):
        scene = make_scene(i, size, test=True)
        clicks = sampling.draw(scene.mask, scene.others, np.random.default_rng(i))
        x = torch.cat([scene.image.float(), distance_maps(clicks, scene.mask.shape)])[None]
        with torch.no_grad():
            found.append(iou(probabilities(network(x))[0].numpy() > 0.5, scene.mask))
    return statistics.mean(found)


def clicks(weights: Any, seed: int, options: argparse.Namespace, **how: Any) -> dict[str, Any]:
    """What a simulated user needs on unseen scenes."""
    torch.manual_seed(seed)
    size = options.click_size
    five_channels = how.get("network") == "fcn-8s"
    cut_off = CUT_OFF * size / PAPER_SIZE
    network = ClickFCN(skips=True, fc_channels=256, cut_off=cut_off) if five_channels else TwoStageNetwork()
    if how.get("trunk") != "random":
        network, _ = start_from(network, weights)
    rate = 5e-4 if five_channels else 1e-3
    rates = {"learning_rate": rate, "trunk_rate": how["trunk_rate"], "first_rate": how.get("first_rate")}
    learning = Learning(network, scenes(options.scenes, size, seed), size=size, seed=seed, **rates)
    start = time.process_time()
    for _ in learning.steps(lambda step: (time.process_time() - start) / options.click_seconds):
        pass
    segmenter = Segmenter(learning.model, size)
    found = {"scenes": evaluate(segmenter, scenes(options.click_judges, size, 0, test=True)).as_dict()}
    if options.photographs is not None:
        judges = read_folder(options.photographs, LONGEST)
        larger = segmenter if five_channels else Segmenter(learning.model, looked_at(size))
        found["photographs"] = evaluate(larger, judges).as_dict()
    return found | {"steps": learning.done}


def needed(runs: list[dict[str, Any]]) -> tuple[str, list[float]]:
    """A row of the table and the mean IoU by clicks, of what each seed came to."""
    cells = []
    for target in ("0.85", "0.90"):
        each = [one["clicks"][target] for one in runs]
        cells.append(f"{statistics.mean(each):.2f} ({', '.join(f'{value:.2f}' for value in each)})")
    cells.append(f"{statistics.mean(one['never']['0.85'] / one['examples'] for one in runs):.0%}")
    curve = np.mean([one["mean IoU by clicks"] for one in runs], 0).tolist()
    cells.append(", ".join(f"{curve[k - 1]:.1%}" for k in (1, 2, 3, 5, 10, 20)))
    return " | ".join(cells), curve


def cost(side: int) -> dict[str, list[float]]:
    """Milliseconds of a core for opening an image, and for a click (the median of five)."""
    image, found = make_scene(0, side).image, {}
    for name, network in {"FCN-32s": ClickFCN(fc_channels=512), "two-stage": TwoStageNetwork()}.items():
        segmenter = Segmenter(network, side)
        segmenter.session(image).click(Click(1, 1))
        start = time.process_time()
        session = segmenter.session(image)
        opened = time.process_time() - start
        times = []
        for i in range(5):
            start = time.process_time()
            session.click(Click(side // 3 + i, side // 2, i % 2 == 0))
            times.append(time.process_time() - start)
        found[name] = [1000 * opened, 1000 * statistics.median(times)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segment", description=__doc__)
    parser.add_argument("trunk", help="a state dict of VGG-16")
    parser.add_argument("parts", nargs="*", default=["choices", "clicks", "cost"])
    parser.add_argument("--results", type=Path, default=Path("segment.json"))
    parser.add_argument("--plot", type=Path, default=Path("iou-by-clicks.svg"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--size", type=int, default=48, help="pixels of a side of scenes, for choices")
    parser.add_argument("--steps", type=int, default=60, help="of each choice, of 4 scenes")
    parser.add_argument("--click-size", type=int, default=128, help="the same, for clicks")
    parser.add_argument("--click-seconds", type=float, default=1200, help="of a core, of training: ten minutes of two")
    parser.add_argument("--photographs", type=Path, help="a folder of images and masks, to judge by as well")
    parser.add_argument("--cases", nargs="+", default=[""], help="only those of clicks with one of these in their name")
    parser.add_argument("--scenes", type=int, default=1_000, help="that clicks are learned from")
    parser.add_argument("--judges", type=int, default=40, help="unseen scenes, for choices")
    parser.add_argument("--click-judges", type=int, default=120, help="unseen scenes, for clicks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights, results = read_trunk(options.trunk), Results(options.results)
    if "choices" in options.parts:
        ran = f"{options.steps} steps at {options.size}"
        runs = results.of_each(CHOICES, choice, ran, weights, options)
        print("| | mean IoU | seeds |\n| --- | --- | --- |")
        for name, found in runs.items():
            print(f"| {name} | {statistics.mean(found):.1%} | {', '.join(f'{value:.1%}' for value in found)} |")
    if "clicks" in options.parts:
        ran = f"{options.click_seconds:g} s at {options.click_size}"
        cases = {name: how for name, how in CLICKS.items() if any(part in name for part in options.cases)}
        runs = results.of_each(cases, clicks, ran, weights, options)
        print("| | | steps | clicks to 85 % | to 90 % | never to 85 % | mean IoU after 1, 2, 3, 5, 10, 20 clicks |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        curves = {}
        for name, found in runs.items():
            steps = statistics.mean(one["steps"] for one in found)
            for judged in ("scenes", "photographs"):
                if all(judged in one for one in found):
                    row, curves[f"{judged}: {name}"] = needed([one[judged] for one in found])
                    print(f"| {name} | {judged} | {steps:.0f} | {row} |")
        print(draw_iou_by_clicks(options.plot, curves, (0.85, 0.9)))
    if "cost" in options.parts:
        print("| image | network | opening | a click |\n| --- | --- | --- | --- |")
        for side in (128, 256, 384):
            for name, (opened, click) in results.of(f"cost at {side}", lambda s=side: cost(s)).items():
                print(f"| {side}x{side} | {name} | {opened:.0f} ms | {click:.0f} ms |")


if __name__ == "__main__":
    main()
