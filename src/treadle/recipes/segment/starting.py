"""Initialisation from a pretrained VGG-16, with a report of every tensor."""

from collections.abc import Mapping
from typing import Literal, TypeVar

from torch import Tensor

from treadle.adapt import Copy, Fresh, TransplantReport, Widen, transplant
from treadle.adapt.rules import Rule
from treadle.errors import ModelFileError
from treadle.recipes.segment.click_fcn import ClickFCN
from treadle.recipes.segment.two_stage import TwoStageNetwork
from treadle.recipes.segment.vgg import check_trunk, trunk_channels

N = TypeVar("N", ClickFCN, TwoStageNetwork)
FULLY_CONNECTED = {"fc6": "classifier.0", "fc7": "classifier.3"}
"""VGG's fully connected layers, and the convolutions that they are."""


def start_from(
    network: N, state: Mapping[str, Tensor], start: Literal["xavier", "zeros"] = "xavier"
) -> tuple[N, TransplantReport]:
    """A copy of a network with the weights of a trained VGG-16.

    The first convolution of a `ClickFCN` keeps its three trained channels, and its two new ones start as ``start``
    says; VGG's fully connected layers become the convolutions ``fc6`` and ``fc7`` if they are there and as wide. The
    score layers are initialised at random.

    Args:
        network: a `ClickFCN` or `TwoStageNetwork`, which stays as it is.
        state: of a VGG-16, as `read_trunk` gives it.
        start: initialisation of the two new channels: ``"xavier"``, or ``"zeros"``, with which clicks have no influence
            at first.

    Returns:
        The new network and a report on every tensor.

    Raises:
        ModelFileError: the state dict is that of another architecture, or its blocks have other widths.

    Example:
        >>> from treadle.recipes.segment import ClickFCN, start_from, vgg_features
        >>> trunk = {f"features.{name}": w for name, w in vgg_features(channels=(4, 4, 8, 8, 8)).state_dict().items()}
        >>> network, report = start_from(ClickFCN(channels=(4, 4, 8, 8, 8), fc_channels=16), trunk)
        >>> report["features.0.weight"].action, report.counts["copied"]
        ('widened', 25)
    """
    state = check_trunk(state)
    channels = trunk_channels(state)
    if channels != network.channels:
        raise ModelFileError(
            f"the trunk has blocks of {', '.join(map(str, channels))} channels, but the network of"
            f" {', '.join(map(str, network.channels))}: make it with channels={channels}"
        )
    # What else is in the file, such as the head of another network for clicks, is not VGG's, whatever its name.
    own = network.state_dict()
    rules: dict[str, Rule] = {name: Fresh() for name in own if name in state and not name.startswith("features.")}
    if isinstance(network, ClickFCN):
        rules["features.0.weight"] = Widen(axis=1, start=start)
        for layer, source in FULLY_CONNECTED.items():
            for part in ("weight", "bias"):
                given, wanted = state.get(f"{source}.{part}"), own[f"{layer}.{part}"]
                fits = given is not None and given.numel() == wanted.numel()
                rules[f"{layer}.{part}"] = Copy(f"{source}.{part}", reshape=True) if fits else Fresh()
    return transplant(network, state, rules)
