"""A server that listens: HTTP, gRPC and metrics on one event loop, until it is told to end."""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from treadle.atomic import regular
from treadle.errors import DataError, TreadleError
from treadle.serving.addresses import Address
from treadle.serving.application import application_of
from treadle.serving.connections import strict
from treadle.serving.dataplane import Dataplane
from treadle.serving.gate import Gate
from treadle.serving.metrics import metrics_application

logger = logging.getLogger("treadle.serving")

MOST_CONNECTIONS = 8192
SWITCH_INTERVAL = 5e-4
"""Seconds; measured: a step over gRPC takes a tenth less CPU than with Python's own 5 ms."""


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Files of a certificate and its key, as PEM."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Refuse files that are no certificate and its key, before a server that has to read them is made.

        Raises:
            DataError: they are not, or the key has a password.
            OSError: one cannot be read.
        """
        paths = regular(self.certificate), regular(self.key)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths, password=lambda: b"")
        except (ssl.SSLError, ValueError) as error:
            raise DataError(
                f"{self.certificate} and {self.key} are not a certificate and its key: name PEM files, the key without"
                f" a password ({error})"
            ) from None


class Server:
    """Listens on addresses, from when it is made; serves while `run` runs.

    Args:
        plane: what is served.
        gate: who is let in.
        http: where to listen for HTTP and WebSockets; None for nowhere.
        grpc: where to listen for gRPC; None for nowhere.
        metrics: where Prometheus asks; None for nowhere.
        certificates: for TLS, on all of them; None for none.

    Raises:
        TreadleError: a package of ``treadle[serve]`` is not installed.
        OSError: a port is taken.
    """

    def __init__(
        self,
        plane: Dataplane,
        gate: Gate,
        http: Address | None,
        grpc: Address | None = None,
        metrics: Address | None = None,
        certificates: Certificates | None = None,
    ):
        self.plane, self.gate, self.certificates = plane, gate, certificates
        self._http = None if http is None else http.listen("http")
        self._metrics = None if metrics is None else metrics.listen("metrics")
        self._grpc, self._grpc_port = grpc, 0
        self._stop: asyncio.Event | None = None

    @property
    def addresses(self) -> dict[str, str]:
        """Where clients find it."""
        scheme = "http" if self.certificates is None else "https"
        found = {}
        if self._http is not None:
            found["http"] = f"{scheme}://{_place(self._http)}"
        if self._grpc is not None:
            found["grpc"] = str(self._grpc._replace(port=self._grpc_port))
        if self._metrics is not None:
            found["metrics"] = f"{scheme}://{_place(self._metrics)}/metrics"
        return found

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT; ``ready`` is called once everybody can be answered."""
        # A thread that takes a long turn, and gRPC's own, wait less for the interpreter, which is otherwise handed on
        # only every 5 ms.
        sys.setswitchinterval(SWITCH_INTERVAL)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self.serve(ready))

    async def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, on the event loop that runs."""
        self._stop = asyncio.Event()
        self.plane.start()
        gc.collect()
        gc.freeze()  # what lives as long as the server need not be walked again and again
        with self._signals():
            async with contextlib.AsyncExitStack() as stack:
                if self._http is not None:
                    await stack.enter_async_context(self._serving(self._http, application_of(self.plane, self.gate)))
                if self._metrics is not None:
                    metrics = metrics_application(self.plane, self.gate)
                    await stack.enter_async_context(self._serving(self._metrics, metrics))
                if self._grpc is not None:
                    await stack.enter_async_context(self._serving_grpc(self._grpc))
                ready()
                await self._stop.wait()
                logger.info("ending: what is under way is finished, states are kept")
                await self.plane.stop()

    def stop(self) -> None:
        """Let it end, from the event loop."""
        assert self._stop is not None
        self._stop.set()

    @contextlib.asynccontextmanager
    async def _serving(self, listening: socket.socket, application: Any) -> AsyncIterator[None]:
        """A uvicorn server on a socket."""
        server = self._uvicorn(application)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not task.done():
            await asyncio.sleep(0.001)
        try:
            yield
        finally:
            server.should_exit = True
            await task

    @contextlib.asynccontextmanager
    async def _serving_grpc(self, address: Address) -> AsyncIterator[None]:
        try:
            from treadle.serving.grpc_server import grpc_server
            from treadle.serving.grpc_services import grpc_services
        except ImportError:
            raise TreadleError("grpcio is not installed: pip install 'treadle[serve]'") from None
        tls = None
        if self.certificates is not None:
            tls = self.certificates.key.read_bytes(), self.certificates.certificate.read_bytes()
        services = grpc_services(self.plane, self.gate.tokens)
        server, self._grpc_port = grpc_server(self.plane, services, address, tls)
        await server.start()
        try:
            yield
        finally:
            await server.stop(grace=2)

    def _uvicorn(self, application: Any) -> Any:
        try:
            import uvicorn
            from uvicorn.protocols.http.auto import AutoHTTPProtocol
        except ImportError:
            raise TreadleError("uvicorn is not installed: pip install 'treadle[serve]'") from None
        tls: dict[str, Any] = {}
        if self.certificates is not None:
            tls = {"ssl_certfile": self.certificates.certificate, "ssl_keyfile": self.certificates.key}

        class Quiet(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield  # signals are the whole server's

        config = uvicorn.Config(
            application,
            http=strict(AutoHTTPProtocol),
            ws="websockets-sansio",
            ws_max_size=self.plane.options.request_bytes,
            ws_max_queue=8,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
            limit_concurrency=MOST_CONNECTIONS,
            **tls,
        )
        return Quiet(config)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = self._reload
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _reload(self) -> None:
        self._reloading = asyncio.create_task(self.plane.reload())


def _place(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return str(Address(host, port))


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
