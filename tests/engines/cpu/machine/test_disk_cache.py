"""Object code on disk: whole or not there, nobody else's, bounded, and not needed."""

import errno
import logging
import os
import stat
import sys
from pathlib import Path

import pytest

from treadle.engines.cpu.machine import disk_cache

KEY = "0123456789abcdef" * 4
OTHER = "f" * 64
CODE = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "kept" / "here"))
    monkeypatch.setattr(disk_cache, "_told", False)
    monkeypatch.setattr(disk_cache, "_writes", 0)
    return tmp_path / "kept" / "here" / "cpu"


@pytest.fixture
def entry(place):
    disk_cache.write(KEY, CODE)
    (path,) = place.iterdir()
    return path


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


def test_keeps_code_for_its_owner_alone(entry):
    assert disk_cache.read(KEY) == CODE
    assert disk_cache.read(OTHER) is None
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    for folder in (entry.parent, entry.parents[1], entry.parents[2]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_counts_and_clears_its_own_files_only(place):
    assert disk_cache.size() == disk_cache.clear() == (0, 0)
    disk_cache.write(KEY, CODE)
    disk_cache.write(OTHER, CODE[:100])
    (place / "notes.txt").write_text("mine")
    (place / f".{KEY}.beside").write_text("left by a process that was killed")
    total = sum(path.stat().st_size for path in place.glob("*.o"))
    assert disk_cache.size() == disk_cache.clear() == (2, total)
    assert os.listdir(place) == ["notes.txt"]
    assert disk_cache.read(KEY) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:30],
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: whole[:200] + b"\1" + whole[201:],
        lambda whole: b"\x7fELF" + whole[4:],
    ],
    ids=["empty", "half a header", "truncated", "longer", "a byte", "garbage"],
)
def test_sees_damage(entry, damage):
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert disk_cache.read(KEY) is None
    disk_cache.write(KEY, CODE)
    assert entry.read_bytes() == whole


def test_an_entry_under_another_name_is_not_taken_for_it(entry):
    entry.rename(entry.with_name(f"{OTHER}.o"))
    assert disk_cache.read(OTHER) is None


def test_names_lead_to_keys_and_are_no_code(place, entry):
    disk_cache.write_name(OTHER, KEY)
    assert disk_cache.read_name(OTHER) == KEY
    assert disk_cache.read_name(KEY) is None
    assert disk_cache.size()[0] == 1
    named = place / f"{OTHER}.name"
    named.rename(place / f"{OTHER}.o")
    assert disk_cache.read(OTHER) is None
    entry.rename(place / f"{KEY}.name")
    assert disk_cache.read_name(KEY) is None
    disk_cache.clear()
    assert not os.listdir(place)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_not_read(entry, make):
    entry.unlink()
    make(entry)
    assert disk_cache.read(KEY) is None


@pytest.mark.parametrize(
    ("mode_of", "mode"), [("folder", 0o770), ("folder", 0o707), ("entry", 0o620), ("entry", 0o602)], ids=str
)
def test_trusts_nothing_that_others_can_write_to(entry, mode_of, mode, caplog):
    (entry if mode_of == "entry" else entry.parent).chmod(mode)
    with caplog.at_level(logging.INFO, "treadle"):
        assert disk_cache.read(KEY) is None
        assert disk_cache.read(KEY) is None
    (message,) = messages(caplog)
    assert "others than its owner can write to" in message


def test_trusts_nothing_of_another_user(entry, caplog, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with caplog.at_level(logging.INFO, "treadle"):
        assert disk_cache.read(KEY) is None
        disk_cache.write(OTHER, CODE)
    (message,) = messages(caplog)
    assert "belongs to another user" in message
    assert os.listdir(entry.parent) == [entry.name]


@pytest.mark.parametrize("reason", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_works_without_the_disk_and_says_so_once(place, reason, caplog, monkeypatch):
    disk_cache.write(KEY, CODE)

    def refuse(*arguments):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "replace", refuse)
    with caplog.at_level(logging.INFO, "treadle"):
        disk_cache.write(OTHER, CODE)
        disk_cache.write(OTHER, CODE)
    (message,) = messages(caplog)
    assert message.endswith(f"[Errno {reason}] {os.strerror(reason)}")
    assert os.listdir(place) == [f"{KEY}.o"]  # nothing is left beside it
    assert disk_cache.read(KEY) == CODE


def test_works_where_no_folder_can_be(tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, "treadle"):
        disk_cache.write(KEY, CODE)
        assert disk_cache.read(KEY) is None
    assert len(messages(caplog)) == 1


def test_works_without_a_home(caplog, monkeypatch):
    def homeless(kind=None):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TREADLE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with caplog.at_level(logging.INFO, "treadle"):
        disk_cache.write(KEY, CODE)
        assert disk_cache.read(KEY) is None
    (message,) = messages(caplog)
    assert "TREADLE_CACHE" in message


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "/home/me/.cache/treadle/cpu"),
        ("linux", {"XDG_CACHE_HOME": "/scratch"}, "/scratch/treadle/cpu"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/treadle/cpu"),
        ("darwin", {"XDG_CACHE_HOME": "/scratch"}, "/home/me/Library/Caches/treadle/cpu"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/treadle/cpu"),
        ("linux", {"TREADLE_CACHE": "/here"}, "/here/cpu"),
        ("linux", {"TREADLE_CACHE": ""}, "/home/me/.cache/treadle/cpu"),
    ],
)
def test_the_folder_is_the_platforms(platform, environment, expected, monkeypatch):
    for name in ("TREADLE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(sys, "platform", platform)
    assert disk_cache.folder() == Path(expected)


def test_stays_small_and_keeps_what_was_used_last(place, monkeypatch):
    keys = [f"{i:064x}" for i in range(6)]
    for age, key in enumerate(keys):
        disk_cache.write(key, CODE)
        os.utime(place / f"{key}.o", (1e9 - age, 1e9 - age))
    abandoned = place / f".{KEY}.abandoned"
    abandoned.write_bytes(b"half")
    os.utime(abandoned, (1e9, 1e9))
    (place / f".{KEY}.being written").write_bytes(b"half")

    assert disk_cache.read(keys[5]) == CODE  # the oldest, which now is the one that was used last but for what comes
    monkeypatch.setattr(disk_cache, "LIMIT", 3 * (len(CODE) + 1000))
    monkeypatch.setattr(disk_cache, "_writes", disk_cache.WRITES_BETWEEN_PRUNING)
    disk_cache.write(KEY, CODE)
    kept = {f"{key}.o" for key in (KEY, keys[5], keys[0])}
    assert set(os.listdir(place)) == kept | {f".{KEY}.being written"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_several_processes_write_and_read_at_once(place):
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            try:
                for _ in range(100):
                    disk_cache.write(KEY, CODE)
                    assert disk_cache.read(KEY) == CODE
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    for _ in range(200):
        assert disk_cache.read(KEY) in (None, CODE)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert os.listdir(place) == [f"{KEY}.o"]
