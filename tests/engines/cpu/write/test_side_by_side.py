"""All steps by threads side by side: what the reference gives, however many come, and only where it is worth it."""

import copy
import ctypes
import threading

import pytest
import torch

import treadle as td
from tests.outcome import outcome
from tests.ragged import LENGTHS, RESETS
from tests.registry import CELLS, build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.engines.cpu.machine import threads
from treadle.engines.cpu.plan import kernel
from treadle.engines.cpu.plan.frame import Frame
from treadle.engines.layout import Layout

SUBJECTS = ["gru", "layer-norm-lstm", "ind-rnn", "stack-feedback"]
RUNS = {
    "plain": {},
    "every state": {"return_states": True},
    "lengths and resets": {"lengths": LENGTHS, "resets": RESETS},
}


@pytest.fixture
def always(monkeypatch):
    """Every loop, forwards and backwards, by so many threads."""

    def set_count(count):
        torch.set_num_threads(count)
        always = lambda self, layout: count if self.kernel.carries else 1  # noqa: E731
        monkeypatch.setattr(kernel.CompiledKernel, "threads_side_by_side", always)

    return set_count


@pytest.fixture
def calls(monkeypatch):
    """How often the machine code of a kernel was asked for."""
    asked = []
    found = kernel.CompiledKernel._side_by_side
    monkeypatch.setattr(
        kernel.CompiledKernel, "_side_by_side", property(lambda self: asked.append(self) or found.compute(self))
    )
    return asked


def agree(rnn, xs, state=None, **options):
    def run(rnn, xs, state):
        ys, end, *every = rnn(xs, state, **options)
        return ys, end, every[0] if every else {}

    other = copy.copy(rnn)
    other.engine = "cpu"
    rnn.engine = "reference"
    assert_all_close(outcome(run, other, xs, state), outcome(run, rnn, xs, state))


@pytest.mark.share(3)
@pytest.mark.usefixtures("set_num_threads", "poisoned_memory")
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_values_and_gradients_are_those_of_the_reference(subject, run, always, calls):
    always(2)
    rnn = build(subject)
    agree(rnn, sequence(rnn, 4, 7), random_state(rnn, 4), **RUNS[run])
    assert calls


@pytest.mark.share(1)
@pytest.mark.usefixtures("set_num_threads", "poisoned_memory")
@pytest.mark.parametrize("cell", ["lstm", "layer-norm-lstm"])
def test_several_panels_of_which_the_last_is_a_part(cell, always):
    always(3)
    torch.manual_seed(1)
    rnn = td.Recurrent(CELLS[cell](3, 45)).double().eval()
    for B in (1, 2, 5):
        agree(rnn, torch.randn(B, 4, 3, dtype=torch.float64))


@pytest.mark.usefixtures("set_num_threads", "poisoned_memory")
@pytest.mark.parametrize("come", [1, 2])
def test_fewer_threads_than_were_asked_for_do_it_all(come, always, monkeypatch):
    """Who comes when the others have begun, or ended, finds nothing to do. Sums of who did not come are zero."""
    always(3)
    together = threads.together
    monkeypatch.setattr(threads, "together", lambda function, argument, _: together(function, argument, come))
    rnn = build("layer-norm-lstm")
    for _ in range(3):
        agree(rnn, sequence(rnn, 4, 7), random_state(rnn, 4))


@pytest.mark.usefixtures("set_num_threads")
def test_a_thread_that_comes_late_is_not_waited_for(always, monkeypatch):
    """It is held back until the other one is through with everything."""
    always(2)

    def together(function, argument, _):
        first = threading.Thread(target=function, args=[argument])
        first.start()
        first.join(60)
        assert not first.is_alive()
        function(argument)

    monkeypatch.setattr(threads, "together", together)
    rnn = build("gru")
    agree(rnn, sequence(rnn, 4, 7), random_state(rnn, 4))


@pytest.mark.usefixtures("set_num_threads")
def test_several_python_threads_at_once(always):
    always(2)
    rnn = td.Recurrent(td.LSTMCell(3, 40), engine="cpu").double()
    xs = torch.randn(2, 50, 3, dtype=torch.float64)
    expected, _ = rnn(xs)
    found = []

    def work():
        torch.set_num_threads(2)
        for _ in range(8):
            found.append(rnn(xs)[0].detach())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 32
    for ys in found:
        assert_close(ys, expected)


@pytest.mark.parametrize(
    ("H", "B", "count", "expected"),
    [(512, 1, 2, 2), (512, 4, 2, 2), (512, 1, 8, 8), (512, 32, 2, 1), (256, 1, 2, 2), (32, 1, 2, 1), (128, 8, 2, 1)],
)
def test_only_where_few_rows_wait_for_many_weights(H, B, count, expected, set_num_threads):
    set_num_threads(count)
    kernels = forward_loops(td.Recurrent(td.LSTMCell(8, H)), B)
    assert [one.threads_side_by_side(Frame.of(Layout(100, B))) for one in kernels] == [expected]
    assert [one.threads_side_by_side(Frame.of(Layout(1, B))) for one in kernels if H < 256] in (
        [],
        [1],
    )  # too little to do


def forward_loops(rnn, B):
    """The kernels of the loops of a network."""
    from treadle.engines.cpu.plan.section import CompiledSection
    from treadle.engines.network import network_of

    network = network_of(rnn.cell, torch.zeros(B, 8), rnn.initial_state(B))
    return [CompiledSection(s).plain.compiled for s in network.plan(False).sections if s.kind == "loop"]


@pytest.mark.usefixtures("set_num_threads")
def test_a_wide_layer_with_one_row_is_shared_out(calls):
    """Through the front door, at a size that is worth it."""
    torch.set_num_threads(2)
    rnn = td.Recurrent(td.LSTMCell(8, 512))
    xs = torch.randn(1, 12, 8)
    agree(rnn, xs)
    assert calls


def test_the_team_is_who_came_in_time():
    """`join` by itself: two of three come, the third one when it is too late."""
    from llvmlite import ir

    from treadle.engines.cpu.machine import compilation, target
    from treadle.engines.cpu.write import rendezvous
    from treadle.engines.cpu.write.cursor import I64, POINTER, Cursor

    cursor = Cursor(target.host(), itemsize=4)
    function = ir.Function(cursor.module, ir.FunctionType(I64, [POINTER, I64]), "come")
    cursor.b = ir.IRBuilder(function.append_basic_block())
    cursor.b.ret(rendezvous.join(cursor, *function.args))
    library = compilation.compile(str(cursor.module), target.host())
    come = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int64)(library.address("come"))
    words = (ctypes.c_int64 * rendezvous.WORDS)()
    found = []
    workers = [threading.Thread(target=lambda: found.append(come(ctypes.addressof(words), 3))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    teams = {value >> 32 for value in found if value}
    came = [value for value in found if value]
    assert teams == {len(came)}  # two, or one if the second thread was slow to start
    assert sorted(value & 0xFFFFFFFF for value in came) == list(range(len(came)))
    assert come(ctypes.addressof(words), 3) == 0
