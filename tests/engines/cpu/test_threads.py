"""Each share is worked on exactly once, whoever works, whoever calls."""

import ctypes
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from treadle.engines.cpu import jit, threads

TEXT = """
define void @add(ptr %place, i64 %value, i64 %times) {
begin:
  br label %loop
loop:
  %i = phi i64 [ 0, %begin ], [ %next, %loop ]
  %old = atomicrmw add ptr %place, i64 %value monotonic
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %times
  br i1 %more, label %loop, label %end
end:
  ret void
}
"""


@pytest.fixture(params=["team", "pool"])
def way(request, monkeypatch):
    """On PyTorch's threads, and on those that do without."""
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    return request.param


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def machine_function():
    kinds = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    return ctypes.CFUNCTYPE(None, *kinds)(jit.compile(TEXT).address("add"))


def check(add, count: int, times: int = 1) -> None:
    sums = (ctypes.c_int64 * max(count, 1))()
    threads.share(add, [(ctypes.addressof(sums) + 8 * i, i + 1, times) for i in range(count)])
    assert list(sums)[:count] == [(i + 1) * times for i in range(count)]


def test_this_pytorch_lends_its_threads():
    if sys.platform == "linux" and "OpenMP" in torch.__config__.parallel_info():
        assert threads._openmp() is not None


@pytest.mark.usefixtures("way")
def test_every_share_once():
    add = machine_function()
    for count in (1, 2, 3, 17):
        for _ in range(20):
            check(add, count)
        check(add, count, times=100_000)


@pytest.mark.usefixtures("way")
def test_several_python_threads_call_at_once():
    add = machine_function()
    failed = []

    def call():
        try:
            for _ in range(20):
                check(add, 3, times=20)
        except BaseException as error:
            failed.append(error)

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failed


def test_a_share_may_share():
    seen = []
    threads.share(lambda i: threads.share(lambda j: seen.append((i, j)), [(j,) for j in range(3)]), [(0,), (1,), (2,)])
    assert sorted(seen) == [(i, j) for i in range(3) for j in range(3)]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_exception_arrives_after_all_shares(bad):
    done = []

    def work(i):
        if i == bad:
            raise ValueError(f"share {i}")
        done.append(i)

    for _ in range(20):
        done.clear()
        with pytest.raises(ValueError, match=f"share {bad}"):
            threads.share(work, [(0,), (1,), (2,)])
        assert sorted(done) == sorted({0, 1, 2} - {bad})


@pytest.mark.usefixtures("way")
def test_says_when_the_arguments_do_not_fit():
    sums = (ctypes.c_int64 * 2)()
    share = (ctypes.addressof(sums), 1)
    with pytest.raises(TypeError, match="argument"):
        threads.share(machine_function(), [share, share])


def test_waits_for_others_when_interrupted(monkeypatch):
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work(i):
        if i:
            begun.wait()  # a thread of the pool has the other share
            go_on.set()
            raise KeyboardInterrupt
        begun.set()
        go_on.wait()
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        threads.share(work, [(0,), (1,)])
    assert ended.is_set()


@pytest.mark.usefixtures("four_threads")
def test_counts_pytorchs_threads():
    assert [threads.count(limit) for limit in (-1, 0, 1, 3, 4, 100)] == [1, 1, 1, 3, 4, 4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_works_in_a_forked_child():
    add = machine_function()
    check(add, 3)
    threads.share(lambda i: None, [(0,), (1,)])
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends a child that hangs
        try:
            check(add, 3, times=1000)
            check(lambda place, value, times: add(place, value, times), 3)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    check(add, 3)


def test_the_interpreter_ends_while_threads_work():
    program = """
import threading
from treadle.engines.cpu import threads

begun = threading.Event()
for never in (threading.Event(), threading.Event()):
    work = lambda i: (begun.set(), never.wait())
    threading.Thread(target=threads.share, args=(work, [(0,), (1,)]), daemon=True).start()
begun.wait()
print("end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "end\n"
    assert not done.stderr
