"""What a request sends over HTTP, read only as far and as long as it is allowed to go, and decompressed likewise."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from treadle.serving.refusals import Kind, Refused

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]

SLOWEST = 30.0
"""Seconds that a client has for its request's body."""
PLAIN, COMPRESSED = (b"", b"identity"), (b"gzip", b"x-gzip", b"deflate")
MEMBERS, PIECE = 1_000, 1 << 16
"""Of gzip, so many members are read, in pieces of so many bytes: each member copies what is left of its piece."""
_EITHER = 47  # zlib's number for a head of gzip or of zlib, whichever is there


async def read_body(scope: Scope, receive: Receive, most: int) -> bytes:
    """What a request sends, plain; neither that nor what comes over the network has more than ``most`` bytes.

    Raises:
        Refused: it is too large, too slow, compressed in a way that is not read, or breaks off.
    """
    coding = b""
    for key, value in scope["headers"]:
        if key == b"content-length" and value.isdigit() and int(value) > most:
            raise _too_large(most)
        if key == b"content-encoding":
            coding = value.strip().lower()
    if coding not in PLAIN and coding not in COMPRESSED:
        raise Refused(
            Kind.UNSUPPORTED,
            f"the request is compressed ({coding[:40].decode('latin-1')}): send it as gzip, as deflate or plain",
        )
    body = await _received(receive, most)
    return body if coding in PLAIN else decompressed(body, most)


async def _received(receive: Receive, most: int) -> bytes:
    parts, size = [], 0
    try:
        async with asyncio.timeout(SLOWEST):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(Kind.MALFORMED, "the request breaks off")
                part = message.get("body", b"")
                size += len(part)
                if size > most:
                    raise _too_large(most)
                if not message.get("more_body", False):
                    return part if not parts else b"".join([*parts, part])
                parts.append(part)
    except TimeoutError:
        raise Refused(Kind.LATE, f"the request's body took longer than {SLOWEST:g} seconds") from None


def decompressed(body: bytes, most: int) -> bytes:
    """The content of gzip or deflate, of which no more than ``most`` bytes are ever made.

    Raises:
        Refused: it has more, or very many members, or is neither.

    Example:
        >>> import gzip
        >>> from treadle.serving.bodies import decompressed
        >>> decompressed(gzip.compress(b"12") + gzip.compress(b"34"), most=4)
        b'1234'
    """
    parts, size, members, piece, place = [], 0, 0, b"", 0
    while piece or place < len(body):  # gzip may have several members, one behind the other
        members += 1
        if members > MEMBERS:
            raise Refused(
                Kind.MALFORMED, f"the request has more than {MEMBERS:,} members of gzip: compress it as a whole"
            )
        member = zlib.decompressobj(_EITHER)
        while not member.eof:
            if not piece:
                piece, place = body[place : place + PIECE], place + PIECE
            if not piece:
                raise Refused(Kind.MALFORMED, "the request cannot be decompressed: it breaks off")
            try:
                part = member.decompress(piece, most - size + 1)
            except zlib.error as error:
                raise Refused(Kind.MALFORMED, f"the request cannot be decompressed: {error}") from None
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
            piece = member.unused_data
    return b"".join(parts)


def _too_large(most: int) -> Refused:
    return Refused(Kind.TOO_LARGE, f"the request has more than {most} bytes")
