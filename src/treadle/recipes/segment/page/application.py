"""The server of the page, on the loopback address only."""

import asyncio
import base64
import collections
import functools
import importlib.resources
import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from treadle.errors import DataError
from treadle.recipes.segment.clicks import Click
from treadle.recipes.segment.images import encode_png, read_image
from treadle.recipes.segment.needs import need
from treadle.recipes.segment.scenes import make_scene
from treadle.recipes.segment.segmenter import ClickSession, Segmenter

MOST_BYTES = 30_000_000
"""Of an image that is sent."""
MOST_SESSIONS = 8
"""Images that are kept, for as many tabs; the one that was not used for the longest goes first."""
MOST_CLICKS = 200
"""In one image: each keeps its mask, so that it can be undone."""
MOST_KEPT = 1 << 30
"""Bytes that the open images may take together."""
SLOWEST = 30.0
"""Seconds in which a request must have come, from its first byte to its last."""
MOST_CONNECTIONS = 16
"""Open at once; a browser keeps six."""
LOOPBACK = "127.0.0.1"
HOSTS = [LOOPBACK, "localhost"]
"""What this machine calls itself: a page of somebody else's cannot have its own name lead here."""
FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Sessions:
    """The images that are open, by secret names, and the lock that lets one of them think at a time.

    Reading and writing images belongs to it: several large ones at once would fill the memory.
    """

    def __init__(self, segmenter: Segmenter):
        self.segmenter, self._lock = segmenter, threading.RLock()
        self._open: collections.OrderedDict[str, ClickSession] = collections.OrderedDict()

    def begin(self, read: Callable[[], Tensor]) -> dict[str, Any]:
        """Open the image that is read: its session, and the image as the browser is to show it."""
        with self._lock:
            image = read()
            start = time.perf_counter()
            session = self.segmenter.session(image)
            milliseconds = 1000 * (time.perf_counter() - start)
            name = secrets.token_urlsafe(16)
            self._open[name] = session
            self._close_oldest()
            height, width = session.size
            said = {"session": name, "width": width, "height": height, "milliseconds": milliseconds}
            return said | {"image": _text(image.movedim(0, 2).numpy())}

    def _close_oldest(self) -> None:
        """Let those go that were not used for the longest, as many as are too many or too large together."""
        while len(self._open) > 1:
            kept = sum(session.kept_bytes for session in self._open.values())
            if len(self._open) <= MOST_SESSIONS and kept <= MOST_KEPT:
                return
            self._open.popitem(last=False)

    def get(self, name: object) -> ClickSession:
        """An open image, or the refusal of a name that none has."""
        with self._lock:
            if not isinstance(name, str) or name not in self._open:
                raise DataError("this image is not open any more: open it again")
            self._open.move_to_end(name)
            return self._open[name]

    def saved(self, name: object) -> bytes:
        """The mask of an image, as a PNG file."""
        session = self.get(name)
        with self._lock:
            return encode_png(session.mask * np.uint8(255))

    def change(self, name: object, how: Callable[[ClickSession], object]) -> dict[str, Any]:
        """Change the clicks of an image: its clicks and its mask after that."""
        session = self.get(name)
        with self._lock:
            start = time.perf_counter()
            how(session)
            self._close_oldest()
            milliseconds = 1000 * (time.perf_counter() - start)
            clicks = [click._asdict() for click in session.clicks]
            overlay = np.zeros((*session.size, 2), np.uint8)
            overlay[..., 1] = session.mask * np.uint8(140)
            return {"clicks": clicks, "milliseconds": milliseconds, "mask": _text(overlay) if clicks else None}


