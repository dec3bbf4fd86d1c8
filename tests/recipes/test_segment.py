"""Selecting objects by clicks: networks and their crops, clicks, what is read and refused, sessions, learning."""

import copy
import json
import pickle
import re
import struct
import urllib.error
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.tolerances import assert_close
from treadle.adapt import freeze, gradient_report
from treadle.errors import DataError, ModelFileError, ShapeError
from treadle.recipes.segment import (
    Click,
    ClickFCN,
    ClickSampling,
    Example,
    Learning,
    Segmenter,
    TwoStageNetwork,
    distance_maps,
    evaluate,
    iou,
    make_scene,
    next_click,
    read_coco,
    read_folder,
    read_image,
    read_mask,
    read_trunk,
    scenes,
    split,
    start_from,
    summary,
    vgg_features,
)
from treadle.recipes.segment.augmentation import augment
from treadle.recipes.segment.clicks import distance
from treadle.recipes.segment.coco import coco_region
from treadle.recipes.segment.grid import Grid
from treadle.recipes.segment.images import fitting_size, resize_image
from treadle.recipes.segment.scenes import light, thing
from treadle.recipes.segment.segmenter import probabilities, scaled_position
from treadle.recipes.segment.segmenter_training import focal_loss
from treadle.recipes.segment.two_stage import like_selected, stride_of
from treadle.training.budget import ShareDone
from treadle.training.evaluate import total_loss

TINY = (4, 4, 6, 6, 8)


def fcn(**options):
    return ClickFCN(**{"channels": TINY, "fc_channels": 8, **options})


def two_stage(**options):
    return TwoStageNetwork(**{"channels": TINY, "width": 4, **options})


def input_of(height, width, clicks=((0, 0, True),)):
    image = torch.rand(1, 3, height, width) * 255
    return torch.cat([image, distance_maps([Click(*click) for click in clicks], (height, width))[None]], 1)


# Crops


@pytest.mark.share(2)
@pytest.mark.parametrize("skips", [False, True], ids=["32s", "8s"])
@pytest.mark.parametrize("margin", [False, True], ids=["same", "margin"])
def test_scores_have_the_size_of_every_image(skips, margin):
    network = fcn(skips=skips, margin=margin, channels=(1,) * 5, fc_channels=1).eval()
    with torch.no_grad():
        for n in range(1, 101):
            for size in ((n, 101 - n),) if margin else ((n, 101 - n), (n, n)):
                assert network(torch.zeros(1, 5, *size)).shape == (1, 2, *size)


# Not FCN-8s with a margin: its poolings round up, so its maps reach farther at the end than at the start.
@pytest.mark.parametrize(("skips", "margin"), [(False, False), (True, False), (False, True)])
def test_scores_lie_where_their_pixels_are(skips, margin):
    """A network that is symmetric treats a mirrored image as the mirror of the image, at sizes where the grids do."""
    network = fcn(skips=skips, margin=margin, dropout=0.0).double().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            with torch.no_grad():
                module.weight.copy_((module.weight + module.weight.flip(2, 3)) / 2)
    for layer in (network.score, *((network.score_pool3, network.score_pool4) if skips else ())):
        nn.init.normal_(layer.weight)
    # The authors' margin of 100 puts the grid at 12.5 + 32i: it is its own mirror in 25 + 32k + 1 pixels.
    side = 26 + 64 if margin else 96
    x = torch.rand(1, 5, side, side, dtype=torch.float64) * 255
    y, mirrored = network(x), network(x.flip(2, 3)).flip(2, 3)
    y, mirrored = y / y.std(), mirrored / y.std()
    assert y.isfinite().all()
    assert_close(mirrored, y)


def test_the_authors_crops_follow_from_their_margin():
    network = fcn(skips=True, margin=True)
    grid, pooled = Grid(), []
    for module in network.features:
        grid = grid.through(module)
        if isinstance(module, nn.MaxPool2d):
            pooled.append(grid)
    score = grid.through(network.fc6).through(network.fc7)
    up32 = nn.ConvTranspose2d(2, 2, 64, 32)
    assert score.through(up32).position_of(Grid()) == 19  # Long et al.'s published crops of FCN-32s, -16s and -8s
    assert -score.through(network.upscore2).position_of(pooled[3]) == 5
    at_pool4 = score.through(network.upscore2)
    assert -at_pool4.through(network.upscore_pool4).position_of(pooled[2]) == 9
    assert at_pool4.through(network.upscore_pool4).through(network.upscore).position_of(Grid()) == 31


def test_a_grid_is_where_a_layers_impulse_comes_from():
    up = nn.ConvTranspose2d(1, 1, 6, 2, 1, bias=False)
    x = torch.zeros(1, 1, 24, 24)
    x[..., 4, 4] = 1
    written = up(x)[0, 0].abs().sum(1).nonzero().double().mean().item()
    grid = Grid().through(up)
    assert float(grid.offset + written * grid.stride) == 4
    for layer in (nn.Conv2d(1, 1, 5, 3, 2), nn.MaxPool2d(4, 2, 1)):
        grid = Grid().through(layer)
        x = torch.zeros(1, 1, 24, 24, requires_grad=True)
        if isinstance(layer, nn.MaxPool2d):
            layer = nn.AvgPool2d(4, 2, 1)  # the same windows
        else:
            nn.init.ones_(layer.weight)
        (gradient,) = torch.autograd.grad(layer(x)[0, 0, 4, 4], x)
        rows = gradient[0, 0].sum(1).nonzero().double()
        assert rows.mean().item() == float(grid.offset + 4 * grid.stride)


