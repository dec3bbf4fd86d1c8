"""The words of a file are those of its text, from any word on, whatever pieces it is read in."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.errors import DataError, ShapeError
from treadle.streams import Span, Stream, Vocabulary, Windows, WordFile, word_file
from treadle.streams.vocabulary import symbols_of
from treadle.streams.word_file import border


def tokens_of(stream, start=0):
    return np.concatenate([np.empty(0, np.int64), *(piece.x for piece in stream.pieces(start))]).tolist()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.lists(st.sampled_from(["a", "bb", "日本", " ", "\n", "\r\n", "\t"]), max_size=80).map("".join),
    piece=st.integers(1, 20),
    cut=st.integers(0, 100),
)
def test_words_do_not_depend_on_pieces(tmp_path, monkeypatch, text, piece, cut):
    monkeypatch.setattr(word_file, "PIECE_BYTES", piece)
    path = tmp_path / "text"
    path.write_bytes(text.encode())
    whole = WordFile(path, 50)
    expected = whole.vocabulary.encode(text).tolist()
    assert isinstance(whole, Stream)
    assert (whole.length, whole.characters) == (len(expected), len(text))
    assert whole.vocabulary == Vocabulary.of([text], "words", size=50)
    for start in {0, len(expected) // 2, len(expected), len(expected) + 3}:
        assert tokens_of(whole, start) == expected[start:]
    at = border(path, min(cut, len(text.encode())))
    parts = [WordFile(path, whole.vocabulary, stop=at), WordFile(path, whole.vocabulary, start=at)]
    assert [*tokens_of(parts[0]), *tokens_of(parts[1])] == expected
    assert sum(part.length for part in parts) == len(expected)


def test_windows_over_parts_of_a_file(tmp_path):
    (tmp_path / "text").write_text(" ".join(f"w{n}" for n in range(30_000)))
    stream = WordFile(tmp_path / "text", 30_001)
    parts = [Span(stream, 0, 14_000), Span(stream, 14_000, 30_000)]
    found = {part.id: [] for part in parts}
    for batch in Windows(parts, 2, 999, seed=None):
        assert torch.equal(batch.x[:, 1:], batch.y[:, :-1]) or not batch.mask.all()
        for row, names in enumerate(batch.stream_ids):
            if names:
                found[names[0]] += batch.x[row, : batch.lengths[row]].tolist()
    assert found[parts[0].id] == tokens_of(stream)[:13_999]
    assert found[parts[1].id] == tokens_of(stream)[14_000:29_999]


def test_a_byte_order_mark_is_no_part_of_a_word(tmp_path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfone two")
    assert WordFile(tmp_path / "text", 9).vocabulary.symbols == ("<unk>", "one", "two")


def test_an_empty_file_has_no_words(tmp_path):
    (tmp_path / "text").write_bytes(b"")
    assert WordFile(tmp_path / "text", 9).length == 0


def test_what_is_no_text_of_words_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "text"
    for content in (b"fine \xff words", b"\xef\xbb\xbffine \xff words"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"is not UTF-8 at byte {content.index(0xFF)} \(invalid start byte\)"):
            WordFile(path, 9)
    monkeypatch.setattr(word_file, "LONGEST_WORD", 100)
    monkeypatch.setattr(word_file, "PIECE_BYTES", 30)
    path.write_bytes(b"short " + b"x" * 500)
    with pytest.raises(DataError, match="has no white space in 114 bytes from byte 6 on"):
        WordFile(path, 9)
    with pytest.raises(ShapeError, match="size=1"):
        WordFile(path, 1)
    with pytest.raises(OSError, match="No such file"):
        WordFile(tmp_path / "none", 9)
    with pytest.raises(DataError, match=r"/dev/null"):
        WordFile("/dev/null", 9)
    assert symbols_of("", "words") == []
