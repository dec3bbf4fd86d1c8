"""One run at a time: a lock beside a file, which ends with the process that holds it, however that ends."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator

from treadle.errors import ModelFileError
from treadle.locks import fork_safe_lock

_held: dict[str, list[int]] = {}
"""By the path of the lock file: the open file, and how often this process has asked for it."""
_guard = fork_safe_lock()


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], patience: float = 0.2) -> Iterator[None]:
    """Keep other processes from writing a file; in this one, blocks may lie inside each other.

    The lock is the operating system's, on a file ``path.lock``. If the process is killed, the system lets it go, and
    the next one takes it, and the file with it.

    Args:
        path: of the file that is to be written.
        patience: seconds to wait for another process.

    Raises:
        ModelFileError: another process has it, and does not let it go in time.
        OSError: the folder cannot be written to.
    """
    lock = os.path.realpath(path) + ".lock"
    deadline = time.monotonic() + patience
    while not _taken(lock):
        if time.monotonic() >= deadline:
            raise ModelFileError(
                f"{os.fspath(path)} is in use by another run{_holder(lock)}: wait until it has ended, or name another"
                " file"
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        _let_go(lock)


def _taken(lock: str) -> bool:
    with _guard:
        if lock in _held:
            _held[lock][1] += 1
            return True
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        # Whoever held it before may have removed the file just now: then the lock is on one that nobody else can find.
        if not _lock(file) or not _is_there(file, lock):
            os.close(file)
            return False
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
        _held[lock] = [file, 1]
        return True


def _let_go(lock: str) -> None:
    with _guard:
        held = _held.get(lock)
        if held is None:
            return
        held[1] -= 1
        if not held[1]:
            del _held[lock]
            with contextlib.suppress(OSError):
                os.unlink(lock)
            os.close(held[0])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.clear)  # the system's locks are the parent's


def _lock(file: int) -> bool:
    """Take the system's lock, if nobody has it. Where there are no locks, as on some network drives, it is taken."""
    try:
        if os.name == "posix":
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def _is_there(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(path: str) -> str:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return f" (process {int(file.read(20))})"
    return ""
