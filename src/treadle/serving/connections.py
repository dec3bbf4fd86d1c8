"""HTTP connections that are held to account: nobody keeps one who asks for nothing, or sends headers without end."""

from typing import Any

PATIENCE = 60.0
"""Seconds after which a connection is closed on which nothing was asked for."""
MOST_HEAD = 1 << 16
"""Bytes of a request before its body."""


def strict(protocol: type) -> type:
    """One of uvicorn's HTTP protocols that closes connections which are silent or send headers without end."""

    class Strict(protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.head, self.seen = 0, None
            self.watch = self.loop.call_later(PATIENCE, self.look)

        def connection_lost(self, exc: Any) -> None:
            self.watch.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before or not (before is None or before.response_complete):
                self.head = 0
                return
            self.head += len(data)
            if self.head > MOST_HEAD:
                self.transport.close()

        def look(self) -> None:
            """Close the connection if nothing was asked for since the last look."""
            silent = self.cycle is self.seen and (self.cycle is None or self.cycle.response_complete)
            if silent and self.transport.get_protocol() is self:
                self.transport.close()
                return
            self.seen = self.cycle
            self.watch = self.loop.call_later(PATIENCE, self.look)

    return Strict
