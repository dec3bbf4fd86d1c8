"""RTNeural, which audio plug-ins use: a network whose sizes the C++ compiler knows, its matrices Eigen's.

Its headers are looked for in the folder that the environment variable RTNEURAL names, Eigen's in EIGEN (or where Debian
puts them): https://github.com/jatinchowdhury18/RTNeural.
"""

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from torch import nn

from benchmarks import peers

SOURCE = """
#define RTNEURAL_USE_EIGEN 1
#define RTNEURAL_DEFAULT_ALIGNMENT 32
#include <RTNeural/RTNeural.h>
using namespace RTNeural;
static ModelT<float, {H}, {H}, LSTMLayerT<float, {H}, {H}>, LSTMLayerT<float, {H}, {H}>> model;

static std::vector<std::vector<float>> matrix(const float *numbers, int rows, int columns)
{{
    std::vector<std::vector<float>> found(rows, std::vector<float>(columns));
    for (int i = 0; i < rows; i++)
        found[i].assign(numbers + i * columns, numbers + (i + 1) * columns);
    return found;
}}

template <int n> static void fill(const float *w, const float *u, const float *b)
{{
    model.get<n>().setWVals(matrix(w, {H}, 4 * {H}));
    model.get<n>().setUVals(matrix(u, {H}, 4 * {H}));
    model.get<n>().setBVals(std::vector<float>(b, b + 4 * {H}));
}}

extern "C" void fill0(const float *w, const float *u, const float *b) {{ fill<0>(w, u, b); }}
extern "C" void fill1(const float *w, const float *u, const float *b) {{ fill<1>(w, u, b); }}
extern "C" void reset() {{ model.reset(); }}
extern "C" void loop(int steps, const float *xs, float *ys)
{{
    alignas(32) float x[{H}];
    for (int t = 0; t < steps; t++) {{
        std::copy(xs + t * {H}, xs + (t + 1) * {H}, x);
        model.forward(x);
        std::copy(model.getOutputs(), model.getOutputs() + {H}, ys + t * {H});
    }}
}}
"""
FLAGS = ("-std=c++17", "-O3", "-march=native", "-DNDEBUG", "-DEIGEN_STACK_ALLOCATION_LIMIT=0", "-shared", "-fPIC", "-w")


def library(lstm: nn.LSTM) -> ctypes.CDLL:
    """Two layers of a size as machine code, with the weights of a network: ``reset()``, ``loop(steps, xs, ys)``.

    Raises:
        Unavailable: its headers or the compiler are not there.
    """
    folder = os.environ.get("RTNEURAL")
    if folder is None:
        raise peers.Unavailable("RTNEURAL does not name a folder with its headers")
    eigen = os.environ.get("EIGEN", "/usr/include/eigen3")
    with tempfile.TemporaryDirectory() as made:
        source = Path(made, "model.cpp")
        source.write_text(SOURCE.format(H=lstm.hidden_size))
        words = ["g++", *FLAGS, f"-I{folder}", f"-I{folder}/modules", f"-I{folder}/modules/json", f"-I{eigen}"]
        words += [str(source), "-o", f"{made}/model.so"]
        try:
            subprocess.run(words, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            lines = str(getattr(error, "stderr", error)).splitlines()
            raise peers.Unavailable(next((line for line in lines if "error" in line), str(error))) from None
        found = ctypes.CDLL(f"{made}/model.so")
    for n in range(2):
        w, u, *biases = (getattr(lstm, f"{name}_l{n}").detach().numpy() for name in _NAMES)
        given = [np.ascontiguousarray(array, np.float32) for array in (w.T, u.T, sum(biases))]  # i f g o, as there
        getattr(found, f"fill{n}")(*(array.ctypes.data_as(ctypes.c_void_p) for array in given))
    return found


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
