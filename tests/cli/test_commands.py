"""The command as people use it: one process each, so that exit status, streams and signals are the real ones."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import treadle as td
from treadle.cli import main
from treadle.files import model_file
from treadle.training import bits_per_byte, language_model, read_text

PROSE = b"Now is the time for all good men to come to the aid of the party. " * 60
SMALL = ["--parameters", "25000", "--window", "4", "--wiring", "stack,skip", "--seeds", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prose.txt").write_bytes(PROSE)
    return tmp_path


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    model_file.save(path, language_model("gru", "feedback", hidden_size=12))
    return path


def command(*arguments, **options) -> subprocess.Popen:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-m", "treadle.cli", *map(str, arguments)], **streams)


def run(*arguments, **options) -> tuple[int, bytes, str]:
    process = command(*arguments, **options)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err.decode()


class Terminal:
    """A pseudo-terminal, for a stream of a command. Only a terminal gets a moving progress bar."""

    def __init__(self):
        self.reader, self.writer = pty.openpty()
        self.seen = b""

    def until(self, finished, seconds=60) -> None:
        """Read on until what was seen satisfies ``finished``."""
        deadline = time.monotonic() + seconds
        while not finished(self.seen):
            ready, _, _ = select.select([self.reader], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"nothing more came after {self.seen!r}"
            self.seen += os.read(self.reader, 65536)

    def rest(self) -> bytes:
        """All that is still to come, until the command ends."""
        os.close(self.writer)
        with contextlib.suppress(OSError):  # this is how a pseudo-terminal ends
            while part := os.read(self.reader, 65536):
                self.seen += part
        os.close(self.reader)
        return self.seen

    def until_the_end(self, process: subprocess.Popen, seconds=60) -> bytes | None:
        """What a command prints elsewhere, until it ends; who does not read here meanwhile makes it wait for room."""
        reading = threading.Thread(target=self.rest)
        reading.start()
        try:
            return process.communicate(timeout=seconds)[0]
        finally:
            process.kill()
            reading.join()


WIDE = os.environ | {"COLUMNS": "200", "TERM": "xterm"}


def here(capfd, *arguments) -> tuple[int, str, str]:
    """The same in this process, which spares importing PyTorch again."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert signal.getsignal(signal.SIGINT) is before
    return end.value.code or 0, *capfd.readouterr()


def files(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"prose.txt"}


def without_timing(document: bytes) -> dict:
    data = json.loads(document)
    assert data.pop("timing").keys() == {"seconds", "processes", "steps_per_second", "microseconds_per_session_step"}
    return data


# compare


@pytest.mark.slow
def test_compare_gives_the_same_numbers_again_and_writes_what_it_was_asked_for(folder, capfd):
    options = [*SMALL, "--budget", "3steps", "--save", "w.safetensors"]
    status, out, err = run("compare", "prose.txt", *options, "--json", "-")
    assert status == 0
    assert files(folder) == {"w.safetensors"}
    assert "clearly better than" in err
    assert "unigram" in err

    status, text, _ = here(capfd, "compare", "prose.txt", *options, "--json", "r.json", "--plot", "curves.svg")
    assert status == 0
    assert files(folder) == {"w.safetensors", "r.json", "curves.svg"}
    assert "µs per step" in text
    data = without_timing((folder / "r.json").read_bytes())
    assert data == without_timing(out)

    assert (data["format"], data["version"], data["stopped_early"], data["step"]) == ("treadle compare", 1, None, 3)
    assert data["text"]["name"] == "prose.txt"
    assert data["text"]["training_bytes"] + data["text"]["held_out_bytes"] == len(PROSE)
    assert data["settings"]["seeds"] == [0, 1]
    assert 0 < data["baselines"]["gzip"] < data["baselines"]["unigram"] < 8
    assert {one["wiring"] for one in data["results"]} == {"stack", "skip"}
    for one in data["results"]:
        assert abs(one["parameters"] - 25_000) <= 500
        assert one["curve"]["steps"] == [1, 2, 3]
        assert [curve[-1] for curve in one["curve"]["by_seed"]] == one["bits_per_byte"]["by_seed"]
        assert 2 < one["bits_per_byte"]["mean"] < 8
    first, second = (one["bits_per_byte"]["mean"] for one in data["results"])
    assert first <= second

    winner = td.load("w.safetensors")
    by_seed = data["results"][0]["bits_per_byte"]["by_seed"]
    assert data["winner"]["wiring"] == data["results"][0]["wiring"]
    assert data["winner"]["seed"] == by_seed.index(min(by_seed))
    assert bits_per_byte(winner, read_text("prose.txt").scored_rows()) == pytest.approx(min(by_seed), rel=1e-6)
    picture = (folder / "curves.svg").read_text()
    assert all(name in picture for name in ("stack", "skip", "unigram", "gzip"))


