"""Symbols are tokens and back; the most frequent ones have one, all others share the unknown one's."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import DataError, ShapeError
from treadle.streams import Vocabulary, vocabulary
from treadle.streams.vocabulary import symbols_of

TEXTS = st.lists(st.text("ab \n\tñ\u2028", max_size=30), min_size=1, max_size=4)


@given(text=st.text("ab \n\tñ", max_size=60))
def test_words_and_ends_of_lines_come_back(text):
    words = symbols_of(text, "words")
    assert [word for word in words if word != "\n"] == text.split()
    assert words.count("\n") == text.count("\n")
    found = Vocabulary.of([text], "words", size=100)
    lines = "\n".join(" ".join(line.split()) for line in text.split("\n"))
    assert found.decode(found.encode(text)) == lines


@given(texts=TEXTS, size=st.integers(2, 6), first=st.integers(0, 3))
def test_the_most_frequent_have_tokens(texts, size, first):
    found = Vocabulary.of(texts, "words", size=size, first=first)
    counts = Counter(word for text in texts for word in symbols_of(text, "words"))
    kept = sorted(counts, key=lambda word: (-counts[word], word))[: size - 1]
    assert found.symbols == ("<unk>", *kept)
    assert len(found) == first + 1 + len(kept)
    for text in texts:
        tokens = found.encode(text)
        assert tokens.dtype == torch.int64
        known = [word if word in kept else "<unk>" for word in symbols_of(text, "words")]
        assert [found.symbols[token - first] for token in tokens.tolist()] == known


def test_a_corpus_that_has_the_unknown_word_itself_means_the_same():
    found = Vocabulary.of(["the <unk> of <unk>"], "words", size=10)
    assert found.symbols == ("<unk>", "of", "the")
    assert found.encode("the bird").tolist() == found.encode("the <unk>").tolist() == [2, 0]


def test_counting_takes_constant_memory_and_keeps_what_is_frequent(monkeypatch):
    monkeypatch.setattr(vocabulary, "MOST_COUNTED", 200)
    rare = iter(range(10**6))
    texts = (" ".join(["often", "again"] * 5 + [f"w{next(rare)}" for _ in range(50)]) for _ in range(100))
    assert Vocabulary.of(texts, "words", size=3).symbols == ("<unk>", "again", "often")


def test_files_and_back():
    for made in (Vocabulary.of(["a b\n"], "words", size=9), Vocabulary.of(["ab"], first=2)):
        values = json.loads(json.dumps(made.as_json()))
        assert Vocabulary.from_json(values, made.first) == made
    good = Vocabulary.of(["a b\n"], "words", size=9).as_json()
    for change in ({"symbols": "ab"}, {"symbols": [1]}, {"symbols": ["a", "a"]}, {"unit": "bytes"}, {"unknown": "c"}):
        with pytest.raises(ValueError, match=r"symbols?|unit"):
            Vocabulary.from_json(good | change)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ShapeError, match="the unknown symbol and at least one more, but size=1 was passed"):
        Vocabulary.of(["a"], "words", size=1)
    with pytest.raises(ValueError, match="no unit 'bytes': choose one of characters, words"):
        Vocabulary(("a",), "bytes")
    with pytest.raises(ValueError, match="tokens are 0 to 0, but -1 to 3 were passed"):
        Vocabulary(("a",)).decode([3, -1])
    with pytest.raises(DataError, match=r"line 4: 'go up' has 'up', which was nowhere"):
        Vocabulary.of(["go left"], "words").encode("go up", "line 4: ")
