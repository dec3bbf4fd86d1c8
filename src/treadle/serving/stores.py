"""Where states are kept: a folder, or a Redis server. A record is there whole or not at all."""

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from treadle.errors import DataError, TreadleError

Name = tuple[str, str, str]
"""Model, owner and id."""

FORGOTTEN_AFTER = 86_400.0
"""Seconds after which what nobody has touched is removed."""


class Write(NamedTuple):
    """A record to be written.

    Attributes:
        name: its name.
        content: what it holds.
        expected: the `stamp` of the record that it takes the place of; None where it may be any.
    """

    name: Name
    content: bytes
    expected: str | None = None


def stamp(content: bytes) -> str:
    """Tells one content of a record from another.

    A sequence is its record, so whoever writes in place of the record that he has read loses no step, whoever else
    serves the same sequence.
    """
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()  # which Redis knows as well


class Store(Protocol):
    """Keeps bytes by name, for any number of servers; every method may block."""

    def put(self, writes: Sequence[Write]) -> list[bool]:
        """Write records, each unless another one than expected is there; which of them were written."""
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
    Nothing waits for the disk: if the machine itself fails, the latest seconds may be lost. Servers on several machines
    may share a folder whose locks (``flock``) hold among them, as those of Linux's NFS do.
    """

    def __init__(self, place: str | os.PathLike[str]):
        self.place = Path(place)
        if self.place.exists() and not self.place.is_dir():
            raise NotADirectoryError(f"{place} is not a folder: name one for what is kept")
        self.place.mkdir(mode=0o700, parents=True, exist_ok=True)
        # treadle.atomic looks for leftovers beside every file that it writes, which would be all other sequences here.
        for first in range(256):
            (self.place / f"{first:02x}").mkdir(exist_ok=True)
        for folder in {left.parent for left in self.place.glob("*/*.beside")}:
            with _alone(folder):
                for left in folder.glob("*.beside"):
                    left.unlink(missing_ok=True)
        self._swept = 0.0

    def put(self, writes: Sequence[Write]) -> list[bool]:
        """Write records, each unless another one than expected is there; which of them were written."""
        written = [self._put(self._path(one.name), one) for one in writes]
        if time.monotonic() - self._swept > 600 or not self._swept:
            self._swept = time.monotonic()
            self._sweep()
        return written

    def _put(self, path: Path, write: Write) -> bool:
        beside = path.with_suffix(".beside")
        try:
            with _alone(path.parent):
                if write.expected is not None and path.exists() and stamp(path.read_bytes()) != write.expected:
                    return False
                try:
                    beside.write_bytes(write.content)
                    os.replace(beside, path)
                finally:
                    beside.unlink(missing_ok=True)
        except OSError as error:
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from None
        return True

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


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other servers, of other machines as well, from writing into a folder for a moment."""
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


PUT = """
local there = ARGV[1] ~= '' and redis.call('GET', KEYS[1])
if there and redis.sha1hex(there) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""


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
        self._put: Any = self._redis.register_script(PUT)
        try:
            self._redis.ping()
        except redis.RedisError as error:
            raise TreadleError(f"`keep={url}`: the Redis server does not answer: {error}") from None

    def put(self, writes: Sequence[Write]) -> list[bool]:
        """Write records, each unless another one than expected is there; which of them were written."""
        with self._redis.pipeline(transaction=True) as pipeline:
            for name, content, expected in writes:
                self._put(keys=[self._key(name)], args=[expected or "", content, int(FORGOTTEN_AFTER)], client=pipeline)
            return [bool(written) for written in pipeline.execute()]

    def get(self, name: Name) -> bytes | None:
        """A record; None if there is none."""
        return self._redis.get(self._key(name))

    def close(self) -> None:
        """Nothing more will be asked."""
        self._redis.close()

    def _key(self, name: Name) -> str:
        return f"treadle:{name[0]}:{_digest(name)}"
