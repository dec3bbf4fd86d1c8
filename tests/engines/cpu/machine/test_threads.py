"""All work is done when the call returns, and none of it twice, whoever works, whoever calls."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import types

import pytest
import torch

from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.thread_pool import Pool

# Words: how many pieces there are, how many are taken, how often to add 1 to one, how many calls there were, and the
# pieces.
TEXT = """
define void @work(ptr %words) {
begin:
  %count = load i64, ptr %words
  %taken = getelementptr i64, ptr %words, i64 1
  %times_place = getelementptr i64, ptr %words, i64 2
  %times = load i64, ptr %times_place
  %calls = getelementptr i64, ptr %words, i64 3
  %pieces = getelementptr i64, ptr %words, i64 4
  %before = atomicrmw add ptr %calls, i64 1 monotonic
  br label %next
next:
  %number = atomicrmw add ptr %taken, i64 1 monotonic
  %left = icmp slt i64 %number, %count
  br i1 %left, label %take, label %end
take:
  %piece = getelementptr i64, ptr %pieces, i64 %number
  br label %loop
loop:
  %i = phi i64 [ 0, %take ], [ %following, %loop ]
  %old = atomicrmw add ptr %piece, i64 1 monotonic
  %following = add i64 %i, 1
  %more = icmp slt i64 %following, %times
  br i1 %more, label %loop, label %next
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
def pool(monkeypatch):
    """A pool of two threads, whatever the machine has."""
    fresh = Pool()
    fresh.room = 2
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    monkeypatch.setattr(threads, "_pool", fresh)
    return fresh


def machine_function():
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compilation.compile(TEXT).address("work"))


def check(work, count: int, pieces: int = 5, times: int = 1) -> int:
    """Work together; gives how many calls there were."""
    words = (ctypes.c_int64 * (4 + pieces))(pieces, 0, times)
    threads.together(work, ctypes.addressof(words), count)
    assert list(words)[4:] == [times] * pieces
    return words[3]


def test_this_pytorch_lends_its_threads():
    if sys.platform == "linux" and "OpenMP" in torch.__config__.parallel_info():
        assert threads._openmp() is not None


def test_every_piece_once(way):
    work = machine_function()
    for count in (1, 2, 3, 17):
        for _ in range(20):
            calls = check(work, count, pieces=7)
            assert calls == count if way == "team" or count == 1 else 1 <= calls <= count
        check(work, count, times=100_000)


def test_several_threads_come(pool):
    meet = threading.Barrier(3)
    for _ in range(20):
        threads.together(lambda _: meet.wait(60), 0, 3)
        assert len(pool.idle) == 2  # they are there for the next call


def test_those_who_come_late_have_nothing_to_do(monkeypatch):
    offered = []
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    monkeypatch.setattr(threads._pool, "offer", lambda work, most: offered.append((work, most)))
    calls = []
    threads.together(calls.append, 8, 3)
    ((work, most),) = offered
    assert most == 2
    own = Pool()
    worker = types.SimpleNamespace(pool=own)
    idle = list(threads._pool.idle)
    work.help(worker)
    assert calls == [8]
    # It goes back to where it came from, even if there is another pool by now.
    assert own.idle == [worker]
    assert threads._pool.idle == idle


@pytest.mark.usefixtures("way")
def test_several_python_threads_call_at_once():
    work = machine_function()
    failed = []

    def call():
        try:
            for _ in range(20):
                check(work, 3, times=20)
        except BaseException as error:
            failed.append(error)

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failed


@pytest.mark.usefixtures("pool")
def test_who_works_may_call():
    work = machine_function()
    for _ in range(20):
        threads.together(lambda _: check(work, 3), 0, 3)


def test_waits_for_others_when_interrupted(pool):
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    caller = threading.current_thread()

    def work(_):
        if threading.current_thread() is caller:
            begun.wait()
            go_on.set()
            raise KeyboardInterrupt
        begun.set()
        go_on.wait()
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        threads.together(work, 0, 2)
    assert ended.is_set()
    assert len(pool.idle) == 1


@pytest.fixture
def heard_interrupts():
    """Ctrl-C raises KeyboardInterrupt, even if these tests were started in the background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads")
@pytest.mark.usefixtures("heard_interrupts")
def test_waits_for_others_when_interrupted_while_it_waits(pool):
    begun, ended = threading.Event(), threading.Event()
    caller = threading.current_thread()

    def work(_):
        if threading.current_thread() is caller:
            begun.wait()
            return
        begun.set()
        work = pool_work[0]
        while not work.over:  # the caller's own call has returned
            pass
        signal.pthread_kill(caller.ident, signal.SIGINT)
        ended.set()

    pool_work = []
    offer = pool.offer
    pool.offer = lambda given, most: (pool_work.append(given), offer(given, most))
    with pytest.raises(KeyboardInterrupt):
        threads.together(work, 0, 2)
    assert ended.is_set()


def test_counts_pytorchs_threads(set_num_threads):
    set_num_threads(4)
    assert [threads.count(limit) for limit in (-1, 0, 1, 3, 4, 100)] == [1, 1, 1, 3, 4, 4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.usefixtures("way")
def test_works_in_a_forked_child():
    work = machine_function()
    check(work, 3)
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends a child that hangs
        try:
            check(work, 3, times=1000)
            check(lambda words: work(words), 3)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    check(work, 3)


@pytest.mark.slow
def test_the_interpreter_ends_while_threads_work():
    program = """
import threading
from treadle.engines.cpu.machine import threads

threads._openmp = lambda: None
begun = threading.Semaphore(0)
for never in (threading.Event(), threading.Event()):
    work = lambda _: (begun.release(), never.wait())
    threading.Thread(target=threads.together, args=(work, 0, 2), daemon=True).start()
for _ in range(3):  # both callers, and a helper at least
    begun.acquire()
print("end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "end\n"
    assert not done.stderr
