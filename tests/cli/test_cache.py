"""`treadle cache` shows and deletes what is kept."""

import pytest

from treadle.cli import main
from treadle.engines.cpu.machine import disk_cache


def here(capfd, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["cache", *arguments])
    out, err = capfd.readouterr()
    assert (end.value.code or 0, err) == (0, "")
    return out


def test_shows_and_clears(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))
    folder = f"folder   {tmp_path / 'cpu'}\n"
    assert here(capfd) == folder + "kernels  0\nsize     0.00 MB\n"
    disk_cache.write("0" * 64, bytes(2_000_000))
    disk_cache.write("1" * 64, bytes(340_000))
    assert here(capfd) == folder + "kernels  2\nsize     2.34 MB\n"
    assert here(capfd, "--clear") == folder + "deleted  2\nfreed    2.34 MB\n"
    assert here(capfd) == folder + "kernels  0\nsize     0.00 MB\n"
