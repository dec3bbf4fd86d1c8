"""What every training command shares: checkpoints, fine-tuning, logs, and what it says while it trains."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.kills import COMMANDS, made
from tests.cli.test_fit import here, stopped
from treadle.files.checkpoint import previous_checkpoint
from treadle.recipes.decode import decoder_training
from treadle.training import TextTask

TRAINING = [name for name in COMMANDS if not name.startswith("compare")]
VALIDATE_NEVER = ("imitate", "decode")
"""Commands that train without a validation set: they are judged by what they do, or by what users of them get."""


def without_checkpoint(name: str) -> list[str]:
    """The words of a command, as it is without a checkpoint."""
    words = COMMANDS[name].split()
    return words[: words.index("--checkpoint")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(made(tmp_path / "data"))
    monkeypatch.setattr(decoder_training, "PRESSES", 30)
    monkeypatch.setattr(decoder_training, "WINDOW", 10)
    monkeypatch.setitem(decoder_training.Learning.__init__.__kwdefaults__, "users", 3)
    monkeypatch.setattr(sys.modules["treadle.cli.segment"], "JUDGES", 1)


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ["translate", "imitate", "decode"])
def test_a_command_that_failed_resumes_and_ends_as_if_it_had_not(name, capfd):
    words = COMMANDS[name].split()
    assert here(capfd, *without_checkpoint(name))[0] == 0
    whole = load_file("m.safetensors")
    Path("m.safetensors").unlink()
    stopped(capfd, 7, *words)
    assert not Path("m.safetensors").exists()
    assert Path("run").exists()
    status, _, err = here(capfd, *words)
    assert status == 0, err
    again = load_file("m.safetensors")
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    _, _, err = here(capfd, *words)
    assert "treadle: run holds this run, which is complete: nothing was left to train" in err
    status, _, err = here(capfd, *words, "--learning-rate", "0.5")
    assert status == 2
    assert "run is the checkpoint of another run: learning_rate was" in err
    assert previous_checkpoint("run").exists()


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ["translate", "imitate", "decode"])
def test_a_saved_network_is_trained_further(name, capfd):
    words = without_checkpoint(name)
    assert here(capfd, *words)[0] == 0
    first = load_file("m.safetensors")
    Path("m.safetensors").rename("first.safetensors")
    old = [word for word in words if word not in ("--hidden-size", "6")]
    status, _, err = here(capfd, *old, "--resume", "first.safetensors", "--learning-rate", "1e-9")
    assert status == 0, err
    further = load_file("m.safetensors")
    assert any(not torch.equal(first[key], value) for key, value in further.items())
    for key, value in further.items():
        torch.testing.assert_close(value, first[key], rtol=1e-3, atol=1e-4)
    if name != "decode":
        status, _, err = here(capfd, *words, "--resume", "first.safetensors")
        assert "--hidden-size: the network of --resume first.safetensors has its own already; leave it out" in err


def test_pairs_that_a_resumed_translator_cannot_read_are_refused_by_line(capfd):
    words = COMMANDS["translate"].split()[:4]
    assert here(capfd, *words, "--budget", "1steps", "--hidden-size", "6")[0] == 0
    Path("other.tsv").write_text("a\tA1\nß\tA1\n")
    options = ["-o", "n.safetensors", "--resume", "m.safetensors"]
    status, _, err = here(capfd, "translate", "other.tsv", *options)
    assert status == 2
    assert "other.tsv, line 2: 'ß' has 'ß', which was nowhere in the training set" in err


@pytest.mark.share(4)
@pytest.mark.parametrize("name", TRAINING)
def test_where_there_is_no_terminal_each_validation_is_a_line_and_logs_are_written(name, monkeypatch, capfd):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(TextTask, "evaluate_every", 5)  # of 12 steps
    words = without_checkpoint(name)
    if name == "segment":
        words += ["--budget", "20steps"]  # the first at which it validates
    status, _, err = here(capfd, *words, "--tensorboard", "logs")
    assert status == 0, err
    log = EventAccumulator("logs").Reload()
    scalars = set(log.Tags()["scalars"])
    assert {"loss/training", "learning_rate"} <= scalars
    steps = [event.step for event in log.Scalars("loss/training")]
    assert steps == list(range(1, len(steps) + 1))
    assert ("loss/validation" in scalars) == (name not in VALIDATE_NEVER)
    if name not in VALIDATE_NEVER:
        validated = {event.step for event in log.Scalars("loss/validation")}
        said = {int(step) for step in re.findall(r"^step (\d+)  loss .*  validation ", err, re.MULTILINE)}
        assert said == validated
    assert any(scalar.startswith("test/") for scalar in scalars) == (name not in VALIDATE_NEVER)


def test_evaluating_is_shown_as_long_as_it_lasts(monkeypatch):
    from rich.console import Console

    from treadle.cli.fitting import EVALUATING, watching
    from treadle.training import Step

    with (
        Path("seen").open("w") as file,
        watching(Console(file=file, force_terminal=True, width=200), "inputs") as watch,
    ):
        watch.follow(Step(3, 0.5, None, 1.0, 10, 0.1, 0.5))

        def shown():
            return watch._bar.tasks[0].fields["figures"]

        before = shown()
        with watch.evaluating():
            assert shown() == f"{before}  {EVALUATING}"
        assert shown() == before


def test_a_schedule_is_resumed_where_it_was(capfd):
    """The learning rate follows the budget, so that a resumed run has the rates of an uninterrupted one."""
    from treadle.cli import fitting

    rates = []
    follow = fitting.Watch.follow
    words = COMMANDS["translate"].split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fitting.Watch, "follow", lambda watch, step: (rates.append(step.learning_rate), follow(watch, step))
        )
        assert here(capfd, *without_checkpoint("translate"))[0] == 0
        whole, rates[:] = list(rates), []
        stopped(capfd, 6, *words)
        del rates[:]
        assert here(capfd, *words)[0] == 0
    assert rates == whole[-len(rates) :]
