"""Which cluster of Ray a command takes."""

import socket

import pytest

from treadle.training.ray_cluster import _last_one_is_gone


@pytest.fixture
def note(tmp_path, monkeypatch):
    """Where Ray notes down the cluster that was started last."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_a_cluster_that_was_killed_is_not_waited_for(note):
    with socket.create_server(("127.0.0.1", 0)) as server:
        note.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
        assert not _last_one_is_gone()
    assert _last_one_is_gone()


def test_without_a_note_ray_looks_itself(note):
    assert not _last_one_is_gone()
    note.write_text("nonsense")
    assert not _last_one_is_gone()