def test_grids_that_do_not_coincide_are_refused():
    with pytest.raises(ShapeError, match="choose kernels and paddings whose positions coincide"):
        Grid().through(nn.MaxPool2d(2)).position_of(Grid())
    with pytest.raises(ShapeError, match="dilated"):
        Grid().through(nn.Conv2d(1, 1, 3, dilation=2))
    with pytest.raises(ShapeError, match="make it square"):
        Grid().through(nn.Conv2d(1, 1, (3, 5)))


# Networks


@pytest.mark.parametrize("size", [(1, 1), (7, 64), (33, 17), (64, 96)])
@pytest.mark.parametrize("make", [fcn, lambda: fcn(skips=True, margin=True), lambda: fcn(outputs=1), two_stage])
def test_what_is_kept_changes_no_score(make, size):
    network = make().eval()
    if isinstance(network, ClickFCN):
        nn.init.normal_(network.score.weight)
    x = input_of(*size, clicks=[(0, 0, True), (size[0] - 1, size[1] - 1, False)])
    x = torch.cat([x, input_of(*size)])
    seen = network.see(x[:, :3])
    y = network.answer(seen, x[:, 3:], network.compare(seen, x[:, 3:]))
    assert y.shape == (2, network.outputs, *size)
    assert_close(network(x), y)
    assert_close(network(x[1:]), y[1:])  # rows are independent


@pytest.mark.parametrize("make", [fcn, two_stage])
def test_inputs_of_other_shapes_are_refused(make):
    for shape in ((1, 3, 8, 8), (5, 8, 8), (1, 5, 0, 8)):
        with pytest.raises(ShapeError, match=re.escape(f"but was given {list(shape)}")):
            make()(torch.zeros(shape))
    with pytest.raises(ShapeError, match="outputs is 2"):
        make(outputs=21)


def test_gradients_reach_the_first_layer_through_a_frozen_network():
    network = freeze(fcn(), except_="features.0")
    report = gradient_report(network, (input_of(64, 64), torch.ones(1, 64, 64).long()), nn.functional.cross_entropy)
    assert report["features.0"].verdict == "learns"
    assert report["features.0"].gradient > 0
    assert {row.verdict for row in report if row.name != "features.0"} == {"frozen"}
    nn.functional.cross_entropy(network(input_of(64, 64)), torch.ones(1, 64, 64).long()).backward()
    assert network.features[0].weight.grad[:, 3:].abs().sum() > 0  # those of the new channels, too


# Trained weights


def vgg_state(channels=TINY, fully_connected=None):
    state = {f"features.{name}": tensor for name, tensor in vgg_features(channels=channels).state_dict().items()}
    if fully_connected:
        state["classifier.0.weight"] = torch.randn(fully_connected, channels[-1] * 49)
        state["classifier.0.bias"] = torch.randn(fully_connected)
        state["classifier.3.weight"] = torch.randn(fully_connected, fully_connected)
        state["classifier.3.bias"] = torch.randn(fully_connected)
        state["classifier.6.weight"] = torch.randn(10, fully_connected)
    return state


@pytest.mark.parametrize("start", ["xavier", "zeros"])
def test_surgery_keeps_the_trained_channels_and_reports_every_tensor(start):
    state, before = vgg_state(fully_connected=8), fcn()
    network, report = start_from(before, state, start)
    assert {row.name for row in report if row.action != "unused"} == set(network.state_dict())
    assert report["features.0.weight"].action == "widened"
    weight = network.features[0].weight
    assert torch.equal(weight[:, :3], state["features.0.weight"])
    new, fans = weight[:, 3:], (5 * 9, TINY[0] * 9)
    bound = 0.0 if start == "zeros" else (6 / sum(fans)) ** 0.5
    assert new.abs().max() <= bound
    assert start == "zeros" or new.abs().max() > bound / 2
    assert not torch.equal(before.features[2].weight, network.features[2].weight)
    # A fully connected layer over a 7x7 map is fc6 in the middle of it.
    y = torch.rand(1, TINY[-1], 7, 7)
    assert_close(network.fc6(y)[0, :, 3, 3], state["classifier.0.weight"] @ y.flatten() + state["classifier.0.bias"])
    assert torch.equal(network.fc7.weight[:, :, 0, 0], state["classifier.3.weight"])


def test_the_report_of_a_trunk_from_a_file_has_every_tensor_of_both(tmp_path):
    state = vgg_state(fully_connected=8)
    torch.save(state, tmp_path / "vgg.pth")
    for make in (fcn, two_stage):
        network, report = start_from(make(), read_trunk(tmp_path / "vgg.pth"))
        assert {row.source for row in report if row.source is not None} == set(state)
        assert {row.name for row in report if row.action != "unused"} == set(network.state_dict())
        assert report.names("unused")[-1] == "classifier.6.weight"


def test_with_zeros_clicks_change_nothing_at_first():
    network, _ = start_from(fcn().eval(), vgg_state(), "zeros")
    nn.init.normal_(network.score.weight)
    x = input_of(64, 64)
    other = torch.cat([x[:, :3], torch.rand_like(x[:, 3:]) * 255], 1)
    assert torch.equal(network(x), network(other))


