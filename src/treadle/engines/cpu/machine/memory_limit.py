"""How much memory this process may have: what the machine has, or less where a container or a limit says so."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None

_PROC = Path("/proc")


@functools.cache
def memory_limit() -> int:
    """Bytes of memory that the machine has, or that the control groups allow, whichever is less; 0 if nobody says."""
    limits = [*_of_machine(), *_of_control_groups(_PROC)]
    return min(limits, default=0)


def _of_machine() -> Iterator[int]:
    try:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return


def _of_control_groups(proc: Path) -> Iterator[int]:
    """The limits of the groups that this process is in, and of those that these are in: of version 1 and version 2."""
    try:
        groups = dict(line.split(":", 2)[1:] for line in (proc / "self/cgroup").read_text().splitlines())
        mounts = (proc / "self/mountinfo").read_text().splitlines()
    except (OSError, ValueError):
        return
    of_version_1 = next((path for kinds, path in groups.items() if "memory" in kinds.split(",")), None)
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        root, point = before.split()[3:5]
        kind, *_, options = after.split()
        if kind == "cgroup2":
            group, names = groups.get(""), ("memory.max", "memory.high")
        elif kind == "cgroup" and "memory" in options.split(","):
            group, names = of_version_1, ("memory.limit_in_bytes",)
        else:
            continue
        if group is not None:
            yield from _of_folders(Path(point.replace("\\040", " ")), _below(root, group), names)


def _below(root: str, group: str) -> tuple[str, ...]:
    """The path of a group below that one which is seen as the root."""
    path, seen = Path(group).parts, Path(root).parts
    return path[len(seen) :] if path[: len(seen)] == seen and ".." not in path else ()


def _of_folders(point: Path, below: tuple[str, ...], names: tuple[str, ...]) -> Iterator[int]:
    """The limits in a folder, and in those on the way to it."""
    for depth in range(len(below) + 1):
        for name in names:
            try:
                text = point.joinpath(*below[:depth], name).read_text().strip()
            except OSError:
                continue
            if text.isdigit():  # else "max"
                yield int(text)


def room_for_addresses() -> int | None:
    """Bytes that the process may still map, where its address space or its data are limited (`ulimit`); else None."""
    if resource is None:
        return None
    # The number of each limit, and which number of /proc/self/statm counts against it, in pages.
    limits = [(resource.getrlimit(resource.RLIMIT_AS)[0], 0), (resource.getrlimit(resource.RLIMIT_DATA)[0], 5)]
    limits = [(limit, place) for limit, place in limits if limit != resource.RLIM_INFINITY]
    if not limits:
        return None
    try:
        used = (_PROC / "self/statm").read_text().split()
    except OSError:
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return max(0, min(limit - page * int(used[place]) for limit, place in limits))
