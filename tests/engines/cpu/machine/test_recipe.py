"""Recipes do what is written down, in that order, on the memory of the call."""

import functools
import itertools
import sys
import threading

import pytest
import torch

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.alignment import begin
from treadle.engines.cpu.machine.arena import Word
from treadle.engines.cpu.machine.call_table import MOST_ARGUMENTS
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.machine.thread_pool import Pool

# mix: *to = 3 * (sum of the source) + plus, after going round in a loop for a while. note: what is called, in order.
# copy: words. storeN: its other arguments.
TEXT = """
define void @mix(ptr %to, ptr %source, i64 %count, i64 %plus, i64 %rounds) {
begin:
  br label %wait
wait:
  %r = phi i64 [ 0, %begin ], [ %r_next, %wait ]
  %r_next = add i64 %r, 1
  call void asm sideeffect "", ""()
  %again = icmp slt i64 %r_next, %rounds
  br i1 %again, label %wait, label %loop
loop:
  %i = phi i64 [ 0, %wait ], [ %i_next, %loop ]
  %sum = phi i64 [ 0, %wait ], [ %sum_next, %loop ]
  %place = getelementptr i64, ptr %source, i64 %i
  %value = load i64, ptr %place
  %sum_next = add i64 %sum, %value
  %i_next = add i64 %i, 1
  %more = icmp slt i64 %i_next, %count
  br i1 %more, label %loop, label %end
end:
  %three = mul i64 %sum_next, 3
  %result = add i64 %three, %plus
  store i64 %result, ptr %to
  ret void
}

define void @note(ptr %log, i64 %what) {
  %number = atomicrmw add ptr %log, i64 1 monotonic
  %at = add i64 %number, 1
  %place = getelementptr i64, ptr %log, i64 %at
  store i64 %what, ptr %place
  ret void
}

declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define void @copy(ptr %to, ptr %source, i64 %count) {
  %size = mul i64 %count, 8
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %source, i64 %size, i1 false)
  ret void
}
"""


def storing(count: int) -> str:
    arguments = "".join(f", i64 %a{i}" for i in range(1, count))
    stores = "".join(
        f"  %p{i} = getelementptr i64, ptr %to, i64 {i}\n  store i64 %a{i}, ptr %p{i}\n" for i in range(1, count)
    )
    return f"define void @store{count}(ptr %to{arguments}) {{\n  store i64 {count}, ptr %to\n{stores}  ret void\n}}\n"


@functools.cache
def function(name: str) -> int:
    return compilation.compile(TEXT + "".join(map(storing, range(1, MOST_ARGUMENTS + 1)))).address(name)


def words(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)


@pytest.fixture(params=["team", "pool"])
def way(request, monkeypatch):
    """On PyTorch's threads, and on those that do without."""
    if request.param == "pool":
        pool = Pool()
        pool.room = 2
        monkeypatch.setattr(threads, "_openmp", lambda: None)
        monkeypatch.setattr(threads, "_pool", pool)
    return request.param


# Phases

WIDTHS = [3, 1, 5, 2, 17, 4, 1, 1, 6, 3]


def write_chain(recipe: Recipe) -> None:
    """Each phase reads all that the one before wrote; some of its tasks take longer than others."""
    to, _, _ = recipe.tensor("numbers")
    first = 1
    for phase, (before, width) in enumerate(itertools.pairwise([1, *WIDTHS])):
        recipe.barrier()
        for i in range(width):
            recipe.task(
                function("mix"),
                (to + 8 * (first + i), to + 8 * (first - before), before, i, 2000 * ((phase + i) % 3)),
                late=i % 4 == 1,
            )
        first += width


def chain_of(start: int) -> list[int]:
    numbers, before = [start], [start]
    for width in WIDTHS:
        before = [(3 * sum(before) + i + 2**63) % 2**64 - 2**63 for i in range(width)]
        numbers += before
    return numbers


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_phase_reads_what_the_one_before_wrote(count, set_num_threads):
    set_num_threads(count)
    recipe = Recipe()
    write_chain(recipe)
    assert recipe.threads == max(WIDTHS)
    for start in range(200):
        numbers = words(1 + sum(WIDTHS))
        numbers[0] = start
        recipe.follow({"numbers": numbers})
        assert numbers.tolist() == chain_of(start)


