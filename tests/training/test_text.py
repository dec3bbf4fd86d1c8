import gzip
import itertools
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from tests.tolerances import assert_close
from treadle.errors import ShapeError
from treadle.training import Text, read_text, standard_library
from treadle.training.text import TextWindows, as_bytes


def text_of(training: bytes, held_out: bytes) -> Text:
    return Text("a text", as_bytes(training), as_bytes(held_out))


def test_windows_continue_each_other_and_cover_the_text_once():
    text, rows, window = torch.arange(240), 4, 15
    reader = TextWindows(text, rows, window, seed=7)
    seen = [next(reader) for _ in range(len(reader))]
    for before, after in itertools.pairwise(seen):
        assert torch.equal(before.y[:, -1], after.x[:, 0])
    for batch in seen:
        assert torch.equal((batch.x + 1) % len(text), batch.y)
    assert torch.cat([batch.x.flatten() for batch in seen]).sort().values.tolist() == text.tolist()


def test_windows_go_on_where_they_were_and_are_dealt_out():
    text = torch.arange(240)
    reader, other = TextWindows(text, 5, 15, seed=7), TextWindows(text, 5, 15, seed=7)
    next(reader)
    other.load_state_dict(reader.state_dict())
    wanted = next(reader)
    assert torch.equal(next(other).x, wanted.x)
    for rank in range(2):
        part = TextWindows(text, 5, 15, seed=7, share=(rank, 2))
        part.load_state_dict({"window": 1})
        assert torch.equal(next(part).y, wanted.y[[slice(0, 2), slice(2, 5)][rank]])


def test_the_last_tenth_of_a_file_is_held_out(tmp_path):
    data = bytes(range(250)) * 5
    (tmp_path / "text").write_bytes(data)
    text = read_text(tmp_path / "text")
    assert text.training.numpy().tobytes() + text.held_out.numpy().tobytes() == data
    assert len(text.held_out) == len(data) // 10


def test_scored_rows_are_spread_over_the_held_out_text():
    text = text_of(b"", bytes(i % 251 for i in range(40_000)))
    rows = text.scored_rows()
    assert rows.shape == (64, 129)
    assert rows[0].tolist() == text.held_out[:129].tolist()
    assert rows[-1].tolist() == text.held_out[-129:].tolist()


def test_a_short_held_out_text_has_fewer_rows_that_do_not_overlap():
    assert text_of(b"", bytes(129)).scored_rows().shape == (1, 129)
    assert text_of(b"", bytes(300)).scored_rows().shape == (2, 129)


def test_unigram_bits_are_the_cross_entropy_of_byte_frequencies():
    training, held_out = b"aab" * 100 + b"c", b"abca" * 100
    frequencies = (np.bincount(list(training), minlength=256) + 1) / (len(training) + 256)
    text = text_of(training, held_out)
    scored = text.scored_rows()[:, 1:].flatten().numpy()
    wanted = torch.tensor(-np.log2(frequencies[scored]).mean())
    assert_close(torch.tensor(text.unigram_bits(), dtype=torch.float64), wanted)


def test_gzip_bits_are_the_size_of_the_packed_held_out_text():
    held_out = b"the same again and again, " * 50
    assert text_of(b"", held_out).gzip_bits() == 8 * len(gzip.compress(held_out, 9, mtime=0)) / len(held_out)


def test_the_standard_library_is_real_source_text_and_the_same_every_time():
    text = standard_library()
    assert len(text.training) > 2_000_000
    assert 0.03 < len(text.held_out) / len(text.training) < 0.3
    assert b"def " in text.held_out.numpy().tobytes()
    assert text.fingerprint() == standard_library().fingerprint()


def test_a_fingerprint_knows_where_the_parts_end():
    assert text_of(b"ab", b"c").fingerprint() != text_of(b"a", b"bc").fingerprint()


def test_a_text_can_be_sent_to_another_process():
    text = text_of(b"abc", b"")
    again = pickle.loads(ForkingPickler.dumps(text))  # which torch teaches to pickle tensors as shared memory
    assert again.fingerprint() == text.fingerprint()
    assert not again.training.is_shared()
    assert not text.training.is_shared()


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(ShapeError, match="empty is empty"):
        read_text(tmp_path / "empty")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_text(tmp_path)


@pytest.mark.parametrize(("rows", "window"), [(32, 16), (32, 64), (1, 1)])
def test_the_number_of_bytes_that_the_refusal_names_is_enough_and_one_less_is_not(tmp_path, rows, window):
    def check(size: int) -> None:
        (tmp_path / "text").write_bytes(bytes(size))
        read_text(tmp_path / "text").check_length(rows, window)

    with pytest.raises(ShapeError, match="has 100 bytes, but") as refusal:
        check(100)
    needed = int(str(refusal.value).split("but ")[1].split(" are")[0].replace(",", ""))
    check(needed)
    with pytest.raises(ShapeError):
        check(needed - 1)


def test_what_is_too_long_is_counted_as_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("treadle.training.text.MOST_BYTES", 1000)
    (tmp_path / "long").write_bytes(bytes(1234))
    text = read_text(tmp_path / "long")
    assert (len(text.training), len(text.held_out), text.unread) == (900, 100, 234)
