"""Training commands that are killed; this module is run as a process of its own, whose children they are.

Children are forked from a process that has imported everything and started nothing, so that each costs no start.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import treadle.recipes.imitate
import treadle.recipes.translate  # noqa: F401
from treadle.cli import fitting, main
from treadle.recipes.decode import decoder_training
from treadle.recipes.segment import vgg_features

PROSE = b"Now is the time for all good men to come to the aid of the party. " * 120
STEPS = "--checkpoint run --checkpoint-every 2steps"
SMALL = "-o m.safetensors --parameters 10000 --layers 1 --patience 9"
COMMANDS = {
    "fit a text": f"fit t.txt -o m.safetensors --parameters 25000 --window 5 --budget 12steps {STEPS}",
    "fit series": f"fit s.csv {SMALL} --target y --inputs y,z --horizon 2 --rows 4 --budget 12steps {STEPS}",
    "fit sequences": f"fit s.ts {SMALL} --rows 4 --budget 24steps {STEPS}",
    "translate": f"translate p.tsv -o m.safetensors --hidden-size 6 --rows 5 --budget 12steps {STEPS}",
    "imitate": "imitate increment -o m.safetensors --traces 40 --cells 5 --hidden-size 6 --tests 0 --budget 30steps"
    f" {STEPS}",
    "decode": "decode --learn m.safetensors --budget 8epochs --checkpoint run --checkpoint-every 3steps",
    "segment": "segment fit scenes -o m.safetensors --size 32 --scenes 6 --rows 2 --budget 6steps --trunk v.pth"
    f" --width 4 {STEPS}",
    "compare on a text": "compare t.txt --cell zoneout --parameters 25000 --window 4 --wiring stack,skip --seeds 1"
    " --budget 80steps --save m.safetensors --json c.json --checkpoint run",
    "compare on series": "compare s.csv --target y --horizon 1 --layers 1 --parameters 5000 --wiring stack,skip"
    " --seeds 1 --budget 60steps --save m.safetensors --json c.json --checkpoint run",
}
"""Each in less than a second or two, processes of comparisons apart."""


def made(folder: Path) -> Path:
    """A folder with the data."""
    folder.mkdir(parents=True)
    rows = [f"{i},{(i * 7) % 13 + i % 3},{i * 2}" for i in range(120)]
    (folder / "s.csv").write_text("year,y,z\n" + "\n".join(rows) + "\n")
    cases = [",".join(str((i * k) % 5) for k in range(1, 4 + i % 3)) for i in range(40)]
    header = "@problemName p\n@univariate true\n@classLabel true a b\n@data\n"
    (folder / "s.ts").write_text(header + "".join(f"{case}:{'ab'[i % 2]}\n" for i, case in enumerate(cases)))
    pairs = [f"{letter * n}\t{letter.upper()}{n}\n" for letter in "abcdef" for n in range(1, 6)]
    (folder / "p.tsv").write_text("".join(pairs))
    (folder / "t.txt").write_bytes(PROSE)
    torch.manual_seed(0)
    state = vgg_features(channels=(4, 4, 6, 6, 8)).state_dict()
    torch.save({f"features.{name}": tensor for name, tensor in state.items()}, folder / "v.pth")
    return folder


def begun(words: str, folder: Path) -> int:
    """A command in a child, which notes down each step in ``steps``."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.chdir(folder)
            os.setsid()
            quiet = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            steps = os.open("steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            fitting.Watch.follow = noting(fitting.Watch.follow, steps)
            decoder_training.PRESSES, decoder_training.WINDOW = 30, 10
            decoder_training.Learning.__init__.__kwdefaults__["users"] = 3
            sys.modules["treadle.cli.segment"].JUDGES = 1
            main(words.split())
        except SystemExit as end:
            status = end.code or 0
        finally:
            os._exit(status)
    return pid


def noting(follow: Callable, file: int) -> Callable:
    def noted(watch, step, *rest):
        os.write(file, f"{step.step} {step.loss.hex()} {step.score}\n".encode())
        follow(watch, step, *rest)

    return noted


def ended(pid: int, seconds: float | None = None) -> bool:
    """Whether a child ends well in so many seconds; without them, it must."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is None or time.monotonic() < deadline:
        done, status = os.waitpid(pid, 0 if deadline is None else os.WNOHANG)
        if done:
            assert status == 0, f"ended with status {os.waitstatus_to_exitcode(status)}"
            return True
        time.sleep(0.001)
    return False


def results(folder: Path) -> tuple[object, bytes, object]:
    """What a command has written: the header of the model file, whose order is not fixed, its numbers, the rest."""
    found = json.loads((folder / "c.json").read_text()) if (folder / "c.json").exists() else {}
    found.pop("timing", None)
    model = (folder / "m.safetensors").read_bytes()
    numbers = 8 + int.from_bytes(model[:8], "little")
    return json.loads(model[8:numbers]), model[numbers:], found


def noted(folder: Path) -> dict[str, set[str]]:
    """What was noted down of each step, by all who took it."""
    found = dict[str, set[str]]()
    for line in (folder / "steps").read_text().splitlines():
        step, rest = line.split(" ", 1)
        found.setdefault(step, set()).add(rest)
    return found


def killed(name: str, folder: Path, times: int) -> None:
    """A command that is killed at random moments and started again: all is as if it had not been."""
    words, whole = COMMANDS[name], made(folder / "whole")
    start = time.monotonic()
    ended(begun(words, whole))
    seconds = time.monotonic() - start
    wanted, dice, kills, runs = results(whole), random.Random(name), 0, 0
    while kills < times or runs == 0:
        place = made(folder / str(runs))
        while True:
            pid = begun(words, place)
            if kills < times:
                if not ended(pid, dice.uniform(0, seconds)):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    kills += 1
                    continue
            else:
                ended(pid)
            break
        assert results(place) == wanted, f"after {kills} kills, {name} has made something else"
        if words.split()[0] != "compare":
            assert noted(place) == noted(whole), f"after {kills} kills, {name} has taken other steps"
        left = {path.name for path in place.iterdir()} - {path.name for path in whole.iterdir()}
        assert left <= {"run.previous"}, left
        runs += 1
        with contextlib.suppress(OSError):
            shutil.rmtree(place)
    print("killed", kills, "times")


if __name__ == "__main__":
    torch.set_num_threads(1)
    killed(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
