"""Who is let in over HTTP: whose token it is, and which web pages may ask."""

from collections.abc import Collection, Sequence
from typing import Any

from treadle.serving.refusals import Kind, Refused
from treadle.serving.tokens import Tokens

BEARER = "bearer."
"""Before a token among the subprotocols of a WebSocket, as browsers cannot send it in a header."""
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Gate:
    """Lets clients in.

    A browser asks for whatever page is open in it, so that a page of anybody could ask a server of this machine. A
    request that a page sends names the page's origin, and is let in if that is the server's own or an allowed one.
    Without tokens, the server answers by the names of this machine alone: others may have been made to lead here.

    Args:
        tokens: who may ask.
        origins: of pages that may ask, such as ``https://example.org``.
        local: whether to answer by the names of this machine alone.
    """

    def __init__(self, tokens: Tokens, origins: Collection[str] = (), local: bool = False):
        self.tokens, self.origins, self.local = tokens, frozenset(origins), local

    def owner(self, scope: Any, subprotocols: Sequence[str] = ()) -> str:
        """Whose token a request has.

        Raises:
            Refused: it is not let in.
        """
        authorization = origin = None
        host = ""
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1")
        if self.local and _without_port(host) not in LOCAL_NAMES:
            raise Refused(Kind.FORBIDDEN, f"the server has no name {host!r:.80}: ask for localhost")
        if origin is not None and origin not in self.origins and origin.partition("://")[2] != host:
            raise Refused(Kind.FORBIDDEN, f"pages of {origin!r:.80} may not ask: `origin` allows them")
        for one in subprotocols:
            if one.startswith(BEARER):
                authorization = f"Bearer {one.removeprefix(BEARER)}"
        return self.tokens.owner(authorization)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