def test_trunks_are_read_from_files(tmp_path):
    from safetensors.torch import save_file

    state = vgg_state()
    torch.save(state, tmp_path / "vgg.pth")
    save_file(state, tmp_path / "vgg.safetensors")
    for name in ("vgg.pth", "vgg.safetensors"):
        found = read_trunk(tmp_path / name)
        assert all(torch.equal(found[key], state[key]) for key in state)
    network, _ = start_from(two_stage(), found)
    assert torch.equal(network.features[28].weight, state["features.28.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.28.bias"), "has no features.28.bias"),
        (lambda s: s.update({"features.5.weight": torch.zeros(4, 9, 3, 3)}), "features.5.weight of .* is"),
        (lambda s: s.update({"features.29.weight": torch.zeros(1)}), "has features.29.weight, which VGG-16 has not"),
        (lambda s: (s.clear(), s.update({"conv1.weight": torch.zeros(1)})), "it begins with conv1.weight"),
        (lambda s: s.update({"step": 3}), "not a state dict"),
        (lambda s: s.update({"features.0.weight": torch.zeros(())}), r"features.0.weight of .* is \[\], where"),
        (lambda s: s.update({"features.0.weight": torch.zeros(4, 1, 3, 3)}), r"where a VGG-16 has \[4, 3, 3, 3\]"),
        (lambda s: (s.clear(), s.update({7: torch.zeros(1)})), "it begins with 7"),
    ],
)
def test_state_dicts_of_other_architectures_are_refused(change, message, tmp_path):
    state = vgg_state()
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ModelFileError, match=message):
        read_trunk(tmp_path / "other.pth")


def test_of_another_network_for_clicks_the_trunk_alone_is_taken(tmp_path):
    other = TwoStageNetwork(channels=TINY, width=6)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    for before in (two_stage(), TwoStageNetwork(channels=TINY, width=6)):
        network, report = start_from(before, read_trunk(tmp_path / "other.pth"))
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, (other if name.startswith("features.") else before).state_dict()[name])
        assert {row.source for row in report if row.source} == set(other.state_dict())


@pytest.mark.parametrize(
    ("problem", "kind", "message"),
    [
        (
            urllib.error.URLError("no such host"),
            OSError,
            r"vgg16-397923af.pth cannot be downloaded \(.*such host.*file",
        ),
        (RuntimeError("invalid hash value"), ModelFileError, r"is damaged \(invalid hash value…\): delete it from"),
    ],
)
def test_torchvision_s_weights_that_cannot_be_had(problem, kind, message, monkeypatch):
    def download(*arguments, **options):
        raise problem

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    with pytest.raises(kind, match=message):
        read_trunk("torchvision")


def test_damaged_files_and_other_widths_are_refused(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 20)
    torch.save(nn.Linear(1, 1), tmp_path / "code.pth")  # a pickle of objects, which would run code
    (tmp_path / "text.pth").write_bytes(b"abc")
    for name in ("broken.pth", "broken.safetensors", "code.pth", "text.pth"):
        with pytest.raises(ModelFileError, match="is no file of weights alone, or is damaged"):
            read_trunk(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_trunk(tmp_path / "none.pth")
    with pytest.raises(ModelFileError, match="make it with channels="):
        start_from(two_stage(), vgg_state((2, 2, 2, 2, 2)))


# Clicks


def test_maps_are_euclidean_distances_to_the_nearest_click():
    clicks = [Click(3, 5), Click(30, 2), Click(0, 300, positive=False)]
    maps = distance_maps(clicks, (40, 301))
    rows, columns = np.mgrid[:40, :301]
    for sign, one in zip((True, False), maps, strict=True):
        own = [click for click in clicks if click.positive == sign]
        truth = np.min([np.hypot(rows - c.row, columns - c.column) for c in own], 0).clip(max=255)
        assert_close(one.double(), torch.from_numpy(truth), torch.float32)
    assert (distance_maps([], (3, 4)) == 255).all()
    for click in (Click(40, 0), Click(0, -1), Click(-1, 0), Click(0, 301)):
        with pytest.raises(DataError, match="lies outside the image, which has rows 0 to 39 and columns 0 to 300"):
            distance_maps([click], (40, 301))


def disc(size=100, radius=25, middle=(50, 45)):
    rows, columns = np.mgrid[:size, :size]
    return (np.hypot(rows - middle[0], columns - middle[1]) <= radius).astype(np.uint8)


def test_clicks_are_drawn_as_the_paper_says():
    mask, others = disc(), np.zeros((100, 100), np.uint8)
    others[2:22, 70:95] = 7
    mask[90:] = 255
    sampling, random = ClickSampling(), np.random.default_rng(0)
    inside = distance(mask == 1)
    near = on_other = around = 0
    for _ in range(60):
        clicks = sampling.draw(mask, others, random)
        positive = [click for click in clicks if click.positive]
        negative = [click for click in clicks if not click.positive]
        assert 1 <= len(positive) <= 5
        for group in (positive, negative):
            for i, click in enumerate(group):
                assert all(np.hypot(click.row - o.row, click.column - o.column) >= 10 for o in group[:i])
        assert all(inside[click.row, click.column] > 5 for click in positive)
        assert all(mask[click.row, click.column] == 0 for click in negative)
        assert len(negative) <= 10
        on_other += bool(negative) and all(others[c.row, c.column] == 7 for c in negative)
        near += any(not others[c.row, c.column] for c in negative)
        if len(negative) >= 7:
            angles = np.sort([np.arctan2(c.row - 50, c.column - 45) for c in negative])
            around += np.diff(np.append(angles, angles[0] + 2 * np.pi)).max() < np.pi / 2
    assert min(near, on_other, around) >= 8  # each strategy comes up


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3)])
def test_clicks_can_be_drawn_in_the_smallest_objects(shape):
    mask = np.zeros(shape, np.uint8)
    mask[0, 0] = 1
    for seed in range(20):
        clicks = ClickSampling().draw(mask, None, np.random.default_rng(seed))
        assert clicks[0] == Click(0, 0)
        assert all(not mask[click.row, click.column] for click in clicks[1:])
    with pytest.raises(DataError, match="the mask has no object"):
        ClickSampling().draw(np.zeros(shape, np.uint8), None, np.random.default_rng(0))


