"""What the explorer's page is given: every number is the record's, and the program that it computes with gives them."""

import base64
import json

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, build, sequence, stack
from treadle.compiler import interpreter
from treadle.show.explorer_data import explorer_data
from treadle.show.explorer_data.network import ExploredNetwork
from treadle.state import named_tensors


def read(array):
    numbers = np.frombuffer(base64.b64decode(array["data"]), dtype=np.dtype(array["dtype"]).newbyteorder("<"))
    return torch.tensor(numbers.copy().reshape(array["shape"]))


def data_of(rnn, xs, labels=None, features=None):
    data = explorer_data({"one": rnn}, {"one": xs}, {"one": (labels, features)})
    return json.loads(json.dumps(data, allow_nan=False))["networks"][0]


def recorded(rnn, xs, name):
    """What `td.record` has where the page has a name."""
    values = td.record(rnn, xs)
    return values[name if name in values else f"{name}.y"][0]


def computed(rnn, xs, cut=None, dtype=torch.float64):
    """Every named value of every step, by the program that the page gets; with one of its edges cut."""
    network = ExploredNetwork("one", rnn, xs)
    program, known = network.program, {}
    for name, tensor in network.lifted.items():
        known[program.inputs[name]] = tensor
    for number, value in network.cuts.all.items():
        known[value] = torch.tensor(0.0 if number == cut else 1.0, dtype=value.dtype)
    state = {f"state/{name}": tensor for name, tensor in named_tensors(network.call.state)}
    found = {name: [] for name in network.names}
    for x in network.call.xs:
        now = known | {program.inputs["x"]: x} | {program.inputs[name]: tensor for name, tensor in state.items()}
        interpreter.evaluate([*(one.value for one in network.names.values()), *program.outputs.values()], now, 1)
        state = {name: now[program.outputs[name]] for name in state}
        for name, one in network.names.items():
            found[name].append(now[one.value].movedim(one.value.batch_axis, 0)[0])
    return {name: torch.stack(parts).detach() for name, parts in found.items()}


@pytest.mark.share(8)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_page_gets_the_record(subject):
    rnn = build(subject)
    xs = sequence(rnn, 1, 5)
    data, values = data_of(rnn, xs), td.record(rnn, xs)
    assert {"x", "y"} < set(data["record"])
    modules = {box["name"] for box in data["boxes"] if box["kind"] == "module"}
    junctions = {box["name"] for box in data["boxes"] if box["kind"] == "junction"}
    assert junctions <= set(data["record"])
    for name, array in data["record"].items():
        if name in junctions:
            continue
        assert torch.equal(read(array), values[f"{name}.y" if name in modules else name][0]), name
    for cell in data["cells"]:
        assert cell["states"]
        assert cell["values"]
        assert {value["record"] for value in cell["values"]} <= set(data["record"])
        for value in cell["values"]:
            if value["source"] is not None:
                source = cell["sources"][value["source"]]
                assert 0 <= value["line"] - source["first_line"] < len(source["lines"])
    for name, array in data["initial"].items():
        assert torch.equal(read(array), dict(named_tensors(rnn.initial_state(1)))[name][0])


@pytest.mark.share(8)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_program_of_the_page_computes_the_record(subject):
    rnn = build(subject)
    xs = sequence(rnn, 1, 5)
    values = td.record(rnn, xs)
    for name, tensor in computed(rnn, xs).items():
        assert torch.allclose(tensor.double(), values[name][0].double(), atol=1e-12), name


def test_programs_are_in_an_order_in_which_they_can_be_computed():
    program = data_of(build("graph-handed-over"), sequence(build("graph-handed-over"), 1, 3))["program"]
    for place, value in enumerate(program["values"]):
        assert all(operand < place for operand in value["inputs"])
    named = {**program["inputs"], **program["outputs"], **program["names"]}
    assert all(0 <= place < len(program["values"]) for place in named.values())
    known = {name for name in program["inputs"] if name.startswith(("state/", "read/"))} | {"x"}
    assert set(program["parameters"]) == set(program["inputs"]) - known
    assert program["unsupported"] is None


