"""Files on disk: only regular ones are read; what is written is whole or not there, and nothing stays beside it."""

import contextlib
import contextvars
import os
import platform
import secrets
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from treadle.errors import DataError


def regular(path: str | os.PathLike[str]) -> str:
    """A path that is about to be read, if a regular file lies there: a pipe may wait for ever, a device may never end.

    Raises:
        DataError: a pipe, a socket or a device lies there.
        OSError: a folder, or nothing that can be looked at.
    """
    path = os.fspath(path)
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path}: Is a directory: name a file")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is a pipe or a device, which cannot be read twice: write it to a file first")
    return path


def destination(path: str | os.PathLike[str]) -> Path:
    """Where a file that is called so is to be written: of a link, what it leads to.

    Raises:
        OSError: the folder is not there, or ``path`` is a folder, a device, a pipe or a link that leads to itself.
    """
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise OSError(f"{path} is a link that leads to itself: remove it, or name another file")
    if place.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file")
    if place.exists() and not place.is_file():
        raise OSError(f"{path} is a device or a pipe, which cannot be replaced: name a file")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {Path(path).parent} to write {place.name} into")
    return place


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path to write to, in the same folder; takes the place of ``path`` if the block ends well.

    Whatever goes wrong inside, ``path`` is what it was before and nothing is left beside it. What a process leaves that
    is killed in here, the next one that writes ``path`` removes.

    Raises:
        OSError: as of `destination`, or the folder cannot be written to.
    """
    place = destination(path)
    mark = f".treadle-{_hash(place.name)}-{_hash(platform.node())}-"
    _remove_leftovers(place.parent, mark)
    beside = place.with_name(f"{mark}{os.getpid()}-{secrets.token_hex(4)}{place.suffix[:20]}")
    _mine.add(beside)
    try:
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # as open as any new file
        mode = (place if place.exists() else beside).stat().st_mode
        yield beside
        os.chmod(beside, mode & 0o777)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        waiting = _waiting.get()
        if waiting is None:
            _put(beside, place)
        else:
            waiting.append((beside, place))
    except BaseException:
        _remove(beside)
        raise


def write_whole(path: str | os.PathLike[str], content: bytes, before: Callable[[], None] = lambda: None) -> None:
    """Write a file whose content is known. On Linux it has no name until all of it is written, so that nothing is left
    of it if the process is killed meanwhile.

    Args:
        path: where to.
        content: of the file.
        before: called once all is written, before the file takes its place.

    Raises:
        OSError: as of `replacing`; of a disk that is full, with the path.
    """
    place = destination(path)
    try:
        unnamed = os.open(place.parent, os.O_TMPFILE | os.O_WRONLY, 0o666) if os.path.isdir("/proc/self/fd") else None
    except (AttributeError, OSError):  # elsewhere, and on some network drives
        unnamed = None
    try:
        if unnamed is None:
            with replacing(place) as beside:
                beside.write_bytes(content)
                before()
            return
        with open(unnamed, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(unnamed)
            before()
            with replacing(place) as beside:
                beside.unlink()
                if not _named(unnamed, beside):
                    beside.write_bytes(content)
    except OSError as error:
        raise OSError(f"{os.fspath(path)} cannot be written: {error.strerror or error}") from None


def _named(unnamed: int, path: Path) -> bool:
    """Give an open file that has no name its first one; whether the file system can."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.link(f"/proc/self/fd/{unnamed}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    except OSError:
        return False
    finally:
        os.close(folder)
    return True


_mine: set[Path] = set()
"""What this process is writing."""
_waiting: contextvars.ContextVar[list[tuple[Path, Path]] | None] = contextvars.ContextVar("waiting", default=None)
"""What waits for the end of `all_or_none`."""


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """What `replacing` writes in this block takes its place at its end, all of it, or nothing if the block fails."""
    waiting: list[tuple[Path, Path]] = []
    token = _waiting.set(waiting)
    try:
        yield
        for beside, place in waiting:
            _put(beside, place)
    finally:
        _waiting.reset(token)
        for beside, _ in waiting:
            _remove(beside)


def _put(beside: Path, place: Path) -> None:
    os.replace(beside, place)
    _mine.discard(beside)


def _remove(beside: Path) -> None:
    beside.unlink(missing_ok=True)
    _mine.discard(beside)


def _remove_leftovers(folder: Path, mark: str) -> None:
    """Remove what processes of this machine that are no more were writing."""
    for path in folder.glob(f"{mark}*"):
        pid = path.name.removeprefix(mark).split("-")[0]
        if pid.isdecimal() and path not in _mine and not _runs(int(pid)):
            with contextlib.suppress(OSError):  # somebody else was faster, or may do what we may not
                path.unlink()


def _runs(pid: int) -> bool:
    """Whether another process has this number."""
    if os.name != "posix":
        return True  # elsewhere, asking may end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return pid != os.getpid()


def _hash(text: str) -> str:
    return f"{zlib.crc32(os.fsencode(text)):08x}"
