"""Files are whole or not there."""

import os
import stat

import pytest

from treadle.atomic import replacing


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
