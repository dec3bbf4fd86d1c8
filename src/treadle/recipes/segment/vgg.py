"""The VGG-16 trunk, with torchvision's names of parameters, and pretrained weights."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from treadle.adapt.weights import read_weights
from treadle.errors import ModelFileError

CHANNELS = (64, 128, 256, 512, 512)
"""Channels of the five blocks."""
CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Convolutions in each; a pooling that halves height and width ends it."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, from 0 to 1: what torchvision's weights expect to be taken off and divided by."""
URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
"""torchvision's weights; their checksum is in the name."""


def vgg_features(input_channels: int = 3, channels: tuple[int, ...] = CHANNELS, padding: int = 1) -> nn.Sequential:
    """The convolutions of VGG-16, numbered as torchvision numbers them: ``0`` is conv1_1, ``28`` is conv5_3.

    Poolings round up, as those of Caffe did, so that no pixel is dropped whatever the size of the image. Weights start
    as torchvision's do: normal, of deviation sqrt(2 / fan-out), biases zero.

    Args:
        input_channels: channels of the image.
        channels: channels of the five blocks; fewer than VGG-16's make a smaller network.
        padding: padding of conv1_1.

    Source: Simonyan and Zisserman, *Very deep convolutional networks for large-scale image recognition*, 2015.

    Example:
        >>> import torch
        >>> from treadle.recipes.segment import vgg_features
        >>> vgg_features(channels=(4, 4, 8, 8, 8))(torch.zeros(1, 3, 65, 31)).shape
        torch.Size([1, 8, 3, 1])
    """
    layers: list[nn.Module] = []
    for block, (size, count) in enumerate(zip(channels, CONVOLUTIONS, strict=True)):
        for i in range(count):
            first = block == i == 0
            convolution = nn.Conv2d(input_channels, size, 3, padding=padding if first else 1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # pyright: ignore[reportArgumentType]
            layers += [convolution, nn.ReLU()]
            input_channels = size
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers)


BLOCK_ENDS = (3, 8, 15, 22, 29)
"""The rectifiers after the last convolution of each block, before its pooling."""


def normalised(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] from 0 to 255 as the weights expect them."""
    mean, deviation = (images.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return (images / 255 - mean) / deviation


def read_trunk(source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict of a VGG-16 in torchvision's layout, from a file or from torch hub. No code in it is run.

    Args:
        source: a file that `torch.save` or safetensors wrote (``.pth``, ``.safetensors``), or ``"torchvision"`` for
            torchvision's own, which are downloaded once.

    Returns:
        ``features.0.weight`` to ``features.28.bias``, and what else is there, such as ``classifier.6``.

    Raises:
        ModelFileError: the file is damaged, or holds something else than a VGG-16.
        OSError: the file cannot be read, or not be downloaded.
    """
    if str(source) == "torchvision":
        try:
            state = torch.hub.load_state_dict_from_url(URL, map_location="cpu", check_hash=True, weights_only=True)
        except OSError as error:
            raise OSError(f"{URL} cannot be downloaded ({error}): pass a file of VGG-16's weights instead") from None
        except Exception as error:  # its checksum is another, or the file that was kept is damaged
            reason = " ".join(str(error).split())[:80]
            raise ModelFileError(
                f"what came of {URL} is damaged ({reason}…): delete it from {torch.hub.get_dir()}/checkpoints, and try"
                " again"
            ) from None
        return check_trunk(state, "torchvision's file")
    return check_trunk(read_weights(source), source)


def check_trunk(state: Any, source: object = "the state dict") -> dict[str, Tensor]:
    """Refuse what is not the state dict of a VGG-16 of any width, with the first difference."""
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ModelFileError(f"{source} holds a {type(state).__name__}, not a state dict: save model.state_dict()")
    convolutions = [module for module in vgg_features(channels=(1,) * 5).named_children() if hasattr(module[1], "bias")]
    before = 3
    for name, _ in convolutions:
        weight, bias = (state.get(f"features.{name}.{part}") for part in ("weight", "bias"))
        if weight is None or bias is None:
            raise ModelFileError(
                f"{source} has no features.{name}.{'weight' if weight is None else 'bias'}, which torchvision's VGG-16"
                f" has: it begins with {', '.join(map(str, list(state)[:3])) or 'nothing'}; pass a state dict of vgg16"
            )
        wanted = (len(bias) if bias.ndim else 0, before, 3, 3)
        if tuple(weight.shape) != wanted:
            raise ModelFileError(
                f"features.{name}.weight of {source} is {list(weight.shape)}, where a VGG-16 has {list(wanted)}: pass"
                " a state dict of vgg16, without batch norm"
            )
        before = len(bias)
    known = dict(convolutions)
    extra = [name for name in map(str, state) if name.startswith("features.") and name.split(".")[1] not in known]
    if extra:
        raise ModelFileError(f"{source} has {extra[0]}, which VGG-16 has not: pass a state dict of vgg16")
    return {str(name): tensor.float() for name, tensor in state.items()}


def trunk_channels(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Channels of the five blocks of a state dict."""
    return tuple(len(state[f"features.{end - 1}.bias"]) for end in BLOCK_ENDS)
