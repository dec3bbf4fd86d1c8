"""Replicas on a cluster of Ray, each of them the whole application: what makes them one server is their store.

A request is led to a replica by consistent hashing of its header ``x-session-id``: whoever sends the id of the sequence
there meets the same replica again, and when one comes or goes, only its share of the sequences moves. Whoever does not
is served by any of them, as the store lets a sequence be anywhere, and pays for the reading of its state.
"""

import hashlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from treadle import __version__
from treadle.errors import DataError, TreadleError
from treadle.serving.addresses import Address
from treadle.serving.application import application_of
from treadle.serving.dataplane import Dataplane
from treadle.serving.gate import Gate
from treadle.serving.options import Options
from treadle.serving.server import Certificates
from treadle.serving.stores import open_store
from treadle.serving.tokens import Tokens
from treadle.training.ray_cluster import check_installed, cluster

NAME = "treadle"
"""Of the application in Ray Serve."""

SPARE = 256
"""Requests that a replica takes beyond those that wait in its queues, so that it refuses them itself."""


def ray_application(
    models: Mapping[str, Any],
    options: Options | None = None,
    *,
    keep: str,
    tokens: Mapping[str, str] | None = None,
    origins: Collection[str] = (),
    replicas: int = 2,
) -> Any:
    """An application of Ray Serve that serves models as `application` does, by several replicas with a CPU each.

    Run it by ``ray.serve.run``; ``treadle serve --on ray`` does.

    Args:
        models: by name: a network, or the file of one, which has to lie where all machines see it.
        options: schedule and limits, of each replica.
        keep: where states are kept: a folder that all machines see, or ``redis://…``.
        tokens: by token, whose it is; None lets everybody in.
        origins: of web pages that may ask, as in `application`.
        replicas: how many there are.

    Raises:
        DataError: ``keep_every`` is not 1: a sequence that moves would lose steps.
        TreadleError: Ray Serve is not installed.

    Example:
        ::

            app = ray_application({"heat": "heat.safetensors"}, keep="redis://store")
            ray.serve.run(app, name="treadle", route_prefix="/")
    """
    gate = Gate(Tokens(None if tokens is None else dict(tokens)), origins)
    return deployed(models, options or Options(), gate, keep, replicas)


def deployed(models: Mapping[str, Any], options: Options, gate: Gate, keep: str, replicas: int) -> Any:
    """The same, by who is let in."""
    if options.keep_every != 1:
        raise DataError(
            f"`keep_every={options.keep_every}`, but a sequence can move to another replica at any step: leave it at 1"
        )
    check_installed()
    try:
        from ray import serve
    except ImportError as error:
        raise TreadleError(f"Ray Serve is not installed ({error}): pip install 'treadle[ray]'") from None
    found = {name: _absolute(source) for name, source in models.items()}
    keep = keep if "://" in keep else os.path.abspath(keep)
    deployment = serve.deployment(
        name=NAME,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 1},
        max_ongoing_requests=options.queue * len(models) + SPARE,
        graceful_shutdown_timeout_s=30,
        request_router_config={
            "request_router_class": "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter",
            "request_router_kwargs": {"num_fallback_replicas": 0},  # the owner's answer is worth waiting for
        },
    )(serve.ingress(_builder(found, options, gate, keep))())
    if all(isinstance(source, str) for source in found.values()):
        # With the same version, another number of replicas leaves those alone that there are.
        deployment = deployment.options(version=_version(found, options, gate, keep), _internal=True)
    return deployment.bind()


def _version(models: Mapping[str, str], options: Options, gate: Gate, keep: str) -> str:
    let_in = vars(gate.tokens), sorted(gate.origins), gate.local
    said = repr((sorted(models.items()), options, let_in, keep, __version__))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _absolute(source: Any) -> Any:
    return os.path.abspath(source) if isinstance(source, (str, Path)) else source


def _builder(models: Mapping[str, Any], options: Options, gate: Gate, keep: str) -> Callable[[], Any]:
    """What each replica makes its application by."""

    def build() -> Any:
        torch.set_num_threads(1)
        return Named(application_of(Dataplane(models, options, open_store(keep)), gate))

    return build


class Named:
    """An ASGI application that says in each answer, by ``x-replica``, who gave it."""

    def __init__(self, app: Any):
        from ray import serve

        self.app, self.name = app, serve.get_replica_context().replica_id.unique_id.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI's door."""

        async def named(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"x-replica", self.name)]}
            await send(message)

        await self.app(scope, receive, named if scope["type"] == "http" else send)


def run_on_ray(
    app: Any, replicas: int, address: Address, certificates: Certificates | None, ready: Callable[[bool], None]
) -> None:
    """Serve what `ray_application` gave until SIGTERM or SIGINT, on the cluster that there is, or on one for as long.

    Where the cluster serves it already, only the number of replicas changes, and this returns.

    Args:
        app: the application.
        replicas: how many it has.
        address: where each machine with a replica listens for HTTP.
        certificates: for TLS.
        ready: is called once everybody can be answered; with whether it was served before.
    """
    with cluster(replicas):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        was_there = NAME in serve.status().applications
        if not was_there:
            http: dict[str, Any] = {"host": address.host, "port": address.port}
            if certificates is not None:
                http |= {"ssl_certfile": str(certificates.certificate), "ssl_keyfile": str(certificates.key)}
            serve.start(proxy_location="EveryNode", http_options=http)
        serve.run(app, name=NAME, route_prefix="/")
        over = threading.Event()
        before = {one: signal.signal(one, lambda *_: over.set()) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            ready(was_there)
            if not was_there:
                over.wait()
                serve.delete(NAME)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
