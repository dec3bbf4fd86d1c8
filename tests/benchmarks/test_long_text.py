"""The large text of the benchmarks is real text of the size asked for, and written only where there is room for it."""

import collections
import shutil

import pytest

from benchmarks import long_text
from treadle.training.text import standard_library

Usage = collections.namedtuple("Usage", "total used free")


def test_text_is_repeated_up_to_the_byte(tmp_path):
    block = b"".join(piece.x.tobytes() for piece in standard_library().training.pieces())
    size = len(block) + 1001
    total = long_text.write(tmp_path / "text", size)
    assert (tmp_path / "text").read_bytes() == block + block[:1001]
    assert total == sum(block) + sum(block[:1001])
    assert (tmp_path / "text").stat().st_blocks * 512 >= size  # no holes


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**10, 5 * 10**9, 5 * 10**9))
    with pytest.raises(OSError, match=r"a text of 5 GB does not fit on the disk of .*5 GB left: set TMPDIR"):
        long_text.write(tmp_path / "text", 5 * 10**9)
    assert not list(tmp_path.iterdir())
