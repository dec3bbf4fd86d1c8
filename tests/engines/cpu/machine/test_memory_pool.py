"""Memory that waits to be used again: found by those who ask for other sizes, bounded, and given back."""

import functools
import gc
import os
import random
import subprocess
import sys

import pytest
import torch

from treadle.engines.cpu.machine import memory_pool
from treadle.engines.cpu.machine.memory_pool import MemoryPool, most_idle, rounded
from treadle.engines.second_try import with_second_try
from treadle.errors import EngineError
from treadle.torch_internals import ran_out_of_memory

MB = 1 << 20


class Pool(MemoryPool):
    """A pool whose blocks are numbers; ``made`` are their sizes."""

    def __init__(self, limit=1 << 60, room=1 << 60):
        super().__init__(lambda: limit, self.make)
        self.room, self.made = room, []

    def make(self, size):
        if self.used + self.idle > self.room:
            raise OSError
        self.made.append(size)
        return len(self.made)


@pytest.mark.parametrize("size", [1, 4096, 4097, 100_000, MB, MB + 1, 5 * MB + 17, 3 << 30])
def test_sizes_are_few(size):
    found = rounded(size)
    assert size <= found <= max(-(-size // 4096) * 4096, 1.125 * size)
    assert rounded(found) == found
    between = {rounded(n) for n in range(MB + 1, 2 * MB + 1, 1000)}
    assert len(between) <= 9


def test_a_block_is_used_again_by_those_who_ask_for_a_little_less():
    pool = Pool()
    pool.give(*pool.take(10 * MB))
    assert pool.idle == rounded(10 * MB)
    first = pool.take(6 * MB)
    assert len(pool.made) == 1
    assert pool.used == rounded(10 * MB)
    assert not pool.idle
    pool.give(*first)
    pool.take(4 * MB)  # less than half of it
    pool.take(11 * MB)  # more
    assert len(pool.made) == 3
    assert pool.idle == rounded(10 * MB)


def test_no_more_waits_than_was_in_use_at_once():
    pool, numbers, taken, most = Pool(), random.Random(0), [], 0
    for _ in range(3000):
        if taken and numbers.random() < 0.5 + 0.1 * (len(taken) > 6):
            pool.give(*taken.pop(numbers.randrange(len(taken))))
        else:
            taken.append(pool.take(int(2 ** numbers.uniform(22, 29))))
        most = max(most, pool.used)
        assert pool.used == sum(size for size, _ in taken)
        assert pool.used + pool.idle <= max(1.5 * most, pool.used + 64 * MB)
        assert pool.idle == sum(size * len(blocks) for size, blocks in pool._blocks.items())
        assert all(pool._blocks.values())
    # Most requests find a block.
    assert len(pool.made) < 600


def test_the_same_step_makes_no_new_block():
    """Forwards and backwards, what is kept and what is not, of the sizes of a wide network."""
    pool = Pool()
    for repeat in range(50):
        made = len(pool.made)
        kept, ys = pool.take(300 * MB), pool.take(40 * MB)
        pool.give(*pool.take(90 * MB))
        scratch, gradients = pool.take(170 * MB), [pool.take(MB) for _ in range(8)]
        for block in (scratch, kept, ys, *gradients):
            pool.give(*block)
        assert not repeat or len(pool.made) == made


def test_what_was_in_use_long_ago_does_not_count():
    pool = Pool()
    for _ in range(2):
        for block in [pool.take(192 * MB) for _ in range(5)]:
            pool.give(*block)
    assert pool.idle == 960 * MB
    for _ in range(2 * memory_pool._SPELL):
        pool.give(*pool.take(8 * MB))
    assert pool.idle <= 64 * MB


def test_garbage_collections_end_spells():
    pool = memory_pool.pool
    pool.release()
    block = memory_pool.empty(200 * MB, dtype=torch.uint8)
    del block
    assert pool.idle >= 200 * MB or pool.idle == 0  # where this machine has little
    for _ in range(2):
        gc.collect()
    assert pool.idle <= 64 * MB


def test_everything_goes_back_before_memory_is_said_to_be_at_its_end():
    pool = Pool(room=1000 * MB)
    for block in [pool.take(90 * MB) for _ in range(5)]:
        pool.give(*block)
    large = pool.take(896 * MB)
    assert not pool.idle
    with pytest.raises(MemoryError, match=r"no memory for 268\.5MB more, beside 939\.6MB in use .*CheckpointedBPTT"):
        pool.take(256 * MB)
    assert pool.used == large[0]
    pool.give(*large)
    pool.take(256 * MB)


def test_memory_may_come_back_at_any_time():
    """A garbage collection may free tensors while the thread is busy with the pool."""
    pool = Pool()
    blocks = [pool.take(8 * MB) for _ in range(3)]
    make = pool.make

    def making(size):
        pool.give(*blocks.pop())
        pool.end_spell()
        return make(size)

    pool._new_block = making
    pool.take(32 * MB)
    assert pool.used == 8 * MB * 2 + 32 * MB
    assert pool.idle == 8 * MB
    assert pool.release()
    assert not pool.release()


def test_blocks_are_zero_until_written_and_can_be_written():
    tensor = memory_pool.empty(3, MB, dtype=torch.float64)
    tensor.fill_(2)
    assert tensor.sum() == 6 * MB
    assert tensor.data_ptr() % 64 == 0


def test_memory_is_lent_as_long_as_anybody_sees_it():
    pool = memory_pool.pool
    before = pool.used
    tensor = memory_pool.empty(3, MB, dtype=torch.float32)
    size = pool.used - before
    assert size >= 12 * MB
    assert tensor.untyped_storage().nbytes() == 12 * MB
    array, row = tensor.numpy(), tensor[1]
    del tensor
    part = array[1:]
    del array, row
    assert pool.used == before + size
    del part
    assert pool.used == before


def test_how_many_addresses_are_left_is_asked_now_and_then(monkeypatch):
    asked = []
    monkeypatch.setattr(memory_pool, "room_for_addresses", lambda: asked.append(1))
    for _ in range(2):
        memory_pool.empty(5 * MB, dtype=torch.uint8)
    asked.clear()
    for _ in range(500):
        memory_pool.empty(5 * MB, dtype=torch.uint8)
    assert 2 <= len(asked) <= 20
    memory_pool.pool.release()
    asked.clear()
    memory_pool.empty(5 * MB, dtype=torch.uint8)  # of the operating system
    assert asked


# The setting


@pytest.fixture
def setting(monkeypatch):
    def set_to(text):
        monkeypatch.setenv("TREADLE_MEMORY", text)
        most_idle.cache_clear()
        return most_idle()

    yield set_to
    monkeypatch.undo()
    most_idle.cache_clear()


@pytest.mark.parametrize(
    ("text", "size"), [("256MB", 256 * 10**6), (" 1.5 GiB ", 3 << 29), ("0", 0), ("0MB", 0), ("4096", 4096)]
)
def test_the_setting(setting, text, size):
    assert setting(text) == size


@pytest.mark.parametrize("text", ["much", "-1", "1 parsec", "MB", "1e9", "nan"])
def test_a_bad_setting_is_one_clear_line(setting, text):
    with pytest.raises(
        EngineError, match=r"^the environment variable TREADLE_MEMORY is .*'500MB' or '1\.5GiB'"
    ) as error:
        setting(text)
    assert "\n" not in str(error.value)
    assert repr(text) in str(error.value)


def test_without_a_setting_it_is_a_part_of_what_there_is(setting, monkeypatch):
    monkeypatch.setattr(memory_pool, "memory_limit", lambda: 4 << 30)
    assert setting("") == 1 << 30
    monkeypatch.setattr(memory_pool, "memory_limit", lambda: 0)
    assert setting("") > 0


# Work that finds no memory


def test_pytorchs_error_is_known():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)
    assert ran_out_of_memory(error.value)
    assert ran_out_of_memory(MemoryError())
    assert not ran_out_of_memory(RuntimeError("a mistake"))


@pytest.mark.parametrize(("kept", "tries"), [(True, 2), (False, 1)])
def test_work_is_tried_again_if_something_was_kept(kept, tries):
    done = []

    def work():
        done.append(1)
        if len(done) == 1:
            torch.empty(1 << 50)
        return "done"

    if kept:
        assert with_second_try(work, lambda: True) == "done"
    else:
        with pytest.raises(RuntimeError, match="allocate"):
            with_second_try(work, lambda: False)
    assert len(done) == tries


# What a process takes

PROGRAM = """
import random, sys
from pathlib import Path
import torch
import treadle as td
from treadle.engines.cpu.machine import memory_limit
torch.set_num_threads(1)
kind, batches, addresses, group, ragged = sys.argv[1], *map(int, sys.argv[2:])
def number(file, i): return 4096 * int(Path(f"/proc/self/{file}").read_text().split()[i])
if group:
    folder = Path(sys.argv[0]).parent
    (folder / "self").mkdir(exist_ok=True)
    (folder / "memory.max").write_text(str(group))
    (folder / "self/cgroup").write_text("0::/")
    (folder / "self/mountinfo").write_text(f"1 1 0:1 / {folder} rw - cgroup2 none rw")
    memory_limit._PROC = folder
if addresses:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (number("statm", 0) + addresses,) * 2)
random.seed(0)
network = (td if kind == "td" else torch.nn).LSTM(16, 128, batch_first=True)
most = 0
for _ in range(batches):
    rows, steps = random.randint(8, 48), random.randint(20, 200)
    x, lengths = torch.randn(rows, steps, 16), torch.randint(1, steps + 1, (rows,))
    if ragged and kind == "td":
        network(x, lengths=lengths)[0].square().mean().backward()
    elif ragged:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        network(packed)[0].data.square().mean().backward()
    else:
        network(x)[0].square().mean().backward()
    most = max(most, number("statm", 1))
print(most)
"""


def resident(folder, kind, batches, addresses=0, group=0, ragged=0) -> int:
    """The most bytes that a process has resident after a batch of changing sizes."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    arguments = map(str, (batches, addresses, group, ragged))
    done = subprocess.run(
        [sys.executable, str(program), kind, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        check=False,
    )
    assert not done.returncode, done.stderr
    return int(done.stdout)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
@linux
@pytest.mark.parametrize("limits", [{}, {"addresses": 700 * MB}], ids=str)
def test_batches_of_changing_size_take_little_memory(tmp_path, limits):
    ours, theirs = (resident(tmp_path, kind, 6, **limits) for kind in ("td", "nn"))
    assert ours <= 1.5 * theirs + 100 * 10**6


@functools.cache
def of_pytorch(folder, ragged) -> int:
    return resident(folder, "nn", 300, ragged=ragged)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("ragged", [0, 1])
@pytest.mark.parametrize("limits", [{}, {"addresses": 700 * MB}, {"group": 400 * MB}], ids=str)
def test_300_batches_of_changing_size_take_little_memory(tmp_path, tmp_path_factory, limits, ragged):
    ours = resident(tmp_path, "td", 300, ragged=ragged, **limits)
    assert ours <= 1.5 * of_pytorch(tmp_path_factory.getbasetemp(), ragged) + 100 * 10**6
