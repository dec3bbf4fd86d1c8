"""Checkpoints: nothing is lost, nothing is mistaken, and a run that goes on is the run that was never stopped."""

import json
import logging
import math
import os
import random
import resource
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from treadle.errors import DataError, ModelFileError
from treadle.files import model_file
from treadle.files.checkpoint import previous_checkpoint
from treadle.training import load_checkpoint, save_checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.checkpoint"


def network(hidden_size=4, wiring="stack"):
    return td.Recurrent(td.Stack([td.LSTMCell(3, hidden_size), td.ZoneoutLSTMCell(hidden_size, hidden_size)], wiring))


class Run:
    """A run that uses all that a checkpoint holds: momentum, a schedule, a carried state and every generator."""

    def __init__(self, optimiser):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        self.model, self.state, self.step = network(), None, 0
        self.optimiser = optimiser(self.model.parameters())
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, 10)
        self.generators = {
            "order": torch.Generator().manual_seed(1),
            "noise": np.random.default_rng(2),
            "choice": random.Random(3),
        }

    def advance(self) -> float:
        xs = torch.randn(2, 5, 3) + np.random.randn() + random.random()
        xs = xs + torch.randn(1, generator=self.generators["order"])
        xs = xs + self.generators["noise"].normal() + self.generators["choice"].random()
        ys, self.state = self.model(xs, self.state)
        self.state = td.detach(self.state)
        loss = ys.square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        return loss.item()

    def parts(self):
        return {"optimiser": self.optimiser, "schedule": self.schedule, **self.generators}

    def save(self, path):
        save_checkpoint(path, self.model, **self.parts(), state=self.state, step=self.step)

    def load(self, path):
        values = load_checkpoint(path, self.model, **self.parts())
        self.state, self.step = values["state"], values["step"]
        assert values.keys() == {"state", "step"}


OPTIMISERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01, amsgrad=True),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9),
    "rprop": lambda parameters: torch.optim.Rprop(parameters, 0.01),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_a_run_goes_on_to_the_bit(path, optimiser):
    run = Run(OPTIMISERS[optimiser])
    for _ in range(3):
        run.advance()
    run.save(path)
    wanted = [run.advance() for _ in range(3)]
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}

    other = Run(OPTIMISERS[optimiser])
    other.advance()
    other.load(path)
    assert other.step == 3
    assert [other.advance() for _ in range(3)] == wanted
    assert all(torch.equal(tensor, weights[name]) for name, tensor in other.model.state_dict().items())


def test_what_a_checkpoint_holds_comes_back_as_it_was(path):
    model = td.GRUCell(2, 3)
    values = {
        "numbers": [0, -1, 2**70, 0.1, math.inf, -math.inf, True, None, "words\n"],
        "nested": {1: ("a", [torch.arange(3)]), "1": {"x": torch.tensor(2.5)}, -2: {}},
        "tensors": [
            torch.zeros(0, 3),
            torch.tensor(True),
            torch.randn(4, 3).T,
            torch.tensor([1.5], dtype=torch.bfloat16),
        ],
        "arrays": [np.arange(4, dtype=np.uint32), np.float32(0.1), np.int64(3)],
        "state": {"layer": td.LSTMState(torch.ones(1, 2), torch.zeros(1, 2))},
    }
    save_checkpoint(path, model, **values)
    found = load_checkpoint(path, model)
    assert found["numbers"] == values["numbers"]
    assert found["nested"].keys() == values["nested"].keys()
    assert found["nested"][1][1][0].tolist() == [0, 1, 2]
    assert found["nested"]["1"]["x"].item() == 2.5
    assert isinstance(found["nested"][1], tuple)
    for given, got in zip(values["tensors"], found["tensors"], strict=True):
        assert got.dtype == given.dtype
        assert torch.equal(got, given)
    assert found["arrays"][0].dtype == np.uint32
    assert found["arrays"][0].tolist() == [0, 1, 2, 3]
    assert found["arrays"][1:] == [float(np.float32(0.1)), 3]
    assert torch.equal(found["state"]["layer"][0], torch.ones(1, 2))


def test_nothing_of_a_checkpoint_shares_memory_with_the_run(path):
    model, tensor = td.GRUCell(2, 3), torch.zeros(2)
    save_checkpoint(path, model, a=tensor, b=tensor[:1])
    tensor += 1
    assert load_checkpoint(path, model)["a"].tolist() == [0, 0]