@pytest.mark.slow
def test_ctrl_c_still_prints_the_table_and_saves(folder):
    # Two workers with 2 runs of 400 steps each, measured every 50. However unequally they advance: of 900 steps one
    # can have done 800 at most, so the other has brought both its runs to their first measurement.
    options = [*SMALL, "--budget", "400steps", "--json", "r.json"]
    err = Terminal()
    process = command("compare", "prose.txt", *options, start_new_session=True, stderr=err.writer, env=WIDE)
    err.until(lambda seen: re.search(rb"(9\d\d|1[0-4]\d\d)/1600", seen))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    out, seen = err.until_the_end(process), err.seen
    assert process.returncode == 130, seen
    assert b"Traceback" not in seen
    assert "Interrupted: results are from step " in out.decode()
    assert "skip" in out.decode()
    data = json.loads((folder / "r.json").read_bytes())
    assert data["stopped_early"] == "interrupted"
    assert 50 <= data["step"] < 400
    assert files(folder) == {"r.json", "treadle-winner.safetensors"}


@pytest.mark.slow
def test_ctrl_c_before_there_is_anything_to_compare_says_so(folder):
    process = command("compare", "prose.txt", *SMALL, "--budget", "100000steps", start_new_session=True)
    assert process.stdout is not None
    assert b"Training 2 networks x 2 seeds" in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"treadle: interrupted before every network had reached step 12500" in err
    assert files(folder) == set()


@pytest.mark.slow
def test_a_budget_that_a_busy_machine_cannot_keep_ends_in_time(folder, capfd, monkeypatch):
    monkeypatch.setattr("treadle.recipes.compare.plan.SHARE", 1000)  # plans far too much, as for a much faster machine
    budget = 14
    status, out, err = here(capfd, "compare", "prose.txt", *SMALL, "--budget", f"{budget}s", "--json", "r.json")
    if status == 2:  # busier still
        assert "before every network had reached step" in err
        return
    assert status == 0
    data = json.loads((folder / "r.json").read_bytes())
    assert data["stopped_early"] == "deadline"
    assert data["step"] < data["settings"]["steps"]
    assert f"--budget {data['settings']['steps']}steps" in out.replace("\n", " ")


# fit, run, show


def test_fit_run_and_resume(folder, capfd):
    options = ["--cell", "gru", "--wiring", "residual", "--parameters", "25000", "--window", "8"]
    status, out, err = here(capfd, "fit", "prose.txt", "-o", "m.safetensors", *options, "--budget", "40steps")
    assert status == 0
    bits = float(out.split(": ")[1].split(" bits")[0])
    assert bits == pytest.approx(
        bits_per_byte(td.load("m.safetensors"), read_text("prose.txt").scored_rows()), abs=6e-4
    )
    assert "40 steps" in out
    assert "bits/byte" in err

    more = [
        "fit",
        "prose.txt",
        "-o",
        "m2.safetensors",
        "--resume",
        "m.safetensors",
        "--window",
        "8",
        "--budget",
        "40steps",
    ]
    assert here(capfd, *more)[0] == 0
    rows = read_text("prose.txt").scored_rows()
    assert bits_per_byte(td.load("m2.safetensors"), rows) < bits_per_byte(td.load("m.safetensors"), rows)

    status, written, err = run("run", "m2.safetensors", "--prompt", "the ", "--bytes", "50")
    assert (status, err) == (0, "")
    assert written.startswith(b"the ")
    assert len(written) == 54
    assert here(capfd, "run", "m2.safetensors", "--prompt", "the ", "--bytes", "50")[1].encode() == written
    assert files(folder) == {"m.safetensors", "m2.safetensors"}


