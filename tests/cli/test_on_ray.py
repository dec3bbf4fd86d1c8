"""What runs on a cluster of Ray: the numbers are those of this machine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import treadle as td
from tests.ray_clusters import needs_cluster, needs_ray, processes_called, started_cluster

pytestmark = [pytest.mark.slow, needs_ray, needs_cluster]
PROSE = b"Now is the time for all good men to come to the aid of the party. " * 120
COMPARE = "compare prose.txt --cell zoneout --parameters 25000 --window 4".split()


@pytest.fixture(scope="module")
def cluster():
    with started_cluster(cpus=2) as environment:
        yield environment


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "prose.txt").write_bytes(PROSE)
    return tmp_path


def command(folder, *words, env=None):
    options = {"cwd": folder, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "treadle", *words], env=env, **options)


def run(folder, *words, env=None):
    with command(folder, *words, env=env) as process:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, err
        return out


def test_compare_gives_the_numbers_of_this_machine_though_a_trial_dies(folder, cluster):
    words = [*COMPARE, "--wiring", "stack,skip", "--seeds", "1", "--budget", "400steps"]
    with command(folder, *words, "--on", "ray", "--json", "there.json", env=cluster) as process:
        deadline, trials = time.monotonic() + 200, []
        while not trials and process.poll() is None and time.monotonic() < deadline:
            trials = [one for one in processes_called("ray::ImplicitFunc.train", cluster) if _seconds(one) > 4]
            time.sleep(0.05)
        assert trials, "there was no trial"
        os.kill(trials[0], signal.SIGKILL)
        assert process.wait(280) == 0, process.stderr.read()
    run(folder, *words, "--json", "here.json")
    here, there = (json.loads((folder / name).read_text()) for name in ("here.json", "there.json"))
    assert here.pop("timing")["processes"] == len(os.sched_getaffinity(0))
    there.pop("timing")
    assert here == there


def _seconds(process):
    """Seconds of a CPU that a process has had."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[11]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def test_asha_stops_networks_early_and_changes_no_number(folder, cluster):
    words = [*COMPARE, "--wiring", "stack,skip,dense", "--seeds", "2", "--budget", "16steps"]
    out = run(folder, *words, "--on", "ray", "--reduction-factor", "2", "--json", "there.json", env=cluster)
    run(folder, *words, "--json", "here.json")
    here, there = (json.loads((folder / name).read_text())["results"] for name in ("here.json", "there.json"))
    full = {one["wiring"]: one["curve"] for one in here}
    lengths = []
    for one in there:
        curve = one["curve"]
        lengths.append(len(curve["steps"]))
        for figures in ("steps", "mean"):
            assert curve[figures] == full[one["wiring"]][figures][: lengths[-1]]
        assert one["bits_per_byte"]["mean"] == curve["mean"][-1]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 8 > lengths[-1]
    assert "ASHA stopped early, at the step in brackets: " in out


def test_compare_on_series_gives_the_numbers_of_this_machine(folder, cluster):
    rows = [f"{i},{(i * 7) % 13 + i % 3}" for i in range(120)]
    (folder / "s.csv").write_text("t,y\n" + "\n".join(rows) + "\n")
    words = ["compare", "s.csv", "--target", "y", "--layers", "1", "--parameters", "5000", "--wiring", "stack,skip"]
    words += ["--seeds", "2", "--budget", "9steps"]
    run(folder, *words, "--json", "here.json")
    there = [*words, "--on", "ray", "--checkpoint", "kept", "--json", "there.json"]
    run(folder, *there, env=cluster)
    assert (folder / "there.json").read_text() == (folder / "here.json").read_text()
    kept = {path.name for path in (folder / "kept").iterdir()}
    assert {f"{wiring}-lstm-{seed}" for wiring in ("stack", "skip") for seed in (0, 1)} <= kept
    (folder / "there.json").unlink()
    run(folder, *there, env=cluster)  # nothing is left to train
    assert (folder / "there.json").read_text() == (folder / "here.json").read_text()


def test_fit_uses_the_cluster_that_there_is(folder, cluster):
    words = ["fit", "prose.txt", "--parameters", "25000", "--window", "8", "--budget", "4steps"]
    run(folder, *words, "-o", "here.safetensors")
    run(folder, *words, "-o", "there.safetensors", "--on", "ray", "--workers", "1", env=cluster)
    here, there = (td.load(folder / f"{name}.safetensors").state_dict() for name in ("here", "there"))
    assert here.keys() == there.keys()
    for name, weight in here.items():
        torch.testing.assert_close(there[name], weight)