def test_the_next_click_goes_into_the_middle_of_the_largest_error():
    mask = disc(middle=(50, 45))
    assert next_click(mask == 1, mask) is None
    click = next_click(np.zeros((100, 100), bool), mask)
    assert click is not None
    assert click.positive
    assert np.hypot(click.row - 50, click.column - 45) <= 1.5
    predicted = mask == 1
    predicted[:12, 80:] = True  # wrong, smaller than what is missing below
    predicted[40:60, 40:50] = False
    assert next_click(predicted, mask)[2] is False  # 240 wrong pixels at the edge, 200 missing ones
    predicted[:12, 80:90] = False
    click = next_click(predicted, mask)
    assert click.positive
    assert 40 <= click.row < 60
    assert 43 <= click.column <= 46
    mask[40:60, 40:50] = 255  # nothing counts there
    click = next_click(predicted, mask)
    assert not click.positive
    assert 4 <= click.row <= 7
    assert 94 <= click.column <= 95
    with pytest.raises(DataError, match="make them the same size"):
        next_click(predicted[:50], mask)


# Images and masks


def test_images_become_three_channels_of_bytes(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    found = read_image(tmp_path / "grey.png")
    assert (found.dtype, tuple(found.shape)) == (torch.uint8, (3, 3, 4))
    assert np.array_equal(found[2].numpy(), grey)
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "alpha.png")
    assert torch.equal(read_image(tmp_path / "alpha.png"), found)
    assert torch.equal(read_image((tmp_path / "grey.png").read_bytes()), found)
    turned = Image.fromarray(grey)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.png", exif=exif)
    assert tuple(read_image(tmp_path / "turned.png").shape) == (3, 4, 3)


def test_images_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        with pytest.raises(DataError, match=r"more than 8 bits a channel.*convert it to 8 bits"):
            read_image(tmp_path / name)
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:50])
    for name, message in (("text", "is damaged, or no image of a kind"), ("half", "is damaged: Pillow cannot read")):
        with pytest.raises(DataError, match=rf"{name}.png {message}"):
            read_image(tmp_path / f"{name}.png")
    monkeypatch.setattr("treadle.recipes.segment.images.MOST_PIXELS", 1_000)
    with pytest.raises(DataError, match=r"whole.png is 40x40 pixels, more than 1,000 in all: scale it down"):
        read_image(tmp_path / "whole.png")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")


