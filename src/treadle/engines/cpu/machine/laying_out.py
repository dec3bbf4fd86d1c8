"""Machine code that lays out a table of calls for a call: what is written down, with the numbers of this call.

A word of a table is a sum of terms, ``plus + times * numbers[given]``. In Python, with an operation of NumPy's for each
step, that takes longer than many a short sequence.
"""

import ctypes
import functools
from array import array
from collections.abc import Callable, Sequence

from treadle.engines.cpu.machine import compilation
from treadle.engines.cpu.machine.arena import Given, Word

_TERM_WORDS = 4


class Terms:
    """The terms of the words of a table, as machine code reads them.

    Args:
        words: the words, each with as many terms as it has; ``given`` are places among the numbers of a call.
    """

    def __init__(self, words: Sequence[Word]):
        self.count, self.given = len(words), set[int]()
        first, more = array("q"), array("q")
        for at, word in enumerate(words):
            self._add(first, at, word)
            while word.more is not None:
                word = word.more
                self._add(more, at, word)
        self._words = first + more
        self._address, self._all = self._words.buffer_info()[0], len(self._words) // _TERM_WORDS
        self._empty = bytes(first.itemsize * self.count)

    def _add(self, to: "array[int]", at: int, word: Word) -> None:
        self.given.add(word.given)
        to.extend((at, word.plus, word.given, word.times))

    def lay_out(self, numbers: Sequence[int]) -> "array[int]":
        """The words, for these numbers; where the words are is not yet one of them."""
        given, words = array("q", numbers), array("q", self._empty)
        given[Given.CALLS] = to = words.buffer_info()[0]
        _lay_out()(to, given.buffer_info()[0], self._address, self.count, self._all)
        return words


@functools.cache
def _lay_out() -> Callable[[int, int, int, int, int], None]:
    types = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
    # It takes a microsecond: to let go of Python's lock and to wait for it again would take longer.
    return ctypes.PYFUNCTYPE(None, *types)(compilation.compile(_TEXT).address("lay_out"))


# The first terms, of all words in turn, are stored; the others are added.
_TEXT = f"""
define void @lay_out(ptr %words, ptr %numbers, ptr %terms, i64 %count, i64 %all) {{
begin:
  br label %next
next:
  %i = phi i64 [ 0, %begin ], [ %i_next, %write ]
  %left = icmp slt i64 %i, %all
  br i1 %left, label %read, label %end
read:
  %offset = mul i64 %i, {_TERM_WORDS}
  %term = getelementptr i64, ptr %terms, i64 %offset
  %at = load i64, ptr %term
  %plus_place = getelementptr i64, ptr %term, i64 1
  %plus = load i64, ptr %plus_place
  %given_place = getelementptr i64, ptr %term, i64 2
  %given = load i64, ptr %given_place
  %times_place = getelementptr i64, ptr %term, i64 3
  %times = load i64, ptr %times_place
  %number_place = getelementptr i64, ptr %numbers, i64 %given
  %number = load i64, ptr %number_place
  %product = mul i64 %number, %times
  %value = add i64 %product, %plus
  %place = getelementptr i64, ptr %words, i64 %at
  %is_first = icmp slt i64 %i, %count
  br i1 %is_first, label %write, label %add
add:
  %before = load i64, ptr %place
  br label %write
write:
  %base = phi i64 [ 0, %read ], [ %before, %add ]
  %sum = add i64 %base, %value
  store i64 %sum, ptr %place
  %i_next = add i64 %i, 1
  br label %next
end:
  ret void
}}
"""
