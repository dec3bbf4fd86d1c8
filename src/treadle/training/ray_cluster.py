"""A cluster of Ray: the one that there is, or one on this machine for as long as it is used."""

import contextlib
import importlib.util
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from treadle.errors import TreadleError


def check_installed() -> None:
    """Refuse to begin without Ray."""
    if importlib.util.find_spec("ray") is None:
        raise TreadleError("Ray is not installed: pip install 'treadle[ray]'")


@contextlib.contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """Ray, without its own words about how it goes; one that is started here ends here.

    It is the one that ``RAY_ADDRESS`` names, or one that runs on this machine, or a new one (``RAY_ADDRESS=local``:
    always a new one).

    Args:
        cpus: how many CPUs a new one has at least.

    Raises:
        TreadleError: Ray is not installed.
        ConnectionError: ``RAY_ADDRESS`` names a cluster that does not answer.
    """
    check_installed()
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will be; until then Ray warns of it
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = os.environ.get("RAY_ADDRESS") or ("local" if _last_one_is_gone() else "auto")
    try:
        if address == "local":
            raise ConnectionError
        ray.init(address=address, **quiet)
    except ConnectionError:
        if address not in ("local", "auto"):
            raise
        ray.init(address="local", num_cpus=max(cpus, os.cpu_count() or 1), include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _last_one_is_gone() -> bool:
    """Whether Ray has noted down a cluster of this machine that answers no more: it would wait for that for minutes."""
    note = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    with contextlib.suppress(OSError):
        host, _, port = note.read_text().strip().rpartition(":")
        if not port.isdigit():
            return False
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return False
        return True
    return False


class Line:
    """An actor: what workers have said and the caller has not heard yet; and whether the caller wants to stop."""

    def __init__(self):
        self.said: list[Any] = []
        self.kept: dict[str, Any] = {}
        self.stopped = False

    def tell(self, said: list[Any]) -> bool:
        """Say something; whether to stop."""
        self.said += said
        return self.stopped

    def hear(self, stop: bool) -> list[Any]:
        """All that was said since, and that it is time to stop, if it is."""
        self.stopped |= stop
        said, self.said = self.said, []
        return said

    def keep(self, name: str, content: Any) -> None:
        """Keep something in place of what had this name, for a worker that takes the place of another."""
        self.kept[name] = content

    def kept_as(self, name: str) -> Any:
        """What was kept by a name; None if nothing was."""
        return self.kept.get(name)


def open_line() -> Any:
    """A line to those who run on the cluster; its methods are called by ``ray.get(line.tell.remote(…))``."""
    import ray

    remote: Any = ray.remote(num_cpus=0)(Line)
    return remote.remote()
