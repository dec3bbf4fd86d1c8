"""Locks that forked children find free, and properties without locks."""

import os
import signal
import threading

import pytest
import torch

import treadle as td
from treadle import locks
from treadle.engines.cpu.machine import compilation, memory_pool  # noqa: F401  (who have locks)

CHILDREN = 40
SECONDS = 120  # after which a child that hangs is ended

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
quietly = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def fork(work) -> int:
    """A child that does some work; its status is 0 if it ends well."""
    child = os.fork()
    if child:
        return child
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


class Beside:
    """A thread that does something again and again while the block lasts."""

    def __init__(self, work):
        self.work, self.over, self.times, self.failed = work, threading.Event(), 0, None
        self.begun = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.over.is_set():
                self.work(self.times)
                self.times += 1
                self.begun.set()
        except BaseException as error:
            self.failed = error
            self.begun.set()

    def __enter__(self):
        self.thread.start()
        self.begun.wait()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        assert self.failed is None


def take_all():
    for lock in locks._locks:
        assert lock.acquire(blocking=False)


@pytest.mark.slow
@forks
@quietly
def test_a_child_finds_every_lock_free():
    assert len(locks._locks) >= 3

    def hold(i):
        """Hold one lock, and then another one for a while, in all orders."""
        count = len(locks._locks)
        first, second = locks._locks[i % count], locks._locks[(i + 1 + i // count % (count - 1)) % count]
        with first, second:
            for _ in range(1000):
                pass

    with Beside(hold):
        children = [fork(take_all) for _ in range(CHILDREN)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * CHILDREN
    take_all()
    for lock in locks._locks:
        lock.release()


@forks
@quietly
def test_who_holds_a_lock_may_fork():
    with locks.MAKING:
        child = fork(take_all)
    assert os.waitpid(child, 0)[1] == 0


def train(hidden_size: int) -> torch.Tensor:
    rnn = td.Recurrent(td.GRUCell(2, hidden_size), engine="cpu")
    ys, _ = rnn(torch.ones(1, 3, 2))
    ys.sum().backward()
    return ys


@forks
@quietly
@pytest.mark.slow
def test_children_beside_a_thread_that_compiles(tmp_path, monkeypatch):
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))  # empty: everything is compiled
    with Beside(lambda i: train(3 + i)) as beside:
        children = [fork(lambda size=size: train(size)) for size in range(500, 500 + CHILDREN)]
        statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0] * CHILDREN
    assert beside.times
