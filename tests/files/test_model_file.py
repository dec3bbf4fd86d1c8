"""Model files: the same network comes back, and nothing that is wrong with a file goes unsaid or runs."""

import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

import treadle as td
from tests.registry import CELLS, SUBJECTS
from tests.tolerances import assert_close
from treadle.errors import DataError, ModelFileError
from treadle.files.model_file import read_notes
from treadle.state import map_state, named_tensors


class Adder(nn.Module):
    """A cell of a user's own."""

    input_size = 3

    def __init__(self, scale: float, sizes: tuple[int, ...] = (3,), activation: nn.Module | None = None):
        super().__init__()
        self.scale, self.sizes, self.activation = scale, sizes, activation
        self.weight = nn.Parameter(torch.randn(3))

    def initial_state(self, batch_size):
        return (self.weight.new_zeros(batch_size, *self.sizes),)

    def forward(self, x, state):
        total = state[0] + self.scale * self.weight * x
        return (self.activation or nn.Identity())(total), (total,)


class Forgetful(Adder):
    """Its argument cannot be found again."""

    def __init__(self, factor: float):
        super().__init__(factor)


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def rewritten(path, **changes):
    """The file with other metadata, and a checksum that fits, as somebody who means harm would write it."""
    from treadle.files.model_file import checksum

    tensors, said = safetensors.torch.load_file(path), metadata(path) | changes
    del said["checksum"]
    said["checksum"] = checksum(json.dumps(said, sort_keys=True), tensors)
    safetensors.torch.save_file(tensors, path, said)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    td.save(path, td.Recurrent(td.Stack([td.LSTMCell(3, 4), td.GRUCell(4, 2)])))
    return path


TREADLES_OWN = [name for name, make in SUBJECTS.items() if not name.startswith("own") and "counting" not in name]


@pytest.mark.share(10)
@pytest.mark.parametrize("name", SUBJECTS)
def test_the_same_network_comes_back(name, tmp_path):
    cell = SUBJECTS[name]()
    classes = {type(module) for module in cell.modules() if type(module).__module__.startswith("tests")}
    rnn = td.Recurrent(cell, batch_first=False, learn_initial_state=True).double()
    for parameter in rnn.parameters():
        nn.init.normal_(parameter, std=0.3)
    td.save(tmp_path / "m", rnn)
    again = td.load(tmp_path / "m", cells=classes)
    assert repr(again) == repr(rnn)
    assert td.fingerprint(again) == td.fingerprint(rnn)
    state = map_state(lambda t: t + 0, rnn.initial_state(2))
    shape = (
        () if rnn.input_size == () else rnn.input_size if isinstance(rnn.input_size, tuple) else (rnn.input_size or 3,)
    )
    xs = torch.randint(3, (5, 2)) if shape == () else torch.randn(5, 2, *shape, dtype=torch.float64)
    torch.manual_seed(1)
    expected = rnn(xs, state)
    torch.manual_seed(1)
    actual = again(xs, state)
    for (what, a), (_, e) in zip(named_tensors(actual), named_tensors(expected), strict=True):
        assert_close(a, e, what=what)


@pytest.mark.parametrize(
    "module",
    [
        td.LSTM(3, 4, 2, bidirectional=True, dropout=0.1, proj_size=2, dtype=torch.float64),
        td.GRU(3, 4, 2, wiring="dense", batch_first=True),
        td.RNN(3, 4, nonlinearity="relu", bias=False),
        td.LSTM(3, 4, 2, cell=td.PeepholeLSTMCell),
    ],
)
def test_drop_ins_come_back(module, tmp_path):
    td.save(tmp_path / "m", module.eval())
    again = td.load(tmp_path / "m")
    assert repr(again) == repr(module)
    assert not again.training
    x = torch.randn(2, 5, 3, dtype=next(module.parameters()).dtype)
    assert torch.equal(again(x)[0], module(x)[0])


def test_own_cells_come_back_when_their_class_is_passed(tmp_path):
    cell = Adder(0.5, (3,), nn.PReLU(3, init=0.1))
    td.save(tmp_path / "m", td.Recurrent(cell))
    again = td.load(tmp_path / "m", cells=[Adder])
    xs = torch.randn(2, 5, 3)
    assert torch.equal(again(xs)[0], td.Recurrent(cell)(xs)[0])
    assert again.cell.sizes == (3,)
    with pytest.raises(ModelFileError, match=r"needs 'Adder'.*td.load\(path, cells=\[Adder\]\)"):
        td.load(tmp_path / "m")


def test_a_shared_module_stays_shared(tmp_path):
    cell, g = td.GRUCell(4, 4), td.Graph(4)
    g.outputs(g.add("high", cell, reads=g.add("low", cell, reads=g.x)))
    td.save(tmp_path / "m", g)
    again = td.load(tmp_path / "m")
    assert again.get_submodule("low") is again.get_submodule("high")


