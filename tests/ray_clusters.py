"""Clusters of Ray for tests: small, on this machine, gone with the test."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'treadle[ray]' -c constraints.txt",
)

needs_cluster = pytest.mark.skipif(
    "TREADLE_CLUSTERS" not in os.environ, reason="starts a cluster of Ray, for minutes: make clusters"
)

SOURCE = str(Path(__file__).parents[1] / "src")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def started_cluster(cpus=2):
    """``ray start --head`` as another process; gives the environment in which commands find it."""
    environment = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # it is reached from this machine alone, and holds nothing
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": SOURCE,
    }
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
    limits = ["--num-cpus", str(cpus), "--object-store-memory", str(100 << 20), "--include-dashboard", "false"]
    place = ["--node-ip-address", "127.0.0.1", "--port", address.partition(":")[2]]
    options = {"env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([*command, *limits, *place], start_new_session=True, **options) as process:
        try:
            said = ""
            for line in process.stdout:
                said += line
                if "Ray runtime started" in line:
                    break
            assert process.poll() is None, said
            yield environment | {"RAY_ADDRESS": address}
        finally:
            for one in [*descendants(process.pid), process.pid]:  # Ray itself takes a minute for it
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            process.communicate(timeout=30)


def descendants(process):
    """The processes that a process has started, and those that these have."""
    found = []
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child, *descendants(child)]
    return found


def processes_called(title, environment):
    """The processes of a cluster whose title begins with these letters, by number."""
    found, mark = [], f":{environment['RAY_ADDRESS'].partition(':')[2]}\0".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(title.encode()):
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if mark in Path(f"/proc/{parent}/cmdline").read_bytes():
                    found.append(int(process.name))
    return found
