"""`treadle segment`, as people use it."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from treadle.cli import main
from treadle.recipes.segment import Segmenter, make_scene, vgg_features

SMALL = ["--size", "32", "--scenes", "6", "--rows", "2", "--budget", "2steps"]
TINY = (4, 4, 6, 6, 8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["treadle.cli.segment"], "JUDGES", 2)
    state = {f"features.{name}": tensor for name, tensor in vgg_features(channels=TINY).state_dict().items()}
    torch.save(state, "vgg.pth")
    return tmp_path


def run(capsys, *arguments):
    """In this process: exit status, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


@pytest.mark.share(2)
@pytest.mark.parametrize("network", ["two-stage", "fcn-32s", "fcn-8s"])
def test_fit_and_evaluate(capsys, folder, network):
    options = ["--network", network, "--trunk", "vgg.pth", "--width", "4"]
    code, out, err = run(capsys, "segment", "fit", "scenes", "-o", "m.safetensors", *options, *SMALL)
    assert code == 0, err
    assert out.startswith("m.safetensors: after 2 steps, 2 objects: ")
    assert "tensors copied" in err
    segmenter = Segmenter.load("m.safetensors")
    assert (segmenter.size, segmenter.learned_at) == (48 if network == "two-stage" else 32, 32)
    if network != "two-stage":  # distances are cut off where the paper's are, in proportion
        assert segmenter.model.cut_off == 255 * 32 / 500
    more = ["--plot", "ious.svg", "--json", "f.json"]
    code, out, err = run(
        capsys, "segment", "evaluate", "m.safetensors", "scenes", "--limit", "2", "--clicks", "3", *more
    )
    assert code == 0, err
    assert "2 objects: " in out
    assert "clicks to 85% IoU" in out
    assert json.loads((folder / "f.json").read_text())["most clicks"] == 3
    assert "mean IoU" in (folder / "ious.svg").read_text()


def test_folders_resuming_and_checkpoints(capsys, folder):
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for i in range(3):
        scene = make_scene(i, 40)
        Image.fromarray(scene.image.movedim(0, 2).numpy()).save(folder / "images" / f"{i}.png")
        Image.fromarray(scene.mask * np.uint8(3)).save(folder / "masks" / f"{i}.png")
    small = ["--size", "32", "--rows", "2", "--budget", "2steps", "--loss", "euclidean"]
    options = ["--trunk", "vgg.pth", "--width", "4", "--report", "--checkpoint", "run.checkpoint"]
    code, out, err = run(capsys, "segment", "fit", ".", "-o", "m.safetensors", *options, *small)
    assert code == 0, err
    assert "features.28.bias" in err
    code, out, err = run(capsys, "segment", "fit", ".", "-o", "n.safetensors", *options, *small)
    assert "after 2 steps" in out  # all of them were kept
    a, b = (Segmenter.load(name).model.state_dict() for name in ("m.safetensors", "n.safetensors"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    code, out, err = run(
        capsys,
        "segment",
        "fit",
        ".",
        "-o",
        "n.safetensors",
        "--resume",
        "m.safetensors",
        *small[:-2],
        "--longest",
        "40",
    )
    assert code == 0, err
    assert Segmenter.load("n.safetensors").size == 40
    again = Segmenter.load("n.safetensors").model
    assert again.outputs == 1
    assert torch.equal(again.features[0].weight, a["features.0.weight"])
    code, out, err = run(capsys, "segment", "evaluate", "n.safetensors", ".", "--clicks", "2")
    assert code == 0
    assert "3 objects" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere", "-o", "m.safetensors"], "nowhere has no folder 'images'"),
        (["fit", "scenes", "-o", "m.safetensors", "--network", "unet"], "--network: there is no 'unet'"),
        (["fit", "scenes", "-o", "m.safetensors", "--trunk", "none.pth"], "none.pth: No such file"),
        (["fit", "scenes", "-o", "m.safetensors", "--images", "x"], "--images needs COCO's JSON"),
        (["fit", "scenes", "-o", "m.safetensors", "--resume", "a", "--trunk", "vgg.pth"], "--trunk: the network of"),
        (
            ["fit", "scenes", "-o", "m.safetensors", "--resume", "a", "--network", "two-stage"],
            "--network: the network of",
        ),
        (
            ["fit", "scenes", "-o", "m.safetensors", "--resume", "a", "--width", "9"],
            "--width: the network of --resume a",
        ),
        (["fit", "scenes", "-o", "vgg.pth", "--trunk", "vgg.pth"], "vgg.pth is the input already"),
        (["evaluate", "vgg.pth", "scenes"], "vgg.pth"),
        (["click", "none.safetensors"], "none.safetensors: No such file"),
    ],
)
def test_what_is_refused_is_one_line(capsys, arguments, message):
    code, out, err = run(capsys, "segment", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("treadle: ")
    assert message in err
    assert err.count("\n") == 1
