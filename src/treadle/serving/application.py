"""The whole server as an ASGI application: routes to what answers them."""

import contextlib
import json
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from treadle.errors import TreadleError
from treadle.serving import json_text
from treadle.serving.dataplane import Dataplane
from treadle.serving.gate import Gate
from treadle.serving.options import Options
from treadle.serving.rest import JSON, Endpoint, Inference, Pages
from treadle.serving.stores import open_store
from treadle.serving.tokens import Tokens
from treadle.serving.websocket import Stream


def application(
    models: Mapping[str, Any],
    options: Options | None = None,
    *,
    tokens: Mapping[str, str] | None = None,
    origins: Collection[str] = (),
    keep: str | None = None,
) -> Any:
    """An ASGI application that serves models by the Open Inference Protocol, a session for each client's sequence.

    Put it behind any ASGI server, in one process and on one event loop; ``treadle serve`` is one with gRPC and more.

    Args:
        models: by name: a `treadle.Recurrent`, a `treadle.training.Fitted`, or the file of one.
        options: schedule and limits.
        tokens: by token, whose it is; None lets everybody in.
        origins: of web pages that may ask, such as ``https://example.org``, besides those of the server's own origin.
        keep: a folder or ``redis://…`` where states of sequences are kept.

    Raises:
        ModelFileError: a model cannot be served, with the reason.
        OSError: a file cannot be read.
        TreadleError: a package of ``treadle[serve]`` is not installed.

    Example:
        >>> import treadle as td
        >>> app = td.serving.application({"heat": td.Recurrent(td.LSTMCell(3, 5))})
        >>> app.plane.model("heat").latest.meaning.expected
        'x FP32 [B, 3]'
    """
    plane = Dataplane(models, options, None if keep is None else open_store(keep))
    return application_of(plane, Gate(Tokens(None if tokens is None else dict(tokens)), origins))


def application_of(plane: Dataplane, gate: Gate) -> Any:
    """The ASGI application around what can be asked of a server."""
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.middleware.cors import CORSMiddleware
        from starlette.responses import Response
        from starlette.routing import Route, WebSocketRoute
    except ImportError:
        raise TreadleError("starlette is not installed: pip install 'treadle[serve]'") from None
    json_text.orjson()  # says so if it is missing, before anybody asks
    pages = Pages(plane)

    def route(path: str, answer: Any, *methods: str, anybody: bool = False) -> Route:
        return Route(path, Endpoint(plane, None if anybody else gate, answer), methods=list(methods or ("GET",)))

    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    infer, sequence = Inference(plane), model + "/sequences/{sequence:path}"
    routes = [route(f"{one}/infer", infer, "POST") for one in (model, version)]
    for one in (model, version):
        routes += [
            route(f"{one}/ready", pages.model_ready),
            route(f"{one}/config", pages.config),
            route(f"{one}/stats", pages.stats),
        ]
    routes += [
        WebSocketRoute(f"{sequence}/stream", Stream(plane, gate)),
        route(f"{sequence}/state", pages.state, "GET", "PUT"),
        route(sequence, pages.sequence, "GET", "DELETE"),
        route("/v2/models/stats", pages.stats),
        route(model, pages.metadata),
        route(version, pages.metadata),
        route("/v2", pages.server),
        route("/openapi.json", pages.openapi),
        route("/v2/health/live", pages.live, anybody=True),
        route("/v2/health/ready", pages.ready, anybody=True),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        plane.start()
        yield
        await plane.stop()

    async def refuse(request: Any, error: Any) -> Response:
        text = json.dumps({"error": f"{request.method} {request.url.path}: {error.detail}"})
        return Response(text, error.status_code, headers=error.headers, media_type=JSON.decode())

    pages_of_others = Middleware(
        CORSMiddleware,
        allow_origins=sorted(gate.origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Inference-Header-Content-Length"],
        expose_headers=["Inference-Header-Content-Length", "Retry-After"],
    )
    app: Any = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: refuse},
        middleware=[pages_of_others] if gate.origins else [],
    )
    app.plane = plane
    return app
