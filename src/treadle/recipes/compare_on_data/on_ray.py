"""Fits on many machines: tasks of Ray, a CPU each; one whose machine is gone begins again elsewhere."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, TypeVar

from treadle.recipes.compare.plan import available_cores
from treadle.training.ray_cluster import check_installed, cluster

RESTARTS = 3
"""How often a fit whose machine is gone is begun again."""

T = TypeVar("T")


class RayPool:
    """The cluster of Ray that there is, or one for as long as it is needed; what fits read, all its machines see.

    Raises:
        TreadleError: Ray is not installed.
    """

    def __init__(self):
        check_installed()
        import ray

        self._stack, self._running = ExitStack(), list[Any]()
        self._stack.enter_context(cluster(available_cores()))
        self.count = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def submit(self, work: Callable[..., T], /, *arguments: Any) -> "Future[T]":
        """Begin something, as soon as there is room."""
        import ray

        remote: Any = ray.remote(num_cpus=1, max_retries=RESTARTS)(work)
        self._running.append(remote.remote(*arguments))
        return self._running[-1].future()

    def shutdown(self) -> None:
        """End whatever still runs."""
        import ray

        for one in self._running:
            ray.cancel(one, force=True)
        self._stack.close()