def test_ctrl_c_in_fit_saves_what_is_learned(folder):
    options = ["--parameters", "25000", "--window", "4", "--budget", "1h"]
    err = Terminal()
    process = command("fit", "prose.txt", "-o", "m.safetensors", *options, stderr=err.writer, env=WIDE)
    err.until(lambda seen: re.search(rb"step \d+  loss", seen))
    process.send_signal(signal.SIGINT)
    out = err.until_the_end(process)
    assert b"the network trained so far is saved" in err.seen
    assert process.returncode == 130
    assert b"bits per byte of held-out text, after" in out
    td.load("m.safetensors")


def test_fit_keeps_its_time(folder, capfd):
    options = ["--parameters", "25000", "--window", "4", "--budget", "0.01s"]
    assert "after 1 steps" in here(capfd, "fit", "prose.txt", "-o", "m.safetensors", *options)[1]


def test_a_diverged_training_is_not_saved(folder, capfd):
    options = ["--cell", "indrnn", "--parameters", "25000", "--learning-rate", "inf", "--budget", "5steps"]
    status, _, err = here(capfd, "fit", "prose.txt", "-o", "m.safetensors", *options)
    assert status == 2
    assert "pass a smaller --learning-rate" in err
    assert files(folder) == set()


@pytest.mark.slow
def test_run_is_quiet_when_its_reader_leaves(saved_model):
    with command("run", saved_model, "--bytes", "1000000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        os.read(process.stdout.fileno(), 10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.slow
def test_a_terminal_gets_no_control_characters(saved_model):
    terminal = Terminal()
    process = command("run", saved_model, "--bytes", "400", "--temperature", "1", stdout=terminal.writer)
    terminal.until_the_end(process)
    text = terminal.seen.decode().replace("\r\n", "\n")
    assert process.returncode == 0
    assert "�" in text  # an untrained model writes all kinds of bytes
    assert all(character.isprintable() or character in "\n\t" for character in text)


def test_show_draws_models_and_wirings(folder, saved_model, capfd):
    assert here(capfd, "show", saved_model, "-o", "model.svg") == (0, "", "")
    assert here(capfd, "show", "relay", "-o", "relay.png") == (0, "", "")
    assert files(folder) == {"model.svg", "relay.png"}
    assert "layer1" in (folder / "model.svg").read_text()


def test_show_explains_models_and_wirings(folder, saved_model, capfd):
    status, out, err = here(capfd, "show", "relay", "--explain")
    assert (status, err) == (0, "")
    assert out.startswith("Recurrent(Stack) runs as machine code: 3 loops\n")
    assert here(capfd, "show", saved_model, "--explain", "-o", "model.svg")[0] == 0
    assert files(folder) == {"model.svg"}


# The command itself


def test_version_and_help(capfd):
    assert here(capfd, "--version") == (0, f"treadle {td.__version__}\n", "")
    for arguments in ([], ["--help"]):
        status, out, err = here(capfd, *arguments)
        assert (status, err) == (0, "")
        assert all(name in out for name in ("compare", "fit", "run", "show"))


BAD = {
    "compare nothing.txt": "nothing.txt: No such file or directory",
    "compare .": ".: Is a directory",
    "compare empty.txt": "empty.txt is empty: pass a text file",
    "compare short.txt": "short.txt has 100 bytes, but 1,290 are needed: 32 rows x (16 bytes + 1) = 544",
    "compare prose.txt --window 1000": "prose.txt has 3,960 bytes, but 35,591 are needed",
    "compare prose.txt --wiring stack,stak": "--wiring: there is no 'stak'; choose from stack, relay",
    "compare prose.txt --wiring ,": "--wiring: there is no ''",
    "compare prose.txt --cell lsmt": "--cell: there is no 'lsmt'; choose from lstm, gru",
    "compare prose.txt --layers 0": "'--layers'",
    "compare prose.txt --layers two": "'--layers'",
    "compare prose.txt --seeds 0": "'--seeds'",
    "compare prose.txt --parameters 10": "cannot have 10 parameters to within 2%",
    "compare prose.txt --budget fast": "--budget: a budget is a time such as 90s",
    "compare prose.txt --budget 1s": "1s is too short for 21 networks (7 kinds x 3 seeds): give at least",
    "compare prose.txt --json no/r.json": "--json: there is no folder no",
    "compare prose.txt --json .": "--json: . is a folder",
    "compare prose.txt --plot curves.pdf": "--plot: curves.pdf must end in .svg or .png",
    "compare prose.txt --save prose.txt": "--save: prose.txt is the input already",
    "compare prose.txt --json a.svg --plot a.svg": "--plot: a.svg is the file of --json already",
    "compare prose.txt --color": "--color",
    "compare prose.txt more.txt": "more.txt",
    "fit prose.txt": "'--output'",
    "fit empty.txt -o m.safetensors": "empty.txt is empty",
    "fit short.txt -o m.safetensors": "short.txt has 100 bytes, but 2,311 are needed",
    "fit prose.txt -o no/m.safetensors": "--output: there is no folder no",
    "fit prose.txt -o prose.txt": "--output: prose.txt is the input already",
    "fit prose.txt -o m.safetensors --cell lsmt": "--cell: there is no 'lsmt'; choose one of lstm, gru",
    "fit prose.txt -o m.safetensors --resume prose.txt": "prose.txt is not a whole safetensors file",
    "fit prose.txt -o m.safetensors --resume cell.safetensors": "cell.safetensors is not a byte-level language model",
    "fit prose.txt -o m.safetensors --resume cell.safetensors --layers 3": "--layers: the network of --resume",
    "run nothing.safetensors": "nothing.safetensors: No such file or directory",
    "run .": ".: Is a directory",
    "run prose.txt": "prose.txt is not a whole safetensors file",
    "run cell.safetensors": "but a LSTMCell: make one with 'treadle fit FILE -o MODEL'",
    "run sequence.safetensors": "but a Recurrent from rows of 3 to rows of 4 features",
    "run MODEL --prompt=": "the prompt is empty",
    "run MODEL --temperature -1": "temperature is 0 or a positive number, but is -1.0",
    "run MODEL --bytes -1": "'--bytes'",
    "show nothing -o a.svg": "there is neither a file nor a wiring 'nothing'; the wirings are stack",
    "show stack": "'--output'",
    "show stack -o a.gif": "--output: a.gif must end in .svg or .png",
    "show stack -o no/a.svg": "--output: there is no folder no",
    "show stack -o a.svg --steps 0": "'--steps'",
    "show prose.txt -o a.svg": "prose.txt is not a whole safetensors file",
    "weave": "weave",
    "--colour": "--colour",
}


@pytest.mark.share(23)
@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_with_status_2_and_leaves_no_file(line, folder, saved_model, capfd, monkeypatch):
    # The race itself is not what is tested here, and its processes take seconds to start.
    monkeypatch.setattr("treadle.recipes.compare.race.Workers.__init__", no_processes)
    (folder / "empty.txt").touch()
    (folder / "short.txt").write_bytes(bytes(100))
    model_file.save("cell.safetensors", td.LSTMCell(3, 4))
    model_file.save("sequence.safetensors", td.Recurrent(td.LSTMCell(3, 4)))
    before = files(folder)
    status, out, err = here(capfd, *(saved_model if word == "MODEL" else word for word in line.split()))
    assert status == 2
    assert err.startswith("treadle: ")
    assert err.count("\n") == 1
    assert BAD[line] in err
    assert out == ""
    assert files(folder) == before
    assert (folder / "prose.txt").read_bytes() == PROSE


def no_processes(workers, count):
    workers.count = count
    workers._processes = workers._connections = []


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(folder, capfd, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write anywhere, so this is how to be refused
    status, _, err = here(capfd, "fit", "prose.txt", "-o", "m.safetensors")
    assert (status, err) == (2, "treadle: --output: cannot write to the folder .: Permission denied\n")


def test_ctrl_c_while_it_is_imported_ends_it_without_a_word(folder):
    words = [sys.executable, "-X", "importtime", "-m", "treadle.cli", "cache"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen = b""
    while b"treadle.starting\n" not in seen:
        seen = process.stderr.readline()
        assert seen
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in rest
