"""ONNX files as networks, against ONNX Runtime, ONNX's own cases, and the networks that files were written from."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from treadle.errors import DataError, InteropError, ModelFileError
from treadle.interop import onnx_reading

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx onnxruntime")
onnxruntime = pytest.importorskip("onnxruntime", reason="it is not installed: pip install onnx onnxruntime")
from onnx import helper, numpy_helper  # noqa: E402

KINDS = {"LSTM": (4, 3), "GRU": (3, 2), "RNN": (1, 1)}
"""Gates and activations of each kind."""
ACTIVATIONS = {
    "Relu": (0, 0), "Tanh": (0, 0), "Sigmoid": (0, 0), "Affine": (1, 1), "LeakyRelu": (1, 0), "ThresholdedRelu": (1, 0),
    "ScaledTanh": (1, 1), "HardSigmoid": (1, 1), "Elu": (1, 0), "Softsign": (0, 0), "Softplus": (0, 0),
}  # fmt: skip
"""How many numbers, alpha and beta, each takes."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model_of(nodes, feeds, constants, outputs):
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feeds.items()}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kinds[name], value.shape) for name, value in feeds.items()],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 14), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )


def in_onnx_runtime(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def random_node(random):
    """A node over all attributes, its inputs and its constants."""
    kind = str(random.choice(list(KINDS)))
    gates, functions = KINDS[kind]
    direction = str(random.choice(["forward", "reverse", "bidirectional"]))
    D = 2 if direction == "bidirectional" else 1
    T, B, I, H = (int(random.integers(1, most)) for most in (8, 5, 6, 7))
    attributes = {"hidden_size": H, "direction": direction}
    if random.random() < 0.5:
        names = [str(random.choice(list(ACTIVATIONS))) for _ in range(functions * D)]
        attributes["activations"] = names
        for n, letter in enumerate(("alpha", "beta")):
            count = sum(ACTIVATIONS[name][n] for name in names)
            if count and random.random() < 0.7:
                attributes[f"activation_{letter}"] = random.uniform(0.2, 1.2, count).tolist()
    if random.random() < 0.4:
        attributes["clip"] = float(random.uniform(0.3, 3))
    if kind == "LSTM":
        attributes["input_forget"] = int(random.random() < 0.3)
    if kind == "GRU":
        attributes["linear_before_reset"] = int(random.random() < 0.5)

    def numbers(*shape):
        return (random.normal(size=shape) / 2).astype(np.float32)

    constants = {"W": numbers(D, gates * H, I), "R": numbers(D, gates * H, H)}
    feeds = {"X": numbers(T, B, I)}
    names = ["X", "W", "R", "", "", "", "", ""]
    if random.random() < 0.7:
        names[3], constants["B"] = "B", numbers(D, 2 * gates * H)
    if random.random() < 0.5:
        names[4], feeds["lengths"] = "lengths", random.integers(0, T + 1, B).astype(np.int32)
    for place, name in ((5, "h"), (6, "c")):
        if random.random() < 0.5 and (kind == "LSTM" or name == "h"):
            names[place], feeds[name] = name, numbers(D, B, H)
    if kind == "LSTM" and random.random() < 0.4:
        names[7], constants["P"] = "P", numbers(D, 3 * H)
    outputs = ["Y", "Y_h", *(["Y_c"] if kind == "LSTM" else [])]
    node = helper.make_node(kind, names[: 8 if kind == "LSTM" else 6], outputs, **attributes)
    return model_of([node], feeds, constants, outputs), feeds


def is_like_onnx_runtime(seeds, engine):
    for seed in seeds:
        model, feeds = random_node(np.random.default_rng(seed))
        wanted = in_onnx_runtime(model, feeds)
        if not all(np.isfinite(one).all() for one in wanted):
            continue  # what overflows first is nobody's to say
        onnx.save(model, "node.onnx")
        network = td.interop.from_onnx("node.onnx", engine=engine, inputs=list(feeds.values()))
        assert network.report.difference <= 1e-5
        with torch.no_grad():
            found = network(*feeds.values())
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(
                one, other, rtol=1e-5, atol=1e-5 * max(1, np.abs(other).max()), err_msg=str(seed)
            )


def test_random_nodes():
    is_like_onnx_runtime(range(40), "reference")


def test_random_nodes_compiled():
    is_like_onnx_runtime(range(1000, 1006), "cpu")


@pytest.mark.slow
def test_many_random_nodes():
    is_like_onnx_runtime(range(40, 400), "reference")
    is_like_onnx_runtime(range(1006, 1030), "cpu")


def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return [case for case in found if any(node.op_type in KINDS for node in case.model.graph.node)]


@pytest.mark.slow
def test_onnx_own_cases():
    """Their weights are inputs of the graph, not constants."""
    found = cases()
    assert len(found) >= 18
    for case in found:
        onnx.save(case.model, "case.onnx")
        network = td.interop.from_onnx("case.onnx", engine="cpu")
        assert network.report.compared, case.name
        for given, wanted in case.data_sets:
            with torch.no_grad():
                results = network(*given)
            results = results if isinstance(results, tuple) else (results,)
            for one, other in zip(results, wanted, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=case.name)


def test_what_was_written_is_read_again():
    torch.manual_seed(0)
    parts = [nn.Embedding(11, 6), nn.LayerNorm(6), td.Recurrent(td.Stack([td.LSTMCell(6, 5), td.GRUCell(5, 4)]))]
    rnn = parts[2]
    td.interop.to_onnx(rnn, "net.onnx", "sequence")
    xs, lengths = torch.randn(3, 7, 6), torch.tensor([7, 1, 4])
    network = td.interop.from_onnx("net.onnx", inputs=[xs, lengths, *(torch.zeros(3, n) for n in (5, 5, 4))])
    assert network.inputs == ("xs", "lengths", "layer0.h", "layer0.c", "layer1.h")
    with torch.no_grad():
        ys, *after = network(xs, lengths, *(torch.zeros(3, n) for n in (5, 5, 4)))
        wanted, state = rnn(xs, lengths=lengths)
    torch.testing.assert_close(ys, wanted)
    torch.testing.assert_close(after, [state["layer0"].h, state["layer0"].c, state["layer1"].h])


def test_a_tagger_that_was_written_is_read_again():
    torch.manual_seed(0)
    lstm = td.LSTM(6, 5, 2, batch_first=True, bidirectional=True)
    parts = nn.Sequential(nn.Embedding(11, 6), lstm, nn.LayerNorm(10), td.GRUCell(10, 4), nn.Linear(4, 7)).eval()
    td.interop.to_onnx(parts, "net.onnx", "sequence")
    network = td.interop.from_onnx("net.onnx")
    tokens, rest = torch.randint(11, (2, 9)), [torch.zeros(2, *one.shape[1:]) for one in network.graph.inputs[2:]]
    with torch.no_grad():
        ys = network(tokens, torch.tensor([9, 9]), *rest)[0]
        middle = td.Recurrent(parts[3])(parts[2](lstm(parts[0](tokens))[0]))[0]
    torch.testing.assert_close(ys, parts[4](middle))


def test_the_layers_around():
    """A tagger as exporters write it: embedding, both directions, a head; and operators of many kinds after it."""
    random = np.random.default_rng(0)

    def numbers(*shape):
        return random.normal(size=shape).astype(np.float32)

    constants = {
        "table": numbers(9, 4), "W": numbers(2, 15, 4), "R": numbers(2, 15, 5), "to": np.array([0, 0, -1]),
        "head": numbers(10, 3), "bias": numbers(3), "one": np.array([1]), "starts": np.array([-1]),
        "ends": np.array([-100]), "axes": np.array([2]), "steps": np.array([-1]), "low": np.float32(-1),
    }  # fmt: skip
    nodes = [
        ("Gather", ["table", "tokens"], ["embedded"], {}),
        (
            "GRU",
            ["embedded", "W", "R"],
            ["Y"],
            {"hidden_size": 5, "direction": "bidirectional", "linear_before_reset": 1},
        ),
        ("Transpose", ["Y"], ["turned"], {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["turned", "to"], ["joined"], {}),
        ("MatMul", ["joined", "head"], ["product"], {}),
        ("Add", ["product", "bias"], ["scores"], {}),
        ("Slice", ["scores", "starts", "ends", "axes", "steps"], ["backwards"], {}),
        ("Clip", ["backwards", "low"], ["clipped"], {}),
        ("ReduceMean", ["clipped"], ["means"], {"axes": [0], "keepdims": 0}),
        ("Softmax", ["scores"], ["shares"], {"axis": -1}),
        ("ArgMax", ["scores"], ["best"], {"axis": -1, "keepdims": 0}),
        ("Cast", ["best"], ["as floats"], {"to": 1}),
        ("Split", ["shares"], ["first", "second", "third"], {"axis": 2}),
        ("Max", ["first", "second", "third"], ["largest"], {}),
    ]
    nodes = [helper.make_node(kind, given, made, **of) for kind, given, made, of in nodes if kind != "Split"]
    nodes.insert(-1, helper.make_node("Split", ["shares", "sizes"], ["first", "second", "third"], axis=2))
    constants["sizes"] = np.array([1, 1, 1])
    feeds = {"tokens": random.integers(0, 9, (6, 2))}
    model = model_of(nodes, feeds, constants, ["means", "shares", "as floats", "largest"])
    onnx.save(model, "tagger.onnx")
    network = td.interop.from_onnx("tagger.onnx", inputs=list(feeds.values()))
    for found, wanted in zip(network(feeds["tokens"]), in_onnx_runtime(model, feeds), strict=True):
        np.testing.assert_allclose(found.detach(), wanted, rtol=1e-5, atol=1e-6)


def test_a_quantised_lstm_runs_in_floats():
    random = np.random.default_rng(0)
    H, I = 8, 6
    real = {"W": random.normal(size=(1, I, 4 * H)) / 3, "R": random.normal(size=(1, H, 4 * H)) / 3}
    constants = {}
    for name, numbers in real.items():
        scale = np.abs(numbers).max() / 127
        constants |= {name: np.rint(numbers / scale).astype(np.int8), f"{name}_scale": np.array([scale], np.float32)}
        constants[f"{name}_zero"] = np.zeros(1, np.int8)
    names = ["X", "W", "R", "", "", "", "", "", "W_scale", "W_zero", "R_scale", "R_zero"]
    node = helper.make_node("DynamicQuantizeLSTM", names, ["Y", "Y_h"], hidden_size=H, domain="com.microsoft")
    feeds = {"X": random.normal(size=(5, 2, I)).astype(np.float32)}
    model = model_of([node], feeds, constants, ["Y", "Y_h"])
    onnx.save(model, "quantised.onnx")
    network = td.interop.from_onnx("quantised.onnx")
    assert network.report.notes[0] == "quantised nodes run in floats here"
    floats = {name: (constants[name] * constants[f"{name}_scale"]).swapaxes(1, 2).astype(np.float32) for name in real}
    in_floats = model_of(
        [helper.make_node("LSTM", ["X", "W", "R"], ["Y", "Y_h"], hidden_size=H)], feeds, floats, ["Y", "Y_h"]
    )
    for found, wanted in zip(network(*feeds.values()), in_onnx_runtime(in_floats, feeds), strict=True):
        np.testing.assert_allclose(found.detach(), wanted, atol=1e-5)
    if not network.report.notes[1:]:
        for found, wanted in zip(network(*feeds.values()), in_onnx_runtime(model, feeds), strict=True):
            np.testing.assert_allclose(found.detach(), wanted, atol=0.03)


def test_products_of_bytes_that_saturate_are_said(monkeypatch):
    """ONNX Runtime's, on a CPU without VNNI: nothing is wrong with the network then, and nothing is compared."""
    random = np.random.default_rng(0)
    H, I = 8, 6
    scale, zero = np.array([0.01], np.float32), np.zeros(1, np.int8)
    bytes_of = {name: random.integers(-127, 128, (1, size, 4 * H), np.int8) for name, size in {"W": I, "R": H}.items()}
    constants = bytes_of | {"s": scale, "z": zero}
    names = ["X", "W", "R", "", "", "", "", "", "s", "z", "s", "z"]
    node = helper.make_node("DynamicQuantizeLSTM", names, ["Y"], hidden_size=H, domain="com.microsoft")
    onnx.save(model_of([node], {"X": np.ones((5, 2, I), np.float32)}, constants, ["Y"]), "quantised.onnx")
    monkeypatch.setattr(onnx_reading, "relative_difference", lambda *given: 0.5)
    monkeypatch.setattr(onnx_reading, "_saturates", lambda: True)
    assert "products of bytes saturate" in td.interop.from_onnx("quantised.onnx").report.notes[1]
    monkeypatch.setattr(onnx_reading, "_saturates", lambda: False)
    with pytest.raises(InteropError, match="differs from ONNX Runtime by 5"):
        td.interop.from_onnx("quantised.onnx")


def refused(node, error, match, **options):
    feeds = {"X": np.zeros((4, 2, 3), np.float32)}
    constants = {"W": np.zeros((1, 5, 3), np.float32), "R": np.zeros((1, 5, 5), np.float32)}
    onnx.save(model_of([node], feeds, constants, ["Y"]), "refused.onnx")
    with pytest.raises(error, match=match):
        td.interop.from_onnx("refused.onnx", **options)


def test_what_cannot_be_read_is_refused_by_name(folder):
    refused(helper.make_node("Det", ["X"], ["Y"], name="the det"), InteropError, "node 'the det': there is no Det here")
    refused(helper.make_node("Foo", ["X"], ["Y"], domain="me"), InteropError, r"node 0 \(Foo\): operators of me cannot")
    unknown = helper.make_node("RNN", ["X", "W", "R"], ["Y"], hidden_size=5, activations=["Swish"])
    refused(unknown, InteropError, "there is no activation Swish")
    body = helper.make_graph([], "body", [], [helper.make_tensor_value_info("W", 1, None)])
    refused(
        helper.make_node("If", ["X"], ["Y"], then_branch=body), InteropError, "a graph within a node cannot be read"
    )


def test_files_are_not_trusted(folder):
    td.interop.to_onnx(td.Recurrent(td.GRUCell(3, 4)), "net.onnx", "sequence")
    network = td.interop.from_onnx("net.onnx")
    with pytest.raises(InteropError, match=r"the graph reads 3 inputs \(xs, lengths, h\), but 1 were passed"):
        network(torch.zeros(1, 2, 3))
    with pytest.raises(InteropError, match=r"node .*GRU.* fails on what it is given: "):
        network(torch.zeros(1, 2, 7), torch.tensor([2]), torch.zeros(1, 4))
    whole = (folder / "net.onnx").read_bytes()
    for content in (b"", b"no file of ONNX", whole[: len(whole) // 2]):
        (folder / "bad.onnx").write_bytes(content)
        with pytest.raises(ModelFileError, match=r"bad.onnx is no ONNX file"):
            td.interop.from_onnx("bad.onnx")
    model = onnx.load("net.onnx")
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    (folder / "outside.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="in another file"):
        td.interop.from_onnx("outside.onnx")
    with pytest.raises((DataError, OSError), match=r"folder|directory"):
        td.interop.from_onnx(folder)