def test_a_cut_edge_is_read_as_zero():
    rnn = build("stack-relay")
    xs = sequence(rnn, 1, 5)
    data = data_of(rnn, xs)
    reads = [(one["cell"], one["value"], one["delay"], one["as"]) for one in data["reads"]]
    assert reads[:6] == [
        ("layer0", "x", 0, "input"),
        ("layer0", "layer0.h", 1, "state:h"),
        ("layer0", "layer0.c", 1, "state:c"),
        ("layer1", "x", 0, "input"),
        ("layer1", "layer0.h", 0, "state:h"),
        ("layer1", "layer1.c", 1, "state:c"),
    ]
    cut = next(one for one in data["reads"] if one["cell"] == "layer1" and one["as"] == "state:h")
    assert cut["cut"] == f"read/{cut['edge']}"
    with torch.no_grad():
        rnn.cell.get_submodule("layer1").weight_hh.zero_()  # which only h from below is multiplied with
    expected = td.record(rnn, xs)
    rnn = build("stack-relay")
    for name, tensor in computed(rnn, xs, cut["edge"]).items():
        if not name.startswith("layer1.state") and "layer1.dot" not in name and "layer1.add" not in name:
            assert torch.allclose(tensor, expected[name][0], atol=1e-12), name


def test_a_part_of_what_a_layer_reads_is_cut_by_itself():
    rnn = build("stack-lateral")
    xs = sequence(rnn, 1, 5)
    late = next(one for one in data_of(rnn, xs)["reads"] if one["cell"] == "layer1" and one["delay"] == 1)
    assert late["value"] == "layer0.h"
    found, values = computed(rnn, xs, late["edge"]), td.record(rnn, xs)
    assert torch.equal(found["layer1.x"][:, :5], values["layer1.x"][0, :, :5])
    assert not found["layer1.x"][:, 5:].any()


