"""Old files of Keras that PyPI packages ship, beside the packages' own code on TensorFlow.

    pip download --no-deps -d packages chars2vec==0.1.7 textgenrnn==2.0.0 ethnicolr==0.9.6
    python -m venv tensorflow && tensorflow/bin/pip install "tensorflow-cpu==2.15.*" "numpy<2"
    python -m benchmarks.keras_packages packages --tensorflow tensorflow/bin/python

TensorFlow 2.15 has the last Keras 2. Its process builds each network with the package's own code (of textgenrnn only
the file that has the network: the rest wants an older TensorFlow), loads the package's weights, and writes down the
architecture and what comes out. Here the same file is read by `td.interop.from_keras` and run on the same inputs.

chars2vec's file is of Keras 2.2, whose LSTM had a hard sigmoid unless told otherwise; with the Keras of TensorFlow the
package's code gives these weights an exact one. Both are compared.
"""

import argparse
import importlib
import json
import pickle
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np

DIMENSIONS = (50, 100, 150, 200, 300)
"""The five networks of chars2vec, each of two LSTMs."""
_TEXT = "What is the most interesting thing that you have learned this year?"
"""For textgenrnn, which knows text: on random letters rounding errors grow a thousandfold in it within 40 steps."""


def unpacked(folder: Path) -> Path:
    """The archives of a folder, unpacked beside them."""
    target = folder / "unpacked"
    for archive in [*folder.glob("*.tar.gz"), *folder.glob("*.whl")]:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(target)
        else:
            with tarfile.open(archive) as opened:
                opened.extractall(target, filter="data")
    return target


# What follows up to `own_runtime` runs in TensorFlow's process, which has no treadle.


def of_chars2vec(root: Path):
    sys.path.insert(0, str(root / "chars2vec-0.1.7"))
    import keras

    model = importlib.import_module("chars2vec.model")
    letters = {chr(33 + n): n for n in range(59)}
    random = np.random.default_rng(0)
    xs = np.eye(59, dtype="float32")[random.integers(0, 59, (16, 12))]
    xs[3, :5] = 0  # padded in front, as the package does
    lstm = keras.layers.LSTM
    for gate in ("sigmoid", "hard_sigmoid"):
        keras.layers.LSTM = lambda units, gate=gate, **options: lstm(units, recurrent_activation=gate, **options)
        for size in DIMENSIONS:
            network = model.Chars2Vec(size, letters).embedding_model
            path = root / f"chars2vec-0.1.7/chars2vec/trained_models/eng_{size}/weights.h5"
            network.load_weights(str(path))
            yield f"chars2vec eng_{size}, {gate}", path, network, [xs]
    keras.layers.LSTM = lstm


def of_textgenrnn(root: Path):
    package = types.ModuleType("textgenrnn")
    package.__path__ = [str(root / "textgenrnn-2.0.0/textgenrnn")]
    sys.modules["textgenrnn"] = package
    build = importlib.import_module("textgenrnn.model").textgenrnn_model
    path = root / "textgenrnn-2.0.0/textgenrnn/textgenrnn_weights.hdf5"
    options = {"max_length": 40, "dim_embeddings": 100, "rnn_layers": 2, "rnn_size": 128, "rnn_bidirectional": False}
    numbers = json.loads(Path(package.__path__[0], "textgenrnn_vocab.json").read_text())
    text = [numbers.get(letter, 0) for letter in _TEXT]
    xs = np.array([text[n : n + 40] for n in range(16)], dtype="float32")
    xs[3, :20] = 0  # padded in front, as the package does
    yield "textgenrnn", path, build(465, options, weights_path=str(path)), [xs]


def of_ethnicolr(root: Path):
    import tensorflow as tf

    for path in sorted(root.glob("ethnicolr/models/**/*.h5")):
        network = tf.keras.models.load_model(path, compile=False)
        steps, rows = network.input_shape[1], network.layers[0].input_dim
        xs = np.random.default_rng(0).integers(0, rows, (16, steps)).astype("float32")
        yield f"ethnicolr {path.stem}", path, network, [xs]


def own_runtime(root: Path, out: Path) -> None:
    found = []
    for package in (of_chars2vec, of_textgenrnn, of_ethnicolr):
        for name, path, network, xs in package(root):
            outputs = [np.asarray(network(xs[0], training=False))]
            found.append((name, str(path), network.to_json(), xs, outputs))
    out.write_bytes(pickle.dumps(found))


def attention(config, weights):
    """textgenrnn's layer of its own, of the mean of all steps that its weights choose."""
    import torch

    class Attention(torch.nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = torch.nn.Parameter(weight)

        def forward(self, xs):
            return ((xs @ self.weight).softmax(1) * xs).sum(1)

    return Attention(torch.tensor(weights[0]))


def compare(name: str, path: str, config: str, xs, wanted) -> float:
    import torch

    import treadle as td

    alone = "chars2vec" in name or "textgenrnn" in name
    options = {"custom": {"AttentionWeightedAverage": attention}} if "textgenrnn" in name else {}
    network = td.interop.from_keras(path, config if alone else None, inputs=xs, **options)
    with torch.no_grad():
        found = network(*xs)
    difference = float(np.abs(found.numpy() - wanted[0]).max() / np.abs(wanted[0]).max())
    print(f"{name:45} {difference:.1e}")
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where pip download put the packages")
    parser.add_argument("--tensorflow", default=sys.executable, help="a Python that has TensorFlow 2.15")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.out:
        own_runtime(given.folder, given.out)
        return
    root, out = unpacked(given.folder), given.folder / "own_runtime.pickle"
    subprocess.run([given.tensorflow, __file__, str(root), "--out", str(out)], check=True)
    differences = [compare(*one) for one in pickle.loads(out.read_bytes())]  # our own process wrote it
    print(json.dumps({"networks": len(differences), "largest difference": max(differences)}))


if __name__ == "__main__":
    main()