@pytest.mark.usefixtures("way")
def test_several_python_threads_follow_one_recipe(set_num_threads):
    recipe = Recipe()
    write_chain(recipe)  # no barrier at the end: whoever comes first ends the last phase
    set_num_threads(2)
    failed, together = [], threading.Barrier(4)

    def follow(number):
        try:
            together.wait(60)
            for start in range(30):
                numbers = words(1 + sum(WIDTHS))
                numbers[0] = 100 * number + start
                recipe.follow({"numbers": numbers})
                assert numbers.tolist() == chain_of(100 * number + start)
        except BaseException as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    callers = [threading.Thread(target=follow, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    sys.setswitchinterval(interval)
    assert not failed


def test_late_tasks_come_last_in_their_phase():
    recipe, log = Recipe(), words(20)
    at = recipe.tensor("log")[0]
    for what, late in ((10, True), (1, False), (11, True), (2, False)):
        recipe.task(function("note"), (at, what), late)
    recipe.barrier()
    recipe.barrier()  # nothing has been written down since: there are no empty phases
    for what, late in ((20, True), (3, False)):
        recipe.task(function("note"), (at, what), late)
    assert recipe.threads == 4
    recipe.follow({"log": log})
    assert log.tolist()[:7] == [6, 1, 2, 10, 11, 3, 20]


def test_a_recipe_of_nothing_does_nothing():
    recipe = Recipe()
    assert recipe.follow({}) is None
    assert recipe.threads == 0
    recipe.barrier()
    assert recipe.follow({"unknown": words(1)}) is None
    only_memory = Recipe()
    only_memory.kept.room(100)
    kept = only_memory.follow({})
    assert kept is not None
    assert kept.numel() >= 100


def test_needs_the_tensors_that_it_reads():
    recipe = Recipe()
    recipe.task(function("note"), (recipe.tensor("log")[0], 1))
    with pytest.raises(KeyError, match="log"):
        recipe.follow({})


# Numbers


@pytest.mark.parametrize("count", range(1, MOST_ARGUMENTS + 1))
def test_all_arguments_arrive(count):
    recipe, got = Recipe(), torch.full((MOST_ARGUMENTS + 1,), -7)
    numbers = [(-1) ** i * (2**40 + i) for i in range(1, count)]
    recipe.task(function(f"store{count}"), (recipe.tensor("got")[0], *numbers))
    recipe.follow({"got": got})
    assert got.tolist() == [count, *numbers] + [-7] * (MOST_ARGUMENTS + 1 - count)


@pytest.mark.parametrize("count", [0, MOST_ARGUMENTS + 1])
def test_refuses_more_arguments_than_a_task_has(count):
    with pytest.raises(AssertionError):
        Recipe().task(function("note"), (0,) * count)


def test_words_are_added_when_a_recipe_is_followed():
    assert Word(5, 3) + 4 == Word(5, 7)
    recipe = Recipe()
    got, other = recipe.tensor("got")[0], recipe.tensor("other")[0]
    recipe.kept.room(1)
    recipe.scratch.room(1)
    place = recipe.kept.room(8)
    recipe.task(function("store5"), (got, other, other + 16, place, place + -8))
    for _ in range(2):
        tensors = {"got": words(5), "other": words(3)}
        kept = recipe.follow(tensors)
        address = tensors["other"].data_ptr()
        assert tensors["got"].tolist() == [5, address, address + 16, begin(kept) + 64, begin(kept) + 56]


def test_tables_hold_numbers_and_words():
    recipe, got = Recipe(), words(6)
    at = recipe.tensor("got")[0]
    first = recipe.table([1, -2, at])
    second = recipe.table([first, at + 8, 9])
    empty = recipe.table([])
    recipe.task(function("copy"), (at, second, 3))
    recipe.task(function("copy"), (at + 24, first, 3))
    recipe.task(function("store1"), (recipe.tensor("unused")[0],))
    assert isinstance(empty, Word)
    recipe.follow({"got": got, "unused": words(1)})
    address, (where, *rest) = got.data_ptr(), got.tolist()
    assert rest == [address + 8, 9, 1, -2, address]
    assert where % 8 == 0
    assert where != address


def test_a_part_of_a_table_has_an_address_too():
    recipe, got = Recipe(), words(2)
    table = recipe.table([5, 6, 7, 8])
    recipe.task(function("copy"), (recipe.tensor("got")[0], recipe.table([table, 0]), 1))
    recipe.barrier()
    recipe.follow({"got": got})
    assert got[0] != 0


@pytest.mark.parametrize(
    ("tensor", "strides"),
    [
        (torch.tensor(1.0), (0, 1)),
        (torch.ones(7), (1, 1)),
        (torch.ones(7)[::3], (3, 1)),
        (torch.ones(4, 6), (6, 1)),
        (torch.ones(4, 6).t(), (1, 6)),
        (torch.ones(4, 6)[1:, 2::2], (6, 2)),
        (torch.ones(6).expand(4, 6), (0, 1)),
        (torch.ones(2, 3, 4), (12, 4)),
        (torch.ones(0, 5), (5, 1)),
        (torch.ones(3, 5, requires_grad=True), (5, 1)),
    ],
    ids=lambda value: str(tuple(value.shape)) if isinstance(value, torch.Tensor) else None,
)
def test_gives_addresses_and_strides_of_tensors(tensor, strides):
    recipe, got = Recipe(), words(4)
    recipe.task(function("store4"), (recipe.tensor("got")[0], *recipe.tensor("tensor")))
    assert recipe.tensor("tensor") == recipe.tensor("tensor")
    recipe.follow({"got": got, "tensor": tensor})
    assert got.tolist() == [4, tensor.data_ptr(), *strides]


# Memory


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("size", [8, 1 << 21])
def test_what_is_kept_is_there_for_another_recipe(size):
    first, second = Recipe(), Recipe()
    first.scratch.room(8)
    room = first.kept.room(size)
    first.kept.room(64)
    first.task(function("copy"), (room, first.tensor("numbers")[0], size // 8))
    scratch = second.scratch.room(size)
    second.task(function("copy"), (scratch, room, size // 8))
    second.barrier()
    second.task(function("copy"), (second.tensor("got")[0], scratch, size // 8))
    numbers = [torch.randint(1 << 40, (size // 8,)) for _ in range(2)]
    kept = [first.follow({"numbers": n}) for n in numbers]
    for n, memory in zip(numbers, kept, strict=True):
        assert begin(memory) % 64 == 0
        assert begin(memory) + first.kept.size <= memory.data_ptr() + memory.numel()
        got = words(size // 8)
        assert second.follow({"got": got}, memory) is memory
        assert torch.equal(got, n)


@pytest.mark.parametrize("size", [1, 64, 5000])
def test_room_is_used_again_from_the_next_phase_on(size):
    recipe = Recipe()
    for arena in (recipe.kept, recipe.scratch):
        first = arena.room(size)
        arena.leave(first, size)
        second = arena.room(size)
        assert second != first
        recipe.barrier()
        whole = arena.size
        assert arena.room(size) == first
        assert arena.size == whole
        assert arena.room(size) not in (first, second)
        assert arena.size > whole
