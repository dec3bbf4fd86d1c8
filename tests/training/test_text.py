import gzip
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tolerances import assert_close
from treadle.errors import DataError, ShapeError
from treadle.training import read_text, standard_library
from treadle.training import text as text_module
from treadle.training.text import text_of


def bytes_of(stream) -> bytes:
    return b"".join(piece.x.tobytes() for piece in stream.pieces())


@given(length=st.integers(8, 400), rows=st.integers(1, 4), steps=st.integers(1, 20), seed=st.integers(0, 9))
def test_all_of_a_text_is_read_before_anything_is_read_twice(length, rows, steps, seed):
    data = bytes(i % 256 for i in range(length))
    windows = text_of("t", data, b"").windows(rows, steps, seed)
    assert len(windows.streams) in (rows, rows + 1)
    seen: dict[str, list[int]] = {}
    for batch in windows:
        for row in range(rows):
            ids = iter(batch.stream_ids[row])
            id_ = next(ids)
            for step in range(int(batch.lengths[row])):
                if step and batch.resets[row, step]:
                    id_ = next(ids)
                start = int(id_.split("[")[1].split(":")[0])
                at = start + int(batch.positions[row, step])
                assert batch.x[row, step] == at % 256
                assert batch.y[row, step] == (at + 1) % 256
                seen.setdefault(id_, []).append(at)
        if windows.epoch > 1:
            break
    places = sorted({at for found in seen.values() for at in found})
    last = {int(id_.split(":")[1].rstrip("]")) - 1 for id_ in seen}  # the last byte of a part is only predicted
    assert places == [at for at in range(length) if at not in last]


def test_another_seed_sees_other_windows():
    data = bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8))
    first = [next(iter(text_of("t", data, b"").windows(4, 16, seed))).x for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1])
    both = {tuple(row) for row in first[0].tolist()} & {tuple(row) for row in first[2].tolist()}
    assert len(both) <= 1  # one row may begin at the text's own beginning


def test_windows_go_on_where_they_were_wherever_the_file_is_and_are_dealt_out(tmp_path):
    data = bytes(np.random.default_rng(0).integers(0, 256, 3000, np.uint8))
    (tmp_path / "a").write_bytes(data)
    windows = read_text(tmp_path / "a").windows(6, 15, seed=7)
    reading = iter(windows)
    next(reading)
    state = windows.state_dict()
    (tmp_path / "a").rename(tmp_path / "b")
    whole = read_text(tmp_path / "b")
    again = whole.windows(6, 15, seed=7)
    again.load_state_dict(state)
    wanted = next(iter(again))
    (tmp_path / "b").rename(tmp_path / "a")
    assert torch.equal(next(reading).x, wanted.x)
    (tmp_path / "a").rename(tmp_path / "b")
    for rank in range(2):
        part = whole.windows(6, 15, seed=7, share=(rank, 2))
        part.load_state_dict(state)
        assert torch.equal(next(iter(part)).y, wanted.y[3 * rank : 3 * rank + 3])


def test_the_last_tenth_of_a_file_is_held_out(tmp_path):
    data = bytes(range(250)) * 5
    (tmp_path / "text").write_bytes(data)
    text = read_text(tmp_path / "text")
    assert bytes_of(text.training) + bytes_of(text.held_out) == data
    assert text.held_out_bytes == len(data) // 10
    assert text.training_bytes == len(data) - len(data) // 10


def test_scored_rows_are_spread_over_the_held_out_text():
    held_out = bytes(i % 251 for i in range(40_000))
    rows = text_of("t", b"", held_out).scored_rows()
    assert rows.shape == (64, 129)
    assert rows[0].tolist() == list(held_out[:129])
    assert rows[-1].tolist() == list(held_out[-129:])


def test_a_short_held_out_text_has_fewer_rows_that_do_not_overlap():
    assert text_of("t", b"", bytes(129)).scored_rows().shape == (1, 129)
    assert text_of("t", b"", bytes(300)).scored_rows().shape == (2, 129)


def test_unigram_bits_are_the_cross_entropy_of_byte_frequencies():
    training, held_out = b"aab" * 100 + b"c", b"abca" * 100
    frequencies = (np.bincount(list(training), minlength=256) + 1) / (len(training) + 256)
    text = text_of("t", training, held_out)
    scored = text.scored_rows()[:, 1:].flatten().numpy()
    wanted = torch.tensor(-np.log2(frequencies[scored]).mean())
    assert_close(torch.tensor(text.unigram_bits(), dtype=torch.float64), wanted)


def test_gzip_bits_are_the_size_of_the_packed_held_out_text():
    held_out = b"the same again and again, " * 50
    assert text_of("t", b"", held_out).gzip_bits() == 8 * len(gzip.compress(held_out, 9, mtime=0)) / len(held_out)


def test_of_a_long_text_a_sample_from_all_over_it_is_counted_and_packed(monkeypatch):
    monkeypatch.setattr(text_module, "SAMPLE", 1024)
    data = bytes(i // 400 % 4 for i in range(400 * 100))
    long = text_of("t", data, data)
    counts = (long.log_frequencies().exp() * (1024 + 256)).round()
    assert counts[:4].sum() == 1024 + 4
    assert (counts[:4] - 257).abs().max() <= 16
    assert long.gzip_bits() == 8 * len(gzip.compress(data[:1024], 9, mtime=0)) / 1024


def test_the_standard_library_is_real_source_text_and_the_same_every_time():
    text = standard_library()
    assert text.training_bytes > 2_000_000
    assert 0.03 < text.held_out_bytes / text.training_bytes < 0.3
    assert b"def " in bytes_of(text.held_out)
    assert text.fingerprint() == standard_library().fingerprint()


def test_a_fingerprint_knows_where_the_parts_end():
    assert text_of("t", b"ab", b"c").fingerprint() != text_of("t", b"a", b"bc").fingerprint()


def test_a_text_can_be_sent_to_another_process(tmp_path):
    (tmp_path / "text").write_bytes(b"abc" * 1_000_000)
    for text in (text_of("t", b"abc", b""), read_text(tmp_path / "text")):
        sent = pickle.dumps(text)
        assert len(sent) < 1000  # a file goes by its name
        assert pickle.loads(sent).fingerprint() == text.fingerprint()


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(ShapeError, match="empty is empty"):
        read_text(tmp_path / "empty")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_text(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is a pipe or a device, which cannot be read twice"):
        read_text(tmp_path / "pipe")


@pytest.mark.parametrize(("rows", "window"), [(32, 16), (32, 64), (1, 1)])
def test_the_number_of_bytes_that_the_refusal_names_is_enough_and_one_less_is_not(tmp_path, rows, window):
    def check(size: int) -> None:
        (tmp_path / "text").write_bytes(bytes(size))
        text = read_text(tmp_path / "text")
        text.check_length(rows, window)
        batch = next(iter(text.windows(rows, window)))
        assert batch.lengths.tolist() == [window] * rows

    with pytest.raises(ShapeError, match="has 100 bytes, but") as refusal:
        check(100)
    needed = int(str(refusal.value).split("but ")[1].split(" are")[0].replace(",", ""))
    check(needed)
    with pytest.raises(ShapeError):
        check(needed - 1)