def test_loading_leaves_the_random_generator_alone(saved):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    td.load(saved)
    assert torch.equal(torch.randn(3), expected)


def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"takes 'factor'.*write self.factor = factor"):
        td.save(tmp_path / "m", Forgetful(0.5))
    with pytest.raises(ModelFileError, match="cannot hold"):
        td.save(tmp_path / "m", Adder(scale=object()))  # pyright: ignore
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, -1])
def test_truncated_files_are_refused(saved, keep):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ModelFileError, match="truncated"):
        td.load(saved)


def test_every_changed_byte_is_noticed(saved):
    content = saved.read_bytes()
    for position in range(8, len(content), 37):
        changed = bytearray(content)
        changed[position] ^= 1
        saved.write_bytes(changed)
        with pytest.raises(ModelFileError):
            td.load(saved)


def test_other_files_are_refused(tmp_path, saved):
    (tmp_path / "text").write_text("not a model " * 100)
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        td.load(tmp_path / "text")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(ModelFileError, match="another program's"):
        td.load(tmp_path / "foreign")
    with pytest.raises(FileNotFoundError):
        td.load(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        td.load(tmp_path)


def test_a_file_of_a_newer_version_asks_for_an_upgrade(saved):
    rewritten(saved, version="2")
    with pytest.raises(ModelFileError, match="has format 2, but this treadle reads up to 1: upgrade"):
        td.load(saved)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("", "damaged"),
        ("[" * 100_000, "nested too deeply|damaged"),
        ('{"type": "os.system", "arguments": {"command": "true"}}', "does not know"),
        ('{"type": "treadle.LSTMCell", "arguments": {"input_size": 3}}', "damaged"),
        ('{"type": "treadle.LSTMCell", "arguments": {"input_size": -3, "hidden_size": 4}}', "does not fit together"),
        ('{"type": "treadle.LSTMCell", "arguments": {"input_size": 1000000, "hidden_size": 1000000}}', "bias_hh"),
        ('{"class": "treadle.LSTMCell"}', "does not hold a network"),
        ("3", "does not hold a network"),
    ],
)
def test_a_description_that_is_wrong_is_refused(saved, network, words):
    rewritten(saved, network=network)
    with pytest.raises(ModelFileError, match=words):
        td.load(saved)


def test_loading_never_imports_or_runs_what_the_file_names(tmp_path, saved):
    """Every string of the description is replaced by names that leave a trace if anybody imports or calls them."""
    (tmp_path / "evil.py").write_text(
        "open('trace', 'w').write('imported')\nclass Cell:\n    def __init__(self, *a, **k): pass\n"
    )
    evil = [
        "evil",
        "evil.Cell",
        "treadle.evil.Cell",
        "torch.nn.evil",
        "builtins.eval",
        "torch.nn.modules.module.Module",
    ]
    evil += ["__import__('evil')", "treadle.Graph.__init__", "treadle.Recurrent.__class__", "os.system"]
    paths = []

    def replaced(value, name):
        if isinstance(value, dict):
            return {key: replaced(part, name) for key, part in value.items()}
        if isinstance(value, list):
            return [replaced(part, name) for part in value]
        return name if isinstance(value, str) else value

    for i, name in enumerate(evil):
        path = tmp_path / f"{i}.safetensors"
        path.write_bytes(saved.read_bytes())
        rewritten(path, network=json.dumps(replaced(json.loads(metadata(path)["network"]), name)))
        paths.append(path.name)
    program = (
        "import sys, treadle as td\n"
        f"for path in {paths!r}:\n"
        "    try:\n        td.load(path)\n        print('loaded', path)\n"
        "    except td.errors.ModelFileError:\n        pass\n"
        "print('evil' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", CELLS)
def test_a_changed_weight_changes_the_fingerprint(name):
    cell = CELLS[name](3, 4)
    before = td.fingerprint(cell)
    with torch.no_grad():
        next(cell.parameters()).view(-1)[0] += 1
    assert td.fingerprint(cell) != before


def test_another_wiring_of_the_same_weights_has_another_fingerprint():
    cells = [td.GRUCell(4, 4), td.GRUCell(4, 4)]
    assert td.fingerprint(td.Stack(cells)) != td.fingerprint(td.Stack(cells, "residual"))


class Loose(td.ZoneoutLSTMCell):
    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size, **options)


class Told(Loose):
    def constructor_arguments(self):
        return {"input_size": self.input_size, "hidden_size": self.hidden_size, "zoneout_cell": self.zoneout_cell}


def test_arguments_that_cannot_be_known_are_asked_for(tmp_path):
    with pytest.raises(ModelFileError, match=r"takes \*options.*define a method constructor_arguments"):
        td.save(tmp_path / "m", Loose(3, 4, zoneout_cell=0.9))
    td.save(tmp_path / "m", Told(3, 4, zoneout_cell=0.9))
    assert td.load(tmp_path / "m", cells=[Told]).zoneout_cell == 0.9