def test_only_pictures_are_opened(tmp_path, monkeypatch):
    """Pillow hands some files to programs, such as PostScript to Ghostscript."""
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *words, **options: started.append(words))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    (tmp_path / "run.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="no image of a kind that is read: JPEG, PNG,"):
        read_image(tmp_path / "run.png")
    assert not started


@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.filterwarnings("error")
def test_images_that_would_fill_the_memory_are_refused_by_their_header(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    content += struct.pack(">I", zlib.crc32(b"IHDR" + header)) + struct.pack(">I", 10) + b"IDAT"
    with pytest.raises(DataError, match="more than 50,000,000 in all: scale it down"):
        read_image(content)


@pytest.mark.filterwarnings("error")
def test_palettes_with_transparent_colours_are_read(tmp_path):
    numbers = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    numbers.save(tmp_path / "palette.png", transparency=bytes([0, 128, 255]))
    assert read_image(tmp_path / "palette.png").shape == (3, 1, 3)
    assert read_mask(tmp_path / "palette.png").tolist() == [[0, 1, 2]]


def test_masks_number_objects(tmp_path):
    def saved(values, mode="L"):
        image = Image.fromarray(np.array(values, np.uint8))
        image.convert(mode).save(tmp_path / "mask.png")
        return tmp_path / "mask.png"

    assert read_mask(saved([[0, 1, 2, 255]])).tolist() == [[0, 1, 2, 255]]
    assert read_mask(saved([[0, 255]])).tolist() == [[0, 1]]
    assert read_mask(saved([[0, 128, 255]])).tolist() == [[0, 255, 1]]
    assert read_mask(saved([[0, 255]], "1")).tolist() == [[0, 1]]
    assert read_mask(saved([[0, 7]], "RGB")).tolist() == [[0, 7]]
    with pytest.raises(DataError, match="has no object"):
        read_mask(saved([[0, 0]]))
    with pytest.raises(DataError, match="has colours"):
        read_mask(saved([[[0, 1, 2], [0, 0, 0]]], "RGB"))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "mask.jpg")
    with pytest.raises(DataError, match=r"mask.jpg is a JPEG, which changes numbers a little.*: save masks as PNG"):
        read_mask(tmp_path / "mask.jpg")


@pytest.fixture
def folder(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(3):
        scene = make_scene(i, 48)
        Image.fromarray(scene.image.movedim(0, 2).numpy()).save(tmp_path / "images" / f"{i}.jpg")
        Image.fromarray(np.where(scene.mask == 1, 2, 0).astype(np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def test_folders_are_read(folder):
    found = read_folder(folder)
    assert len(found) == 3
    assert np.array_equal(found[1].mask, make_scene(1, 48).mask)
    assert read_folder(folder, 24)[0].mask.shape == (24, 24)
    training, held_out = split(found, 0.3, 0)
    assert (len(training), len(held_out)) == (2, 1)


def test_masks_are_those_of_images_that_are_turned_upright(folder):
    scene = make_scene(1, 48)
    image, mask = scene.image.movedim(0, 2).numpy()[:30], scene.mask[:30]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(image).save(folder / "images" / "1.jpg", exif=exif)
    Image.fromarray(mask).save(folder / "masks" / "1.png")
    with pytest.raises(DataError, match=r"is 48x30 pixels .* its image is 30x48: one of them lies on its side; .*EXIF"):
        read_folder(folder)
    Image.fromarray(np.ascontiguousarray(np.rot90(mask, -1))).save(folder / "masks" / "1.png")
    assert np.array_equal(read_folder(folder)[1].mask, np.rot90(mask, -1))


def test_objects_that_would_be_lost_are_no_examples(folder):
    """Of images that are scaled down, so that a training does not stumble over them."""
    mask = np.zeros((48, 48), np.uint8)
    mask[2:40, 2:40], mask[42:46, 10:14], mask[42:43, 20:40] = 1, 2, 3
    Image.fromarray(mask).save(folder / "masks" / "1.png")
    assert [name for _, path, name in read_folder(folder).items if path.stem == "1"] == [1, 2]
    assert [name for _, path, name in read_folder(folder, 24).items if path.stem == "1"] == [1]
    mask[2:40, 2:40] = 0
    Image.fromarray(mask).save(folder / "masks" / "1.png")
    assert [path.stem for _, path, name in read_folder(folder, 24).items] == ["0", "2"]
    for name in "02":
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    with pytest.raises(
        DataError, match=r"no object of 16 pixels or more, 3 wide, in images whose longer side is .* 24"
    ):
        read_folder(folder, 24)


def test_folders_that_do_not_fit_are_refused(folder, tmp_path):
    small = np.zeros((48, 40), np.uint8)
    small[:20] = 1
    Image.fromarray(small).save(folder / "masks" / "1.png")
    with pytest.raises(DataError, match=r"is 40x48 pixels .* but its image is 48x48"):
        read_folder(folder)
    (folder / "masks" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.jpg has no counterpart in .*masks"):
        read_folder(folder)
    with pytest.raises(DataError, match="has no folder 'images'"):
        read_folder(folder / "images")


def coco_file(folder, annotations, **changes):
    image = {"id": 5, "file_name": "0.jpg", "height": 48, "width": 48} | changes
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": [image], "annotations": [{"image_id": 5} | a for a in annotations]}))
    return path


def test_coco_is_read(folder):
    square = {"id": 1, "segmentation": [[4, 6, 24, 6, 24, 16, 4, 16]]}
    runs = {"id": 2, "segmentation": {"size": [48, 48], "counts": [48 * 30, 48 * 10, 48 * 8]}}
    crowd = {"id": 3, "iscrowd": 1, "segmentation": {"size": [48, 48], "counts": [48 * 45, 48 * 3]}}
    dot = {"id": 4, "segmentation": [[0, 0, 1, 0, 1, 1]]}
    found = read_coco(coco_file(folder, [square, runs, crowd, dot]), folder / "images")
    assert len(found) == 2
    mask = np.zeros((48, 48), np.uint8)
    mask[6:16, 4:24] = 1
    mask[:, 45:] = 255
    assert np.array_equal(found[0].mask, mask)
    assert (found[0].others[:, 30:40] == 3).all()
    assert (found[0].others[0, :2] == [5, 0]).all()
    assert found[1].mask[:, 30:40].all()


def test_coco_regions():
    # COCO's string for the runs 5, 3, 40, 2, written by hand: 5 bits a character, from the fourth on as differences
    def written(runs):
        text = ""
        for i, run in enumerate(runs):
            value = run - runs[i - 2] if i > 2 else run
            while True:
                bits, value = value & 31, value >> 5
                more = not (value == 0 and not bits & 16) and not (value == -1 and bits & 16)
                text += chr(48 + (bits | 32 * more))
                if not more:
                    break
        return text

    runs = [5, 3, 40, 2, 30, 20]
    whole = coco_region({"size": [10, 10], "counts": runs}, (10, 10))
    assert np.array_equal(coco_region({"size": [10, 10], "counts": written(runs)}, (10, 10)), whole)
    assert whole.sum() == 25
    assert np.array_equal(np.nonzero(whole.T.ravel())[0][:3], [5, 6, 7])
    triangle = coco_region([[0, 0, 8, 0, 0, 8]], (8, 8))
    rows, columns = np.mgrid[:8, :8]
    assert np.array_equal(triangle, (rows + 0.5) + (columns + 0.5) < 8) or triangle.sum() in (28, 36)
    ring = coco_region([[0, 0, 8, 0, 8, 8, 0, 8]], (4, 4))
    assert ring.all()  # beyond the image is cut
    for bad in ([], [[1, 2, 3]], "x", [[1, 2, 3, 4, 5, float("nan")]], {"size": [9, 9], "counts": [81]}):
        with pytest.raises(ValueError, match=r"."):
            coco_region(bad, (10, 10))


@pytest.mark.parametrize(
    ("changes", "annotation", "message"),
    [
        ({"file_name": "../masks/0.png"}, {}, "which lies outside"),
        ({"file_name": "9.jpg"}, {}, "which is not in"),
        ({"id": 6}, {}, "an annotation of image 5, which it does not list"),
        ({"height": "many"}, {}, "is not a COCO file of instances"),
        ({"height": 47}, {}, "is 48x47 pixels"),
        ({"height": 10**9, "width": 10**9}, {}, "is not a COCO file of instances"),
        ({"height": -1}, {}, "is not a COCO file of instances"),
        ({}, {"segmentation": [[10, 10, 40, 10, 40, 12, 10, 12]]}, "no object of 16 pixels or more, 3 wide"),
        ({}, {"segmentation": [[1, 2]]}, "the segmentation of annotation 1 is damaged"),
    ],
)
def test_coco_files_that_do_not_fit_are_refused(folder, changes, annotation, message):
    one = {"id": 1, "segmentation": [[4, 6, 24, 6, 24, 16, 4, 16]]} | annotation
    with pytest.raises(DataError, match=re.escape(message)):
        read_coco(coco_file(folder, [one], **changes), folder / "images")


# Scenes and views


def test_scenes_are_the_same_again_and_others_to_judge_by():
    one, again, test = make_scene(3, 40), make_scene(3, 40), make_scene(3, 40, test=True)
    assert torch.equal(one.image, again.image)
    assert np.array_equal(one.instances, again.instances)
    assert not torch.equal(one.image, test.image)
    for seed in range(20):
        scene = make_scene(seed, 33)
        assert 0.03 <= (scene.mask == 1).mean() <= 0.5
        assert scene.image.shape == (3, 33, 33)


def test_objects_are_lit_from_a_side_and_stay_within_what_can_be_shown():
    for seed in range(10):
        made_of = [torch.full((3, 40, 40), 0.9), torch.rand(3, 40, 40)]
        cover, painted = thing(np.random.default_rng(seed), 40, made_of)
        assert cover.shape == (40, 40)
        assert painted.shape == (3, 40, 40)
        assert (cover >= 0).all()
        assert (cover <= 1).all()
        assert (painted >= 0).all()
        assert (painted <= 1).all()
    ball = torch.zeros(41, 41)
    ball[10:31, 10:31] = 1
    lit = light(np.random.default_rng(1), ball)
    assert 0.3 <= lit.min() < 0.99
    assert 1.01 < lit.max() <= 1.7
    assert_close(lit + lit.flip((0, 1)), torch.full_like(lit, 2.0))  # as much brighter here as darker over there


def test_views_move_image_and_mask_together():
    scene = make_scene(1, 80)
    marked = scene.image.clone()
    marked[:, scene.mask == 1] = 255  # the object is white, and nothing else
    marked[:, scene.mask != 1] = 0
    for seed in range(20):
        view = augment(Example(marked, scene.instances, scene.target), 64, np.random.default_rng(seed))
        assert view.image.shape == (3, 64, 64)
        assert view.mask.shape == (64, 64)
        assert (view.mask == 1).any()
        white, counts = view.image[0].numpy() > 110, view.mask != 255
        same = (white == (view.mask == 1)) | ~counts
        assert same.mean() > 0.93  # but for soft edges


def test_no_view_loses_a_thin_object():
    instances = np.zeros((101, 300), np.uint8)
    instances[7, 3:280] = 4  # one pixel high
    thin = Example(torch.zeros(3, 101, 300, dtype=torch.uint8), instances, 4)
    for seed in range(40):
        view = augment(thin, 16, np.random.default_rng(seed))
        rows = np.nonzero(view.mask == 1)[0]
        assert len(rows)
        assert np.ptp(rows) == 0


@pytest.mark.parametrize(
    ("size", "longest", "fits"), [((50, 100), 10, (5, 10)), ((3, 2), 10, (3, 2)), ((1, 999), 9, (1, 9))]
)
def test_sizes_that_fit(size, longest, fits):
    assert fitting_size(size, longest) == fits


# Sessions


@pytest.mark.parametrize("make", [fcn, lambda: fcn(outputs=1), two_stage])
@pytest.mark.parametrize("size", [64, 20])
def test_a_session_answers_as_the_whole_network_does(make, size):
    segmenter = Segmenter(make(), size)
    if isinstance(segmenter.model, ClickFCN):
        nn.init.normal_(segmenter.model.score.weight)
    image = torch.randint(256, (3, 37, 64), dtype=torch.uint8)
    session = segmenter.session(image)
    clicks = [Click(3, 60), Click(36, 0, False), Click(20, 20), Click(3, 59), Click(0, 0, False)]
    for i, click in enumerate(clicks, start=1):
        selected = session._answers[-1].selected
        mask = session.click(click)
        assert mask.shape == (37, 64)
        other = segmenter.session(image)
        inner = session._answers[-1].maps.shape[1:]
        x = resize_image(image, inner)[None].float()
        maps = distance_maps([Click(*scaled_position(c, (37, 64), inner), c.positive) for c in clicks[:i]], inner)
        with torch.no_grad():
            x = torch.cat([x, maps[None]], 1)
            model = segmenter.model
            whole = probabilities(model(x) if isinstance(model, ClickFCN) else model(x, selected))
        if inner == (37, 64):
            assert_close(torch.from_numpy(session.probability), whole[0], torch.float32)
        for one in clicks[:i]:
            other.click(one)
        assert np.array_equal(other.probability, session.probability)
    before = session.probability
    session.click(Click(9, 9))
    session.undo()
    assert np.array_equal(session.probability, before)
    assert session.clicks == clicks
    session.clear()
    session.undo()
    assert session.clicks == []
    assert not session.mask.any()


def test_places_are_compared_with_what_is_selected():
    level = torch.nn.functional.normalize(torch.randn(1, 6, 3, 5), dim=1)
    level[0, :, 0, :2] = level[0, :, :1, 0]  # two places alike, one of which is selected
    selected = torch.zeros(1, 1, 11, 20)
    selected[..., :4, :4] = 1
    like = like_selected(level, selected)
    rest = level.flatten(2).sum(2) - level[:, :, 0, 0]
    wanted = torch.einsum("bchw,bc->bhw", level, level[:, :, 0, 0] - rest / rest.norm())
    assert_close(like[:, 0], wanted)
    assert_close(like[..., 0, 0], like[..., 0, 1])
    assert torch.isfinite(like_selected(level, torch.zeros_like(selected))).all()
    assert torch.isfinite(like_selected(level, torch.ones_like(selected))).all()


@pytest.mark.parametrize("size", [1, 2, 3, 15, 16, 17, 33, 37, 48, 100, 101])
def test_strides_are_those_of_poolings_that_round_up(size):
    small = size
    for poolings in range(5):
        (stride, _) = stride_of(torch.empty(1, small, 1), (size, 1))
        assert (size - 1) // stride == small - 1  # the last pixel lies in the last position, and no stride is longer
        assert stride == min(2**poolings, stride)
        small = -(-small // 2)


def test_adding_a_click_does_not_look_at_the_image_again(monkeypatch):
    network = two_stage()
    session = Segmenter(network, 48).session(make_scene(0, 48).image)
    ran = []
    for module in network.modules():
        module.register_forward_hook(lambda module, x, y: ran.append(module))
    compared = []
    monkeypatch.setattr(network, "compare", lambda *arguments: compared.append(arguments))
    session.click(Click(20, 20))
    session.click(Click(30, 20, False))
    assert not set(ran) & set(network.features.modules())
    assert network.fine in ran
    assert not compared  # old clicks are not compared again
    ran.clear()
    session.undo()
    assert not ran


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))])
def test_a_copy_of_a_session_takes_clicks_of_its_own(way):
    session = Segmenter(two_stage(), 32).session(make_scene(0, 32).image)
    session.click(Click(20, 20))
    other = way(session)
    mask = other.click(Click(5, 9, False))
    assert session.clicks == [Click(20, 20)]
    assert np.array_equal(session.click(Click(5, 9, False)), mask)


def test_clicks_keep_nothing_of_the_size_of_the_image():
    """Otherwise, two hundred clicks on a photograph of a telephone would fill the memory."""
    session = Segmenter(two_stage(), 32).session(make_scene(0, 96).image)
    for click in (Click(40, 50), Click(3, 5, positive=False)):
        session.click(click)
    for answer in session._answers:
        tensors = [answer.maps, answer.selected, *answer.similar]
        assert all(max(tensor.shape[-2:]) <= 32 for tensor in tensors)
        assert not any(isinstance(part, np.ndarray) for part in answer)
    assert session.probability.shape == session.mask.shape == (96, 96)


def test_what_a_session_refuses():
    segmenter = Segmenter(two_stage(), 32)
    session = segmenter.session(torch.zeros(3, 20, 30, dtype=torch.uint8))
    with pytest.raises(DataError, match="row 20, column 3 lies outside"):
        session.click(Click(20, 3))
    assert session.clicks == []
    for image in (torch.zeros(20, 30, dtype=torch.uint8), torch.zeros(3, 20, 30), torch.zeros(3, 0, 30).byte()):
        with pytest.raises(DataError, match="an image is"):
            segmenter.session(image)
    with pytest.raises(ShapeError, match="size is from 1 to"):
        Segmenter(two_stage(), 0)


@pytest.mark.parametrize("make", [fcn, lambda: fcn(skips=True, outputs=1, margin=True), two_stage])
def test_segmenters_are_saved(make, tmp_path):
    segmenter = Segmenter(make(), 40)
    segmenter.save(tmp_path / "m.safetensors")
    again = Segmenter.load(tmp_path / "m.safetensors")
    assert again.size == 40
    x = input_of(33, 40)
    assert torch.equal(segmenter.model(x), again.model(x))


def test_other_model_files_are_refused(tmp_path):
    import treadle as td

    td.save(tmp_path / "gru.safetensors", td.GRUCell(2, 3))
    with pytest.raises(ModelFileError, match="does not hold a network that segments by clicks"):
        Segmenter.load(tmp_path / "gru.safetensors")
    td.save(tmp_path / "gru.safetensors", td.GRUCell(2, 3), {"segmenter": {"size": 3}})
    with pytest.raises(ModelFileError, match="its notes do not fit its network"):
        Segmenter.load(tmp_path / "gru.safetensors")


# Judging


def test_iou_counts_what_counts():
    mask = np.array([[1, 1, 0, 0, 255]], np.uint8)
    assert iou(np.array([[True, False, True, False, True]]), mask) == pytest.approx(1 / 3)
    assert iou(np.array([[True, True, False, False, True]]), mask) == 1.0
    assert iou(np.array([[False] * 5]), np.zeros((1, 5), np.uint8)) == 1.0


class Oracle:
    """Knows the masks, and fills in one row of pixels a click."""

    size = 99

    def __init__(self, examples):
        self.masks = iter([example.mask == 1 for example in examples])

    def session(self, image):
        oracle, truth = self, next(self.masks)

        class Session:
            mask = np.zeros_like(truth)

            def click(self, click):
                assert oracle
                assert click.positive == truth[click.row, click.column]
                self.mask = self.mask.copy()
                self.mask[click.row] = truth[click.row]
                return self.mask

        return Session()


def test_clicks_are_counted():
    instances = np.zeros((12, 12), np.uint8)
    instances[1:11, 2:9] = 1
    small = instances.copy()
    small[5:] = 0
    image = torch.zeros(3, 12, 12, dtype=torch.uint8)
    examples = [Example(image, instances), Example(image, small)]
    result = evaluate(Oracle(examples), examples, clicks=9)
    assert_close(torch.from_numpy(result.ious[0]), torch.arange(1, 10).double() / 10)
    assert result.clicks_to(0.85).tolist() == [9, 4]
    assert (result.failures(0.85), result.failures(0.95)) == (0, 1)
    assert result.clicks_to(0.95).tolist() == [9, 4]
    assert result.mean_iou()[3] == pytest.approx((0.4 + 1) / 2)
    assert summary(result).startswith("2 objects: 6.50 clicks to 85% IoU (0 never in 9)")
    assert json.loads(json.dumps(result.as_dict()))["clicks"]["0.85"] == 6.5
    with pytest.raises(DataError, match="no example"):
        evaluate(Oracle([]), [])


# Learning


def test_the_focal_loss_weighs_what_is_wrong():
    ys = torch.randn(2, 5, 2, requires_grad=True)
    y = torch.tensor([[0, 1, 1, 0, -100], [1, -100, -100, 0, 0]])
    plain, count = total_loss(ys, y)
    total, terms = focal_loss(ys, y, gamma=0.0)
    assert_close(total, plain)
    assert terms == count == 7
    total, _ = focal_loss(ys, y, gamma=2.0)
    p = ys.softmax(2).detach()
    for row in range(2):
        there = y[row] >= 0
        right = p[row, there, y[row, there]]
        weights = (1 - right) ** 2
        weights = weights / weights.mean()  # each image counts as much as it has labels
        (gradient,) = torch.autograd.grad(total, ys, retain_graph=True)
        assert_close(gradient[row, there, y[row, there]], -weights * (1 - right))
        assert not gradient[row, ~there].any()
    numbers = torch.tensor([[[1.0], [float("nan")]]])
    assert [one.item() for one in focal_loss(torch.zeros(1, 2, 1), numbers)] == [1.0, 1]
    sure = torch.tensor([[[90.0, 0.0]]])
    assert focal_loss(sure, torch.tensor([[0]]))[0] == 0  # nothing is wrong: no division by nothing


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [2, 1])
@pytest.mark.parametrize("make", [two_stage, lambda **o: fcn(skips=True, dropout=0.0, **o)])
def test_it_learns(make, outputs):
    torch.manual_seed(0)
    examples = scenes(4, 32)
    learning = Learning(make(outputs=outputs), examples, examples, size=32, rows=4, learning_rate=0.01)
    before = learning.validate(learning.model)
    list(learning.steps(ShareDone(steps=50)))
    assert learning.validate(learning.model) < 0.97 * before  # one that has not learned is where it was


def test_a_frozen_trunk_looks_once_and_stays(monkeypatch):
    monkeypatch.setattr("treadle.recipes.segment.segmenter_training.VIEWS", 6)
    network = two_stage()
    before = [parameter.clone() for parameter in network.features.parameters()]
    learning = Learning(network, scenes(3, 32), size=32, rows=2, trunk_rate=0.0)
    seen = []
    learning.model.features[0].register_forward_hook(lambda module, x, y: seen.append(len(x[0])))
    list(learning.steps(ShareDone(steps=5 * 2)))  # 5 epochs of 2 batches: 2 views of 3 examples, most of them again
    assert sum(seen) == 6
    after = list(learning.model.features.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert learning.model is not network
    assert all(p.requires_grad for name, p in learning.model.named_parameters() if not name.startswith("features."))


def test_the_trunk_learns_slower():
    learning = Learning(fcn(), scenes(2, 32), size=32, rows=2, trunk_rate=0.1, learning_rate=0.01)
    list(learning.steps(ShareDone(steps=3)))
    rates = {group["lr"] for group in learning.optimiser.param_groups}
    assert len(rates) == 2
    assert min(rates) / max(rates) == pytest.approx(0.1)


def test_the_first_layer_learns_at_a_rate_of_its_own():
    learning = Learning(fcn(), scenes(2, 32), size=32, rows=2, trunk_rate=0.0, first_rate=1.0)
    before = {name: parameter.clone() for name, parameter in learning.model.named_parameters()}
    list(learning.steps(ShareDone(steps=2)))
    for name, parameter in learning.model.named_parameters():
        stays = name.startswith("features.") and not name.startswith("features.0.")
        assert parameter.requires_grad is not stays, name
        assert torch.equal(parameter, before[name]) is stays, name
    learning = Learning(fcn(), scenes(2, 32), size=32, rows=2, trunk_rate=1.0, first_rate=0.0)
    frozen = [name for name, parameter in learning.model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["features.0.weight", "features.0.bias"]


def test_a_run_goes_on_to_the_bit(tmp_path):
    def steps(count, **options):
        torch.manual_seed(1)
        learning = Learning(two_stage(), scenes(5, 32), size=32, rows=2, trunk_rate=0.0, seed=3)
        found, iterator = [], learning.steps(ShareDone(steps=12), **options)
        for step in iterator:
            found.append(step.loss)
            if len(found) == count:
                iterator.close()
        return found

    whole = steps(99)
    options = {"checkpoint": tmp_path / "run.checkpoint", "checkpoint_at": lambda step: step == 5, "about": {"a": 1}}
    assert steps(7, **options) == whole[:7]
    assert steps(99, **options) == whole[5:]
    with pytest.raises(ModelFileError, match="another run"):
        steps(1, **options | {"about": {"a": 2}})


def test_what_cannot_be_learned_from():
    with pytest.raises(DataError, match="there is no example"):
        Learning(two_stage(), [])
    with pytest.raises(DataError, match="all examples are of one image"):
        split(scenes(1), 0.5, 0)
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(DataError, match="the mask of it is 8x7 pixels"):
        Example(image, np.zeros((7, 8), np.uint8), name="it")
    learning = Learning(two_stage(), [Example(image, np.zeros((8, 8), np.uint8), name="it")], size=8)
    with pytest.raises(DataError, match="it: the mask has no object"):
        next(learning.steps(ShareDone(steps=1)))
