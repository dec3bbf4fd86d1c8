"""Listening on the loopback address, and on no other."""

import socket
from collections.abc import Callable
from typing import Any

from treadle.recipes.segment.needs import need

LOOPBACK = "127.0.0.1"


def serve(application: Any, port: int = 0, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve an application to this machine until Ctrl-C.

    Args:
        application: what `treadle.recipes.segment.page.application` made.
        port: 0 takes any that is free.
        ready: told the page's address as soon as it can be opened.

    Raises:
        TreadleError: uvicorn is not installed.
        OSError: the port is taken.
    """
    uvicorn = need("uvicorn", "uvicorn", "serve")
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            raise OSError(f"`port={port}`: {error.strerror}: name another, or leave it out") from None
        listening.listen()
        ready(f"http://{LOOPBACK}:{listening.getsockname()[1]}/")
        uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[listening])
