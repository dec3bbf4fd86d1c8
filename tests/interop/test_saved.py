"""Networks that were read from other libraries' files are saved and loaded like any other."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import treadle as td
from treadle.errors import ModelFileError
from treadle.files.description import build, describe, kept_in_files

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx onnxruntime")
pytest.importorskip("onnxruntime", reason="it is not installed: pip install onnx onnxruntime")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tagger(given_weights: bool = False) -> tuple[td.interop.Report, list[np.ndarray]]:
    """An embedding as constants of two kinds, a GRU in both directions, and a head."""
    from onnx import helper, numpy_helper

    random = np.random.default_rng(0)
    numbers = {"table": (9, 4), "W": (2, 15, 4), "R": (2, 15, 5), "B": (2, 30), "head": (10, 3)}
    constants = {name: random.normal(size=shape).astype(np.float32) for name, shape in numbers.items()}
    constants["to"] = np.array([0, 0, -1])
    fed = {"tokens": random.integers(0, 9, (6, 2))} | ({"R": constants.pop("R")} if given_weights else {})
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
        helper.make_node("Constant", [], ["to"], value=numpy_helper.from_array(constants.pop("to"))),
        helper.make_node("GRU", ["embedded", "W", "R", "B"], ["Y"], hidden_size=5, direction="bidirectional"),
        helper.make_node("Transpose", ["Y"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "to"], ["joined"]),
        helper.make_node("MatMul", ["joined", "head"], ["scores"]),
        helper.make_node("Shape", ["scores"], ["sizes"]),
        helper.make_node("ConstantOfShape", ["sizes"], ["ones"], value=helper.make_tensor("v", 1, [1], [2.5])),
        helper.make_node("Add", ["scores", "ones"], ["shifted"]),
    ]  # fmt: skip
    of = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in fed.items()}
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info(name, of[name], array.shape) for name, array in fed.items()],
        [helper.make_tensor_value_info("shifted", 1, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), "tagger.onnx")
    return td.interop.from_onnx("tagger.onnx", inputs=list(fed.values())), list(fed.values())


@pytest.mark.parametrize("given_weights", [False, True])
def test_a_network_from_onnx(given_weights):
    network, inputs = tagger(given_weights)
    td.save("tagger.safetensors", network)
    again = td.load("tagger.safetensors")
    assert torch.equal(again(*inputs), network(*inputs))
    assert td.fingerprint(again) == td.fingerprint(network)
    assert again.report is None
    sizes = [tensor.numel() for tensor in network.state_dict().values()]
    weights = 9 * 4 + 10 * 3 + 1 + 2 * (15 * 4 + 30) + (0 if given_weights else 2 * 15 * 5)
    assert sum(sizes) == weights  # each number once, whether it lies in a cell or beside the graph


@pytest.mark.slow
def test_it_is_loaded_where_there_is_no_onnx(folder):
    network, inputs = tagger()
    td.save("tagger.safetensors", network)
    torch.save(torch.from_numpy(inputs[0]), "tokens.pt")
    script = (
        "import sys; sys.modules.update(onnx=None, onnxruntime=None)\n"
        "import torch, treadle as td\n"
        "torch.save(td.load('tagger.safetensors')(torch.load('tokens.pt')).detach(), 'scores.pt')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert torch.equal(torch.load("scores.pt"), network(*inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: graph["nodes"]["tuple"][0]["arguments"].update(kind="Det"), "there is no Det here"),
        (lambda graph: graph["constants"]["tuple"][0]["arguments"].update(kind="load"), "damaged"),
        (lambda graph: graph["constants"]["tuple"][0]["arguments"].update(shape=[10**9, 10**9]), "does not fit"),
        (lambda graph: graph.update(constants={"tuple": []}), "does not fit together"),
    ],
)
def test_a_file_that_was_changed_is_refused(change, message):
    from treadle.files.model_file import read, write

    network, _ = tagger()
    td.save("tagger.safetensors", network)
    tensors, metadata = read("tagger.safetensors", "treadle model")
    description = json.loads(metadata["network"])
    change(description["arguments"]["graph"]["arguments"])
    write("tagger.safetensors", tensors, metadata | {"network": json.dumps(description)})
    with pytest.raises(ModelFileError, match=message):
        td.load("tagger.safetensors")


def test_a_name_stands_for_one_class():
    with pytest.raises(ValueError, match=r"files call Node .* already"):
        kept_in_files("treadle.GraphNode")(torch.nn.Linear)
    network, _ = tagger()
    assert describe(build(describe(network))) == describe(network)
