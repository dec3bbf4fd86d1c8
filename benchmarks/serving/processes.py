"""Hosts and clients as processes: how they are started, asked and ended, and what CPU a host has used."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


class Started:
    """A process that says in lines of JSON what it has to say.

    Args:
        command: what follows Python, or a whole command.
        python: which one; None for that of this process.
        given: a first line of JSON on its input, for what is too long for a command; None for none.

    Attributes:
        said: the first line.

    Raises:
        RuntimeError: it ends without one.
    """

    def __init__(self, *command: str, python: str | None = None, given: Any = None):
        self._process = subprocess.Popen(
            [python or sys.executable, *command], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if given is not None:
            self._write(given)
        self.said: Any = self._line()

    def ask(self, **what: Any) -> Any:
        """Write a line, read one."""
        self._write(what)
        return self._line()

    def _write(self, what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(map(str, self._process.args))[:120]} ended with {self._process.wait()}")  # pyright: ignore

    def cpu_seconds(self) -> float:
        """What all its threads have used so far."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        return sum(int(one.read_text().split()[0]) for one in tasks.glob("*/schedstat")) / 1e9

    def resident_bytes(self) -> int:
        """The memory that it holds."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def host(kind: str, H: int, **options: Any) -> Started:
    """A server of a network, or its echo."""
    return Started("-m", "benchmarks.serving.host", json.dumps({"kind": kind, "H": H, "options": options}))


def clients(kind: str, server: Started, x: Sequence[Sequence[float]], count: int) -> Started:
    """Clients of a server, connected."""
    address = server.said["grpc" if kind.startswith("gRPC") else "http"].removeprefix("http://")
    given = {"kind": kind, "address": address, "x": x, "clients": count}
    return Started("-m", "benchmarks.serving.open_loop", given=given)


def openings(server: Started, x: Sequence[Sequence[float]]) -> Started:
    """Clients that begin and end sequences, connected."""
    given = {"address": server.said["http"].removeprefix("http://"), "x": x}
    return Started("-m", "benchmarks.serving.openings", given=given)
