"""Sizes of caches are what the system says, and defaults where it says nothing or nonsense."""

import ctypes

import pytest

from treadle.engines.cpu.machine import cache_sizes


@pytest.fixture(autouse=True)
def asked_again():
    yield
    for function in (cache_sizes.second, cache_sizes.line):
        function.cache_clear()


@pytest.fixture
def linux(monkeypatch, tmp_path):
    """A system that says of each cache what it is given: level, type, size, bytes of a line."""
    monkeypatch.setattr(cache_sizes.sys, "platform", "linux")
    monkeypatch.setattr(cache_sizes, "SYSTEM", tmp_path)

    def says(*caches):
        for i, cache in enumerate(caches):
            (tmp_path / f"index{i}").mkdir()
            for name, value in zip(("level", "type", "size", "coherency_line_size"), cache, strict=True):
                (tmp_path / f"index{i}" / name).write_text(f"{value}\n")
        for function in (cache_sizes.second, cache_sizes.line):
            function.cache_clear()
        return cache_sizes.second(), cache_sizes.line()

    return says


def test_linux_says_them(linux):
    first = (1, "Data", "48K", 128), (1, "Instruction", "32K", 64)
    assert linux(*first, (2, "Unified", "2M", 64), (3, "Unified", "32768K", 64)) == (2 << 20, 128)


def test_kilobytes_and_lines_narrower_than_a_vector(linux):
    assert linux((1, "Data", "32K", 32), (2, "Unified", "512K", 32)) == (512 << 10, 64)


@pytest.mark.parametrize("caches", [(), ((1, "Data", "", ""),), ((1, "Data", "x", "7"), (2, "Unified", "huge", "0"))])
def test_defaults_where_linux_says_nothing_or_nonsense(linux, caches):
    assert linux(*caches) == (1 << 20, 64)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"hw.perflevel0.l2cachesize": 12 << 20, "hw.l2cachesize": 4 << 20, "hw.cachelinesize": 128}, (12 << 20, 128)),
        ({"hw.l2cachesize": 256 << 10, "hw.cachelinesize": 64}, (256 << 10, 64)),
        ({}, (1 << 20, 64)),
    ],
)
def test_macos_is_asked(monkeypatch, known, expected):
    class Library:
        @staticmethod
        def sysctlbyname(name, number, size, _new, _new_size):
            if name.decode() not in known:
                return -1
            ctypes.cast(number, ctypes.POINTER(ctypes.c_uint64))[0] = known[name.decode()]
            return 0

    monkeypatch.setattr(cache_sizes.sys, "platform", "darwin")
    monkeypatch.setattr(cache_sizes.ctypes, "CDLL", lambda name: Library)
    for function in (cache_sizes.second, cache_sizes.line):
        function.cache_clear()
    assert (cache_sizes.second(), cache_sizes.line()) == expected
