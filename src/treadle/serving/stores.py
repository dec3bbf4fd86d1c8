"""Where states are kept: a folder, or a Redis server. A record is there whole or not at all."""

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from treadle.errors import DataError, TreadleError

Name = tuple[str, str, str]
"""Model, owner and id."""

FORGOTTEN_AFTER = 86_400.0
"""Seconds after which what nobody has touched is removed."""


class Store(Protocol):
    """Keeps bytes by name; every method may block."""

    def put(self, records: Sequence[tuple[Name, bytes]]) -> None:
        """Write records in place of what was there."""
        ...

    def get(self, name: Name) -> bytes | None:
        """A record; None if there is none."""
        ...

    def close(self) -> None:
        """Nothing more will be asked."""
        ...


def open_store(place: str) -> Store:
    """The store that ``--keep`` names: a folder, or ``redis://…``.

    Raises:
        TreadleError: the redis package is not installed, or the server does not answer.
        OSError: the folder cannot be made or written to.
    """
    return RedisStore(place) if "://" in place else FolderStore(place)


def _digest(name: Name) -> str:
    """A file's name: what clients choose can hold anything."""
    return hashlib.sha256("\0".join(name).encode(errors="surrogatepass")).hexdigest()


class FolderStore:
    """A folder of files, a sequence each.

    A file is written beside and renamed, so that a process that is killed leaves the one before or the one after.
    Nothing waits for the disk: if the machine itself fails, the latest seconds may be lost.
    """

    def __init__(self, place: str | os.PathLike[str]):
        self.place = Path(place)
        self.place.mkdir(mode=0o700, parents=True, exist_ok=True)
        # treadle.atomic looks for leftovers beside every file that it writes, which would be all other sequences here.
        for first in range(256):
            (self.place / f"{first:02x}").mkdir(exist_ok=True)
        for left in self.place.glob("*/*.beside"):
            left.unlink(missing_ok=True)
        self._swept = 0.0

    def put(self, records: Sequence[tuple[Name, bytes]]) -> None:
        """Write records in place of what was there."""
        for name, content in records:
            path = self._path(name)
            beside = path.with_suffix(".beside")
            try:
                with open(beside, "wb") as file:
                    file.write(content)
                os.replace(beside, path)
            except OSError as error:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)
                raise OSError(f"{path} cannot be written: {error.strerror or error}") from None
        if time.monotonic() - self._swept > 600 or not self._swept:
            self._swept = time.monotonic()
            self._sweep()

    def get(self, name: Name) -> bytes | None:
        """A record; None if there is none."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Nothing more will be asked."""

    def _path(self, name: Name) -> Path:
        digest = _digest(name)
        return self.place / digest[:2] / f"{digest[2:]}.safetensors"

    def _sweep(self) -> None:
        """Remove what nobody has touched for a day."""
        oldest = time.time() - FORGOTTEN_AFTER
        for path in self.place.glob("*/*.safetensors"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


class RedisStore:
    """A Redis server, shared by any number of processes; records vanish a day after they were touched last."""

    def __init__(self, url: str):
        if not url.startswith(("redis://", "rediss://", "unix://")):
            raise DataError(f"`keep={url!r}` is none of redis://, rediss:// and unix://, and no folder")
        try:
            import redis
        except ImportError:
            raise TreadleError("redis is not installed: pip install 'treadle[serve]'") from None
        self._failure: type[Exception] = redis.RedisError
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
        try:
            self._redis.ping()
        except redis.RedisError as error:
            raise TreadleError(f"`keep={url}`: the Redis server does not answer: {error}") from None

    def put(self, records: Sequence[tuple[Name, bytes]]) -> None:
        """Write records in place of what was there."""
        with self._redis.pipeline(transaction=True) as pipeline:
            for name, content in records:
                pipeline.set(self._key(name), content, ex=int(FORGOTTEN_AFTER))
            pipeline.execute()

    def get(self, name: Name) -> bytes | None:
        """A record; None if there is none."""
        return self._redis.get(self._key(name))

    def close(self) -> None:
        """Nothing more will be asked."""
        self._redis.close()

    def _key(self, name: Name) -> str:
        return f"treadle:{name[0]}:{_digest(name)}"