def test_the_one_before_is_kept(path):
    model = td.GRUCell(2, 3)
    for step in range(3):
        save_checkpoint(path, model, step=step)
    assert load_checkpoint(path, model)["step"] == 2
    assert load_checkpoint(previous_checkpoint(path), model)["step"] == 1
    assert {one.name for one in path.parent.iterdir()} == {"run.checkpoint", "run.checkpoint.previous"}


DAMAGES = {
    "truncated": lambda data: data[: len(data) // 2],
    "one byte": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "metadata": lambda data: data.replace(b'step\\", 1', b'step\\", 7'),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_gives_way_to_the_last_good_one(path, damage, caplog):
    model = td.GRUCell(2, 3)
    for step in range(2):
        save_checkpoint(path, model, position={"step": step})
    data = path.read_bytes()
    broken = DAMAGES[damage](data)
    assert broken != data
    path.write_bytes(broken)
    with caplog.at_level(logging.WARNING, "treadle"):
        assert load_checkpoint(path, model)["position"] == {"step": 0}
    (line,) = caplog.messages
    assert line.startswith(str(path))
    assert line.endswith(f"resuming from the checkpoint before it, {previous_checkpoint(path)}")

    # The next one does not put the damaged one in the place of the good one.
    save_checkpoint(path, model, position={"step": 5})
    assert load_checkpoint(previous_checkpoint(path), model)["position"] == {"step": 0}
    assert load_checkpoint(path, model)["position"] == {"step": 5}


def test_killed_between_the_two_renames(path, caplog):
    model = td.GRUCell(2, 3)
    save_checkpoint(path, model, step=1)
    path.rename(previous_checkpoint(path))
    with caplog.at_level(logging.WARNING, "treadle"):
        assert load_checkpoint(path, model)["step"] == 1
    assert "is missing; resuming from" in caplog.text
    save_checkpoint(path, model, step=2)
    assert load_checkpoint(path, model)["step"] == 2


def test_no_checkpoint_at_all_is_the_operating_systems_own_error(path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(path, td.GRUCell(2, 3))


OTHERS = {
    "another size": (network(5), r"cell.layer0.weight_ih is torch\.float32 \[16, 3\] there, but .*\[20, 3\] here"),
    "another wiring": (network(4, "residual"), "wiring is stack there, but residual here"),
    "a layer more": (td.Recurrent(td.Stack([td.LSTMCell(3, 4)])), r"cell.layer1.\S+ is .* there, but nothing here"),
    "another precision": (network().double(), r"float32 \[16, 3\] there, but torch.float64 \[16, 3\] here"),
    "an option": (td.Recurrent(network().cell, batch_first=False), "batch_first is True there, but False here"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_network_is_refused_by_name_and_changes_nothing(path, other):
    save_checkpoint(path, network())
    model, message = OTHERS[other]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelFileError, match=message) as refusal:
        load_checkpoint(path, model)
    assert "is the checkpoint of another network" in str(refusal.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_network_that_no_model_file_can_hold_has_checkpoints(path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2))
    save_checkpoint(path, model, step=1)
    assert load_checkpoint(path, model)["step"] == 1
    with pytest.raises(ModelFileError, match="another network"):
        load_checkpoint(path, nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2), nn.Tanh()))


def test_a_model_file_is_no_checkpoint_and_a_missing_part_is_named(path):
    model = td.GRUCell(2, 3)
    td.save(path, model)
    with pytest.raises(ModelFileError, match="is not a treadle checkpoint file but treadle model"):
        load_checkpoint(path, model)
    save_checkpoint(path, model, step=1)
    with pytest.raises(ModelFileError, match="no part 'optimiser': it was saved with step"):
        load_checkpoint(path, model, optimiser=torch.optim.SGD(model.parameters()))
    assert path.with_name("run.checkpoint.damaged").exists()  # the model file: nothing is lost


@pytest.mark.parametrize("part", [object(), {"deep": [{1.5: 2}]}, lambda: None, {"x": b"bytes"}])
def test_what_cannot_be_held_is_refused_by_name(path, part):
    with pytest.raises(ModelFileError, match="odd"):
        save_checkpoint(path, td.GRUCell(2, 3), odd=part)
    assert list(path.parent.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_loses_nothing(path):
    """A limit on the size of files stands in for the disk: writing fails half way, with an error of the system."""
    model = td.GRUCell(20, 30)
    save_checkpoint(path, model, step=1)
    save_checkpoint(path, model, step=2)
    script = f"""
        import resource, torch, treadle as td
        from treadle.training import save_checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        try:
            save_checkpoint({str(path)!r}, td.GRUCell(20, 30), step=3)
        except OSError as error:
            print(error)
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "cannot be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert load_checkpoint(path, model)["step"] == 2
    assert load_checkpoint(previous_checkpoint(path), model)["step"] == 1
    assert {one.name for one in path.parent.iterdir()} == {"run.checkpoint", "run.checkpoint.previous"}


def forged(path, change):
    """The same checkpoint with other metadata, and a checksum that fits."""
    tensors, metadata = model_file.read(path, "treadle checkpoint")
    parts = json.loads(metadata["parts"])
    change(metadata, parts)
    model_file.write(path, tensors, metadata | {"parts": json.dumps(parts)})


FORGED = {
    "a part that is no dict": lambda metadata, parts: parts.update(schedule=7),
    "a part without its values": lambda metadata, parts: parts.update(order={"dict": []}),
    "a generator of nothing": lambda metadata, parts: metadata.update(generators='{"dict": [["torch", 5]]}'),
    "no generators": lambda metadata, parts: metadata.pop("generators"),
    "a description that is no JSON": lambda metadata, parts: metadata.update(network="{"),
    "a deep description": lambda metadata, parts: metadata.update(network="[" * 100_000),
    "deep parts": lambda metadata, parts: metadata.update(generators="[" * 100_000),
}


@pytest.mark.parametrize("change", FORGED)
def test_a_forged_checkpoint_is_refused_and_puts_nothing_back(path, change):
    run = Run(OPTIMISERS["adamw"])
    run.advance()
    run.save(path)
    forged(path, FORGED[change])
    run.advance()
    before = [{name: tensor.clone() for name, tensor in run.model.state_dict().items()}, torch.get_rng_state()]
    steps = [state["step"].item() for state in run.optimiser.state.values()]
    with pytest.raises(ModelFileError, match=str(path)):
        run.load(path)
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in run.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[1])
    assert [state["step"].item() for state in run.optimiser.state.values()] == steps


def test_a_folder_is_refused_a_link_stays_one_and_nothing_is_left(path):
    model = td.GRUCell(2, 3)
    path.mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        save_checkpoint(path, model)
    assert [one.name for one in path.parent.iterdir()] == ["run.checkpoint"]
    link = path / "link"
    link.symlink_to(path / "kept")
    for step in range(2):
        save_checkpoint(link, model, step=step)
    assert link.is_symlink()
    assert {one.name for one in path.iterdir()} == {"link", "kept", "kept.previous"}
    (path / "kept").unlink()
    assert load_checkpoint(link, model)["step"] == 0
    os.mkfifo(path / "pipe")
    with pytest.raises(DataError, match="is a pipe or a device"):
        load_checkpoint(path / "pipe", model)


@pytest.mark.share(1)
@pytest.mark.parametrize(("moment", "left"), [(1, {"run.checkpoint"}), (2, {"run.checkpoint.previous", "beside"})])
def test_a_killed_writer_leaves_nothing_that_the_next_one_does_not_remove(path, moment, left):
    script = """
        import os, signal, sys, treadle as td
        from treadle.training import save_checkpoint
        fsync, at = os.fsync, int(sys.argv[2])
        def killed(file):
            global at
            at -= 1
            if not at:
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(file)
        os.fsync = killed
        save_checkpoint(sys.argv[1], td.GRUCell(2, 3), step=2)
    """
    model = td.GRUCell(2, 3)
    save_checkpoint(path, model, step=1)
    words = [sys.executable, "-c", textwrap.dedent(script), str(path), str(moment)]
    assert subprocess.run(words, check=False, env=os.environ).returncode == -9
    found = {"beside" if name.startswith(".treadle-") else name for name in os.listdir(path.parent)}
    if sys.platform == "linux":  # where a file may have no name while it is written
        assert found == {"run.checkpoint.lock", *left}
    assert load_checkpoint(path, model)["step"] == 1
    save_checkpoint(path, model, step=3)
    assert {one.name for one in path.parent.iterdir()} == {"run.checkpoint", "run.checkpoint.previous"}