def test_reach_is_the_gradient_of_each_output():
    rnn = build("stack-dense")
    xs = sequence(rnn, 1, 6).requires_grad_()
    data = data_of(rnn, xs)
    reach = data["reach"]
    norms = read(reach["norms"])
    assert reach["outputs"] == list(range(6))
    assert reach["rows"] == ["x", *(f"layer{layer}.{part}" for layer in range(3) for part in "hc")]
    ys, _, states = rnn(xs, return_states=True)
    for t in range(6):
        random = torch.Generator().manual_seed(t)
        direction = torch.randn(4, generator=random, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((ys[0, t] * direction / direction.norm()).sum(), xs, retain_graph=True)
        assert torch.allclose(norms[t, 0].double(), gradient[0].norm(dim=1), atol=1e-6)
    # The hidden state of the uppermost layer acts on later outputs by its own next step alone.
    step, direction = 2, torch.randn(4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    now = {name: td.LSTMState(one.h[:, step], one.c[:, step]) for name, one in states.items()}
    h = now["layer2"].h.detach().requires_grad_()
    now["layer2"] = td.LSTMState(h, now["layer2"].c)
    later, _ = rnn(xs[:, step + 1 :], now)
    (gradient,) = torch.autograd.grad((later[0, 5 - step - 1] * direction / direction.norm()).sum(), h)
    assert torch.allclose(norms[5, reach["rows"].index("layer2.h"), step].double(), gradient.norm(), atol=1e-6)
    for later_than in range(5):
        assert not norms[later_than, :, later_than + 1 :].any()


def test_long_sequences_follow_some_outputs():
    rnn = build("rnn")
    reach = data_of(rnn, sequence(rnn, 1, 400))["reach"]
    assert len(reach["outputs"]) == 62
    assert reach["outputs"][-1] == 399


def test_what_the_page_cannot_compute_is_said():
    rnn = build("stack-with-dropout").train()
    data = data_of(rnn, sequence(rnn, 1, 3))
    assert "model.eval()" in data["program"]["unsupported"]
    assert data["program"]["random"]
    assert data_of(build("conv-lstm"), sequence(build("conv-lstm"), 1, 3))["program"]["unsupported"] is None
    tokens = data_of(build("graph-tokens"), sequence(build("graph-tokens"), 1, 3), labels=list("abc"))
    assert tokens["program"]["unsupported"] is None
    assert tokens["input"] == {"kind": "tokens", "labels": ["a", "b", "c"], "names": None}
    assert "scores" in tokens["record"]


def test_junctions_are_sums_and_rows_side_by_side():
    rnn = build("stack-residual")
    xs = sequence(rnn, 1, 5)
    data, values = data_of(rnn, xs), td.record(rnn, xs)
    (junction,) = [box["name"] for box in data["boxes"] if box["kind"] == "junction"]
    assert torch.allclose(read(data["record"][junction]), (values["layer0.y"] + values["layer1.y"])[0])
    assert data["program"]["names"][junction] != data["program"]["names"]["layer1.h"]
    rnn = build("graph-sums")
    data, values = data_of(rnn, xs := sequence(rnn, 1, 5)), td.record(rnn, xs)
    late = torch.cat([torch.zeros(1, 4), values["low.y"][0, :-1]])
    sums = [read(data["record"][box["name"]]) for box in data["boxes"] if box["kind"] == "junction"]
    assert any(torch.allclose(one, late + xs[0] + values["low.y"][0]) for one in sums)


def test_a_state_that_no_variable_holds_is_beside_the_line_that_makes_it():
    rnn = build("zoneout-lstm")
    (cell,) = data_of(rnn, sequence(rnn, 1, 3))["cells"]
    assert [source["function"] for source in cell["sources"]] == ["forward", "forward", "_keep"]
    assert [source["file"] for source in cell["sources"]] == ["zoneout_lstm.py", "lstm.py", "zoneout_lstm.py"]
    (c,) = [value for value in cell["values"] if value["name"] == "c"]
    assert c["kind"] == "state"
    assert c["source"] == 2


def test_half_precision_is_not_computed_by_the_page():
    rnn = td.Recurrent(td.GRUCell(3, 4)).to(torch.bfloat16)
    data = data_of(rnn, torch.randn(1, 3, 3).to(torch.bfloat16))
    assert "after model.float()" in data["program"]["unsupported"]
    assert data["record"]["h"]["dtype"] == "float32"


def test_truncation_and_titles():
    rnn = td.Recurrent(stack("dense"), gradient=td.TruncatedBPTT(4, 8))
    data = data_of(rnn, torch.randn(1, 3, 3))
    assert data["truncated"] == {"steps": 4, "horizon": 8}
    assert data["wiring"] == "dense"
    assert data["title"].startswith("dense: each layer reads")


@pytest.mark.share(28)
@pytest.mark.parametrize("subject", [name for name in SUBJECTS if not name.startswith("own") and "closed" not in name])
def test_the_code_to_copy_makes_the_same_network(subject):
    rnn = build(subject)
    namespace = {}
    exec(data_of(rnn, sequence(rnn, 1, 2))["code"], namespace)
    made = namespace["rnn"].state_dict()
    assert {name: tensor.shape for name, tensor in made.items()} == {
        name: tensor.shape for name, tensor in rnn.state_dict().items()
    }
    if isinstance(rnn.cell, td.Graph):
        assert td.Graph.extra_repr(namespace["rnn"].cell) == td.Graph.extra_repr(rnn.cell)


def test_numbers_that_json_has_not():
    class Infinite(nn.Module):
        def initial_state(self, batch_size):
            return torch.zeros(batch_size, 2)

        def forward(self, x, state):
            return torch.where(x > 0, state, torch.full_like(x, float("-inf"))), state + 1

    data = data_of(Infinite(), torch.randn(1, 3, 2))
    assert "-inf" in [value["attributes"].get("number") for value in data["program"]["values"]]
