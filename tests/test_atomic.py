"""Files are whole or not there, and what is read is a file."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from treadle.atomic import all_or_none, regular, replacing, write_whole
from treadle.errors import DataError


def test_replaces_at_the_end_and_not_before(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
        assert beside.parent == tmp_path
        assert beside.suffix == ".txt"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_leaves_everything_as_it_was_when_the_block_fails(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half():
        with replacing(path) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_new_file_is_as_open_as_any_other_and_an_old_one_stays_as_it_was(tmp_path):
    (tmp_path / "any").write_text("")
    for name, mode in (("new", None), ("old", 0o640)):
        path = tmp_path / name
        if mode:
            path.write_text("")
            path.chmod(mode)
        with replacing(path) as beside:
            beside.write_text("x")
        assert stat.S_IMODE(path.stat().st_mode) == (mode or stat.S_IMODE((tmp_path / "any").stat().st_mode))


def test_says_what_is_wrong_with_the_place(tmp_path):
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "file", "there is no folder")):
        with pytest.raises(OSError, match=words), replacing(path):
            pass


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "link") as beside:
        beside.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a device or a pipe"), replacing(tmp_path / "pipe"):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_link_that_leads_to_itself_or_to_nothing(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="loop is a link that leads to itself"), replacing(tmp_path / "loop"):
        pass
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with replacing(tmp_path / "link") as beside:
        beside.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new").read_text() == "new"


def test_several_files_take_their_places_together(tmp_path):
    def write(fails):
        with all_or_none():
            for name in ("a", "b"):
                with replacing(tmp_path / name) as beside:
                    beside.write_text("new")
            assert not (tmp_path / "a").exists()
            if fails:
                raise KeyError

    with pytest.raises(KeyError):
        write(fails=True)
    assert os.listdir(tmp_path) == []
    write(fails=False)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}


KILLED = """
import os, signal, sys
from treadle.atomic import replacing
with replacing(sys.argv[1]) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_goes_with_the_next_writer_and_what_others_write_stays(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as ours:
        killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 2
        with replacing(tmp_path / "other.txt") as beside:
            beside.write_text("other")
        assert len(os.listdir(tmp_path)) == 3
        with replacing(path) as beside:
            beside.write_text("whole")
        assert ours.exists()
        ours.write_text("last")
    assert {one.name for one in tmp_path.iterdir()} == {"file.txt", "other.txt"}


def test_a_long_name_is_no_longer_beside_its_place(tmp_path):
    path = tmp_path / ("n" * 250 + ".txt")
    with replacing(path) as beside:
        beside.write_text("x")
    assert path.read_text() == "x"


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert regular(tmp_path / "file") == str(tmp_path / "file")
    assert regular(tmp_path / "link") == str(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(DataError, match="is a pipe or a device"):
            regular(path)
    with pytest.raises(IsADirectoryError, match="Is a directory: name a file"):
        regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        regular(tmp_path / "nothing")


@pytest.mark.parametrize("without", ["", "O_TMPFILE", "link"])
def test_a_whole_file_is_written_with_and_without_files_that_have_no_name(tmp_path, monkeypatch, without):
    def fails(*arguments, **options):
        raise OSError("no such thing here")

    if without == "O_TMPFILE":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif without:
        monkeypatch.setattr(os, "link", fails)
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    write_whole(path, b"new", lambda: os.rename(path, tmp_path / "before"))
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"file": "new", "before": "old"}
    with pytest.raises(OSError, match="there is no folder"):
        write_whole(tmp_path / "nothing" / "file", b"new")