def application(segmenter: Segmenter, image: Tensor | None = None) -> Any:
    """A Starlette application for a network; the page may begin with an image of [3, H, W] bytes.

    Raises:
        TreadleError: Starlette is not installed.
    """
    applications = need("starlette.applications", "starlette")
    middleware = need("starlette.middleware", "starlette")
    hosts = need("starlette.middleware.trustedhost", "starlette")
    responses = need("starlette.responses", "starlette")
    routing = need("starlette.routing", "starlette")
    disconnected = need("starlette.requests", "starlette").ClientDisconnect
    in_thread = need("starlette.concurrency", "starlette").run_in_threadpool
    sessions = Sessions(segmenter)
    folder = importlib.resources.files(__package__ or "")
    files = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    def answering(answer: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        @functools.wraps(answer)
        async def endpoint(request: Any) -> Any:
            origin = request.headers.get("origin")
            if origin is not None and origin != f"http://{request.headers.get('host')}":
                return refusal("requests of other pages are not answered", 403)
            try:
                return responses.JSONResponse(await answer(request), headers=HEADERS)
            except disconnected:
                return responses.Response()  # nobody reads it
            except TooLargeError as error:
                return refusal(str(error), 413)
            except TimeoutError:
                return refusal(f"the request has not come in {SLOWEST:g} seconds: send it again", 408)
            except DataError as error:
                return refusal(str(error), 400)

        return endpoint

    def refusal(text: str, status: int) -> Any:
        return responses.JSONResponse({"error": text}, status, headers=HEADERS)

    async def file(request: Any) -> Any:
        content, kind = files[request.url.path]
        return responses.Response(content, media_type=kind, headers=HEADERS)

    async def start(request: Any) -> dict[str, Any]:
        return {"session": None} if image is None else await in_thread(sessions.begin, lambda: image)

    async def scene(request: Any) -> dict[str, Any]:
        return await in_thread(sessions.begin, lambda: make_scene(secrets.randbelow(2**31), 384, True).image)

    async def upload(request: Any) -> dict[str, Any]:
        content = await body(request, MOST_BYTES)
        return await in_thread(sessions.begin, lambda: read_image(content, "the image"))

    async def click(request: Any) -> dict[str, Any]:
        values = await json_body(request)
        row, column, positive = (values.get(name) for name in ("row", "column", "positive"))
        if type(row) is not int or type(column) is not int or type(positive) is not bool:
            raise DataError("a click has a row and a column, whole numbers, and is positive or not")

        def how(session: ClickSession) -> None:
            if len(session.clicks) >= MOST_CLICKS:
                raise DataError(f"this image has {MOST_CLICKS} clicks already: undo some of them")
            if session.kept_bytes > MOST_KEPT:
                raise DataError(f"this image's clicks fill {MOST_KEPT / 1e9:.1f} GB already: undo some of them")
            session.click(Click(row, column, positive))

        return await in_thread(sessions.change, values.get("session"), how)

    async def undo(request: Any) -> dict[str, Any]:
        values = await json_body(request)
        return await in_thread(sessions.change, values.get("session"), ClickSession.undo)

    async def clear(request: Any) -> dict[str, Any]:
        values = await json_body(request)
        return await in_thread(sessions.change, values.get("session"), ClickSession.clear)

    async def mask(request: Any) -> Any:
        try:
            content = await in_thread(sessions.saved, request.query_params.get("session"))
        except DataError as error:
            return refusal(str(error), 400)
        headers = HEADERS | {"Content-Disposition": 'attachment; filename="mask.png"'}
        return responses.Response(content, media_type="image/png", headers=headers)

    posts = {"start": start, "scene": scene, "image": upload, "click": click, "undo": undo, "clear": clear}
    routes = [routing.Route(path, file) for path in FILES]
    routes += [routing.Route(f"/{name}", answering(answer), methods=["POST"]) for name, answer in posts.items()]
    routes.append(routing.Route("/mask.png", mask))
    trusted = middleware.Middleware(hosts.TrustedHostMiddleware, allowed_hosts=HOSTS)
    return applications.Starlette(routes=routes, middleware=[trusted])


class TooLargeError(DataError):
    """A request has more bytes than are read."""


async def body(request: Any, most: int) -> bytes:
    """What a request sends, read only as far and as long as it is allowed to go."""
    said = request.headers.get("content-length", "0")
    parts, size = [], int(said) if said.isdigit() else 0
    if size <= most:
        size = 0
        async with asyncio.timeout(SLOWEST):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    break
                parts.append(part)
    if size > most:
        raise TooLargeError(f"this is larger than {most / 1e6:g} MB, the most that is read: scale the image down")
    return b"".join(parts)


async def json_body(request: Any) -> dict[str, Any]:
    """A JSON object that a request sends."""
    try:
        values = json.loads(await body(request, 10_000))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        values = None
    if not isinstance(values, dict):
        raise DataError("the request is no JSON object")
    return values


def _text(pixels: NDArray[np.uint8]) -> str:
    """A picture as the page's script takes it."""
    return base64.b64encode(encode_png(pixels, compress_level=1)).decode()


def hurried() -> type:
    """uvicorn's HTTP, which ends a connection on which nobody asks for anything."""
    protocol = need("uvicorn.protocols.http.auto", "uvicorn").AutoHTTPProtocol

    class Hurried(protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            asyncio.get_running_loop().call_later(SLOWEST, self.end_if_silent, transport)

        def end_if_silent(self, transport: Any) -> None:
            if self.cycle is None:
                transport.close()

    return Hurried


def ends_at_once(server: Any) -> Any:
    """A server that does not wait for who is slow once it is to end, and says nothing of what that interrupts."""

    class EndsAtOnce(server):
        async def shutdown(self, sockets: Any = None) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            for connection in list(self.server_state.connections):
                connection.transport.close()
            await super().shutdown(sockets)

    return EndsAtOnce


def serve(application: Any, port: int = 0, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve an application on the loopback address until Ctrl-C; port 0 takes any free one.

    ``ready`` is called with the page's address as soon as it can be opened.

    Raises:
        TreadleError: uvicorn is not installed.
        OSError: the port is taken.
    """
    uvicorn = need("uvicorn", "uvicorn")
    options = {"http": hurried(), "limit_concurrency": MOST_CONNECTIONS, "timeout_graceful_shutdown": 1}
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            raise OSError(f"`port={port}`: {error.strerror}: name another, or leave it out") from None
        listening.listen()
        ready(f"http://{LOOPBACK}:{listening.getsockname()[1]}/")
        config = uvicorn.Config(application, log_level="warning", **options)
        ends_at_once(uvicorn.Server)(config).run(sockets=[listening])
