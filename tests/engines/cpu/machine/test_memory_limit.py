"""Limits of control groups, read from folders that look like those of Linux."""

import subprocess
import sys

import pytest

from treadle.engines.cpu.machine import memory_limit

GB = 1 << 30


def system(folder, groups, mounts, files):
    """A /proc and the files of control groups in a folder; mounts are (root, point, kind, options)."""
    proc = folder / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("\n".join(groups))
    lines = [
        f"{i} 1 0:{i} {root} {folder}{point} rw,relatime shared:1 - {kind} {kind} {options}"
        for i, (root, point, kind, options) in enumerate(mounts)
    ]
    (proc / "self/mountinfo").write_text("\n".join(["20 1 8:1 / / rw - ext4 /dev/sda rw", *lines]))
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return sorted(memory_limit._of_control_groups(proc))


VERSION_2 = [("/", "/cg", "cgroup2", "rw,nsdelegate")]
VERSION_1 = [("/", "/cg/cpu", "cgroup", "rw,cpu"), ("/", "/cg/memory", "cgroup", "rw,memory")]


def test_version_2_nested(tmp_path):
    files = {"cg/a/memory.max": 3 * GB, "cg/a/memory.high": 2 * GB, "cg/a/b/memory.max": "max", "cg/c/memory.max": 1}
    assert system(tmp_path, ["0::/a/b"], VERSION_2, files) == [2 * GB, 3 * GB]


def test_version_2_seen_from_inside(tmp_path):
    assert system(tmp_path, ["0::/"], VERSION_2, {"cg/memory.max": GB}) == [GB]
    (tmp_path / "other").mkdir()
    mounts = [("/docker/1", "/cg", "cgroup2", "rw")]
    assert system(tmp_path / "other", ["0::/docker/1/x"], mounts, {"cg/x/memory.max": GB}) == [GB]


@pytest.mark.parametrize("group", ["/../../a", "/elsewhere"])
def test_a_group_that_cannot_be_seen(tmp_path, group):
    mounts = [("/docker", "/cg", "cgroup2", "rw")]
    assert system(tmp_path, [f"0::{group}"], mounts, {"cg/memory.max": GB}) == [GB]


def test_version_1_nested(tmp_path):
    unlimited = 9223372036854771712
    files = {
        "cg/memory/memory.limit_in_bytes": unlimited,
        "cg/memory/a/memory.limit_in_bytes": 2 * GB,
        "cg/memory/a/b/memory.limit_in_bytes": 4 * GB,
        "cg/cpu/a/memory.limit_in_bytes": 1,
    }
    groups = ["5:cpu,cpuacct:/a", "4:memory:/a/b", "0::/a"]
    assert system(tmp_path, groups, VERSION_1, files) == [2 * GB, 4 * GB, unlimited]


def test_both_versions(tmp_path):
    files = {"cg/memory/memory.limit_in_bytes": GB, "unified/memory.max": 2 * GB}
    mounts = [*VERSION_1, ("/", "/unified", "cgroup2", "rw")]
    assert system(tmp_path, ["4:memory:/", "0::/"], mounts, files) == [GB, 2 * GB]


def test_no_control_groups(tmp_path):
    assert not list(memory_limit._of_control_groups(tmp_path))
    assert not system(tmp_path, ["nonsense"], VERSION_2, {})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_room_for_addresses(name):
    assert memory_limit.room_for_addresses() is None
    program = f"""
import mmap, resource
from treadle.engines.cpu.machine.memory_limit import room_for_addresses
resource.setrlimit(resource.{name}, (1 << 40, resource.RLIM_INFINITY))
before = room_for_addresses()
block = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(before < 1 << 40, before - room_for_addresses())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    smaller, taken = done.stdout.split()
    assert smaller == "True"
    assert int(taken) == pytest.approx(1 << 30, rel=0.01)
