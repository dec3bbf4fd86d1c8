"""Object code on disk, so that a kernel is compiled once on a machine, and the names that lead to it.

An entry is loaded and run, so nothing is trusted that somebody else could have written: the folder and its files must
belong to the user and be closed to others' writing. Whatever is wrong with the disk, there is code without it: that is
said once, at INFO, to the logger ``treadle``.
"""

import contextlib
import hashlib
import logging
import os
import re
import stat
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 256 * 2**20
"""Bytes that may stay: the entries that were used last."""
WRITES_BETWEEN_PRUNING = 32
ABANDONED_SECONDS = 3600.0
"""The age at which a file that was to be renamed belongs to nobody any more."""

CODE, NAME = "o", "name"  # what an entry holds: object code, or the key of object code
MAGIC = {CODE: b"treadle object 1\n", NAME: b"treadle naming 1\n"}  # with the number of the format
HEADER_BYTES = len(MAGIC[CODE]) + 32 + 32
ENTRY = re.compile(rf"[0-9a-f]{{64}}\.({CODE}|{NAME})")
BESIDE = re.compile(r"\.[0-9a-f]{64}\..*")
# Names of files are no addresses to follow, and a pipe in an entry's place is nothing to wait for.
READ_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

logger = logging.getLogger("treadle")
_told = False
_writes = 0


def folder() -> Path:
    """Where object code is kept; it need not exist.

    ``cpu`` in the folder that the environment variable ``TREADLE_CACHE`` names, or in ``treadle`` in the user's folder
    for caches: ``$XDG_CACHE_HOME`` or ``~/.cache``, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows.

    Raises:
        OSError: nothing says where the user's home is.
    """
    if chosen := os.environ.get("TREADLE_CACHE"):
        return Path(chosen).absolute() / "cpu"
    try:
        if sys.platform == "darwin":
            caches = Path.home() / "Library" / "Caches"
        elif sys.platform == "win32":
            caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        else:
            caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
            if not caches.is_absolute():  # such as an empty one; the specification says to ignore it
                caches = Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(f"{error}: name a folder in the environment variable TREADLE_CACHE") from None
    return caches / "treadle" / "cpu"


def read(key: str) -> bytes | None:
    """The object code that was written under that key, or None if it is not there whole."""
    return _read(key, CODE)


def write(key: str, code: bytes) -> None:
    """Keep object code under a key, if the disk allows. Of several writers, one wins; all write the same."""
    _write(key, CODE, code)


def read_name(name: str) -> str | None:
    """The key that was written under that name, itself of the form of a key, or None if it is not there whole."""
    key = _read(name, NAME)
    return None if key is None else key.hex()


def write_name(name: str, key: str) -> None:
    """Keep the key of object code under a name."""
    _write(name, NAME, bytes.fromhex(key))


def _read(key: str, kind: str) -> bytes | None:
    try:
        place = folder()
        _check_folder(place)
        path = place / f"{key}.{kind}"
        with open(os.open(path, READ_FLAGS), "rb") as file:
            _check_ours(os.fstat(file.fileno()), path)
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        _tell("read", error)
        return None
    held = content[HEADER_BYTES:]
    if content[:HEADER_BYTES] != _header(key, kind, held):
        logger.debug("%s is damaged, so its kernel is made again", path)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the time of use: what was not used for long goes first
    return held


def _write(key: str, kind: str, held: bytes) -> None:
    global _writes
    try:
        place = folder()
        _make_private(place)
        _check_folder(place)
        # Not treadle.atomic: its files are as open as the umask says, and these are for their owner alone. No fsync
        # either, since a checksum tells what a power failure left.
        handle, beside = tempfile.mkstemp(prefix=f".{key}.", dir=place)
        try:
            with open(handle, "wb") as file:
                file.write(_header(key, kind, held) + held)
            os.replace(beside, place / f"{key}.{kind}")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
        _writes += 1
        if _writes % WRITES_BETWEEN_PRUNING == 1:
            _prune(place)
    except OSError as error:
        _tell("written to", error)


def require_writable() -> None:
    """Refuse a disk that nothing can be kept on.

    Raises:
        OSError: with the reason.
    """
    place = folder()
    _make_private(place)
    _check_folder(place)
    handle, beside = tempfile.mkstemp(prefix=f".{'0' * 64}.", dir=place)
    os.close(handle)
    os.unlink(beside)


def size() -> tuple[int, int]:
    """How many kernels there are, and their bytes."""
    return _sums(_entries(folder()))


def clear() -> tuple[int, int]:
    """Delete all kernels; says how many there were, and their bytes. Whatever else is in the folder stays."""
    place = folder()
    entries = _entries(place)
    for path, _ in entries + _entries(place, BESIDE):
        path.unlink(missing_ok=True)
    return _sums(entries)


def _sums(entries: list[tuple[Path, os.stat_result]]) -> tuple[int, int]:
    kernels = sum(path.suffix == f".{CODE}" for path, _ in entries)
    return kernels, sum(information.st_size for _, information in entries)


def _header(key: str, kind: str, held: bytes) -> bytes:
    """What an entry begins with. The key is in it, so that a file that was moved is no other kernel."""
    return MAGIC[kind] + bytes.fromhex(key) + hashlib.sha256(held).digest()


def _check_folder(place: Path) -> None:
    information = os.stat(place)
    if not stat.S_ISDIR(information.st_mode):
        raise NotADirectoryError(f"{place} is no folder")
    _check_owner(information, place)


def _check_ours(information: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(information.st_mode):
        raise OSError(f"{path} is no file")
    _check_owner(information, path)


def _check_owner(information: os.stat_result, path: Path) -> None:
    """Refuse what others could have written."""
    if not hasattr(os, "geteuid"):
        return  # Windows gives every user a LOCALAPPDATA that others cannot write to
    if information.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user (id {information.st_uid}), whose code is not run")
    if information.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"others than its owner can write to {path}, so its code is not run: chmod go-w")


def _make_private(place: Path) -> None:
    """Make a folder and those above it, for their owner alone."""
    if not place.is_dir():
        if place.parent != place:
            _make_private(place.parent)
        place.mkdir(mode=0o700, exist_ok=True)


def _entries(place: Path, names: re.Pattern[str] = ENTRY) -> list[tuple[Path, os.stat_result]]:
    """The files of such names; none if there is no folder. Other processes may delete while this looks."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(place) as files:
        for file in files:
            if names.fullmatch(file.name):
                with contextlib.suppress(FileNotFoundError):
                    found.append((Path(file.path), file.stat(follow_symlinks=False)))
    return found


def _prune(place: Path) -> None:
    """Delete what was not used for longest until the rest is small enough, and what killed processes left."""
    entries = sorted(_entries(place), key=lambda entry: entry[1].st_mtime, reverse=True)
    total = 0
    gone = []
    for path, information in entries:
        total += information.st_size
        if total > LIMIT:
            gone.append(path)
    long_ago = time.time() - ABANDONED_SECONDS
    gone += [path for path, information in _entries(place, BESIDE) if information.st_mtime < long_ago]
    for path in gone:
        with contextlib.suppress(OSError):
            path.unlink()


def _tell(verb: str, error: OSError) -> None:
    global _told
    if not _told:
        _told = True
        logger.info("kernels are compiled again in each process, because their cache cannot be %s: %s", verb, error)