def test_two_classes_of_one_name_are_refused(saved):
    other = type("Adder", (Adder,), {})
    with pytest.raises(ModelFileError, match=r"two classes .* called 'Adder'"):
        td.load(saved, cells=[Adder, other])


def test_what_is_one_parameter_or_frozen_stays_so(tmp_path):
    cell = td.GRUCell(4, 4)
    td.save(tmp_path / "m", td.Stack([cell, cell]))
    again = td.load(tmp_path / "m")
    assert len(list(again.parameters())) == 4
    assert again.cells[0].weight_hh is again.cells[1].weight_hh
    g = td.Graph(())
    embedded = g.add("embedded", nn.Embedding(7, 4), reads=g.x)
    g.outputs(g.add("scores", nn.Linear(4, 7, bias=False), reads=g.add("cell", td.GRUCell(4, 4), reads=embedded)))
    g.get_submodule("scores").weight = g.get_submodule("embedded").weight
    g.get_submodule("cell").requires_grad_(False)
    td.save(tmp_path / "m", g)
    again = td.load(tmp_path / "m")
    assert again.get_submodule("scores").weight is again.get_submodule("embedded").weight
    frozen = [name for name, parameter in again.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"cell.{name}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    for changes in ({"tied": '[["cell.bias_ih", "nothing"]]'}, {"frozen": "[3]"}, {"tied": "["}):
        td.save(tmp_path / "m", g)
        rewritten(tmp_path / "m", **changes)
        with pytest.raises(ModelFileError, match="shared or frozen"):
            td.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            {"type": "torch.nn.Linear", "arguments": {"in_features": 9, "out_features": 9, "device": "cpu"}},
            "passes 'device'",
        ),
        (
            {"type": "torch.nn.Embedding", "arguments": {"num_embeddings": 2, "embedding_dim": 2, "_weight": 3}},
            "'_weight'",
        ),
        (
            {"type": "treadle.LSTM", "arguments": {"input_size": 2, "hidden_size": 2, "num_layers": 10**9}},
            "more than 1,000 layers",
        ),
    ],
)
def test_what_no_treadle_writes_is_refused_at_once(saved, network, words):
    rewritten(saved, network=json.dumps(network))
    with pytest.raises(ModelFileError, match=words):
        td.load(saved)


def test_a_few_lines_cannot_describe_more_than_anybody_could_step(saved):
    x = {"node": "x"}
    network = {"type": "torch.nn.Identity", "arguments": {}}
    for _ in range(40):
        nodes = [{"name": "a", "size": None, "module": network, "reads": [x], "previous": {}}]
        nodes.append({"name": "b", "size": None, "module": {"same_as": "a"}, "reads": [{"node": "a"}], "previous": {}})
        network = {"type": "treadle.Graph", "graph": {"input_size": None, "nodes": nodes, "outputs": [{"node": "b"}]}}
    rewritten(saved, network=json.dumps(network))
    with pytest.raises(ModelFileError, match="more than 100,000 modules"):
        td.load(saved)


def test_weights_of_another_kind_are_refused(saved):
    tensors = {name: tensor.long() for name, tensor in safetensors.torch.load_file(saved).items()}
    said = metadata(saved)
    safetensors.torch.save_file(tensors, saved, said)
    rewritten(saved)
    with pytest.raises(ModelFileError, match=r"needs .* as floats .* have whole numbers"):
        td.load(saved)


class Wide(Adder):
    """A cell of a user's own, whose size the file says."""

    def __init__(self, width: int):
        super().__init__(1.0)
        self.width, self.weight = width, nn.Parameter(torch.randn(width))


class Looking(Wide):
    """It looks at its weights, which it cannot without memory."""

    def __init__(self, width: int):
        super().__init__(width)
        self.largest = self.weight.max().item()


@pytest.mark.parametrize("kind", [Wide, Looking])
def test_a_file_that_claims_a_large_cell_of_the_callers_own_takes_no_memory(tmp_path, kind):
    path = tmp_path / "m"
    td.save(path, kind(3))
    assert td.load(path, cells=[kind]).width == 3
    for width in (10**9, 10**15):
        rewritten(path, network=json.dumps({"type": kind.__name__, "arguments": {"width": width}}))
        with pytest.raises(
            ModelFileError, match=r"does not fit together: its network (needs weight|would take far more)"
        ):
            td.load(path, cells=[kind])


@pytest.mark.parametrize("name", ["network", "notes", "tied", "frozen"])
def test_metadata_that_is_nested_too_deeply_is_refused(saved, name):
    rewritten(saved, **{name: "[" * 100_000})
    with pytest.raises(ModelFileError, match=r"nested too deeply|damaged"):
        (read_notes if name == "notes" else td.load)(saved)


def test_a_pipe_is_refused_and_a_file_is_as_open_as_others(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is a pipe or a device"):
        td.load(tmp_path / "pipe")
    td.save(tmp_path / "m", td.GRUCell(2, 3))
    (tmp_path / "any").write_text("")
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "any").stat().st_mode
