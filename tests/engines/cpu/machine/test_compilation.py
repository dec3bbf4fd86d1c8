"""IR becomes machine code: once, for several targets, also from the disk."""

import ctypes
import functools
import gc
import os
import re
import subprocess
import sys
import threading
import weakref

import pytest
import torch

import treadle as td
from tests.registry import build, sequence
from treadle.engines.cpu.lower.lowered import lower
from treadle.engines.cpu.machine import compilation, disk_cache, target
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.cpu.routines import kernel_code, row_products
from treadle.engines.cpu.write import by_rows
from treadle.engines.network import network_of
from treadle.engines.passes.support import why_not
from treadle.errors import EngineError

# A loop that LLVM makes a memset of, and vectors as wide as they come.
TEXT = """
define void @clear(ptr %place, i64 %bytes) {
begin:
  br label %loop
loop:
  %i = phi i64 [ 0, %begin ], [ %next, %loop ]
  %byte = getelementptr i8, ptr %place, i64 %i
  store i8 0, ptr %byte
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %bytes
  br i1 %more, label %loop, label %end
end:
  ret void
}

define internal <16 x float> @twice(<16 x float> %x) {
  %y = fadd <16 x float> %x, %x
  ret <16 x float> %y
}

define void @"double it"(ptr %place) {
  %x = load <16 x float>, ptr %place, align 4
  %y = call <16 x float> @twice(<16 x float> %x)
  store <16 x float> %y, ptr %place, align 4
  ret void
}
"""
LEVELS = target.runnable(target.host())


@pytest.fixture(autouse=True)
def compiled(tmp_path, monkeypatch):
    """A process and a disk that know no code; gives the list of what was compiled since."""
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))
    monkeypatch.setattr(compilation, "_libraries", {})
    monkeypatch.setattr(compilation, "_recalled", {})
    texts = []
    compile = compilation._object_code

    def counting(text, *how, **more):
        texts.append(text)
        return compile(text, *how, **more)

    monkeypatch.setattr(compilation, "_object_code", counting)
    return texts


def check(library: compilation.Library) -> None:
    numbers = (ctypes.c_float * 100)(*range(100))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address("double it"))(ctypes.addressof(numbers))
    assert list(numbers) == [2 * i if i < 16 else i for i in range(100)]
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(library.address("clear"))(ctypes.addressof(numbers), 99 * 4)
    assert list(numbers) == [0] * 99 + [99]


@pytest.mark.parametrize("level", [None, *LEVELS])
def test_compiles_for_every_target_that_runs_here(level):
    check(compilation.compile(TEXT, level and target.restrict(target.host(), level)))


def test_compiles_once_and_loads_once(compiled, monkeypatch):
    first = compilation.compile(TEXT)
    assert compilation.compile(TEXT) is first
    assert len(compiled) == 1
    monkeypatch.setattr(compilation, "_libraries", {})  # as in another process
    second = compilation.compile(TEXT)
    assert second is not first
    assert len(compiled) == 1
    check(second)
    check(first)


@pytest.mark.skipif(not LEVELS, reason="this CPU is of none of the known levels")
def test_keeps_targets_apart(compiled):
    libraries = {compilation.compile(TEXT, target.restrict(target.host(), level)) for level in LEVELS}
    assert len(libraries) == len(compiled) == len(LEVELS)


def test_a_damaged_entry_is_compiled_again(compiled, monkeypatch):
    first = compilation.compile(TEXT)
    (path,) = disk_cache.folder().iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-10] + b"\xff" * 10)
    monkeypatch.setattr(compilation, "_libraries", {})
    check(compilation.compile(TEXT))
    assert len(compiled) == 2
    assert path.read_bytes() == whole
    check(first)


def test_several_threads_compile_once(compiled):
    libraries = []
    threads = [threading.Thread(target=lambda: libraries.append(compilation.compile(TEXT))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(libraries) == 8
    assert len(set(libraries)) == len(compiled) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_compiles():
    check(compilation.compile(TEXT))
    child = os.fork()
    if not child:
        try:
            check(compilation.compile("; another text\n" + TEXT))
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_says_what_is_wrong_with_the_text():
    with pytest.raises(EngineError, match=r"LLVM refuses .* expected"):
        compilation.compile("define nonsense")
    with pytest.raises(EngineError, match="no function 'twice', it defines clear, double it"):
        compilation.compile(TEXT).address("twice")
    unknown = (
        "declare void @nowhere_to_be_found()\ndefine void @f() {\n  call void @nowhere_to_be_found()\n  ret void\n}"
    )
    with pytest.raises(EngineError, match=r"cannot load .* f "):
        compilation.compile(unknown)
    check(compilation.compile(TEXT))


@pytest.mark.skipif("avx2" not in LEVELS, reason="no AVX2")
def test_targets_narrow():
    host = target.host()
    narrow = target.restrict(host, "avx2")
    assert (narrow.vector_bytes, narrow.registers, narrow.bf16_dot) == (32, 16, False)
    assert (narrow.lanes(4), narrow.lanes(8)) == (8, 4)
    assert target.restrict(narrow, "sse4").vector_bytes == 16
    with pytest.raises(
        EngineError, match=r"cannot run code for 'avx512', it lacks .*avx512f.*: choose one of avx2, sse4"
    ):
        target.restrict(narrow, "avx512")
    with pytest.raises(EngineError, match="no CPU level 'mmx': choose one of avx512, avx2"):
        target.restrict(host, "mmx")


@pytest.mark.skipif(not LEVELS, reason="this CPU is of none of the known levels")
def test_the_environment_narrows_and_treadle_needs_no_llvm_to_be_imported():
    level = LEVELS[-1]
    program = f"""
import sys, treadle
assert "llvmlite" not in sys.modules
from treadle.engines.cpu.lower.lowered import lower
from treadle.engines.cpu.machine import target
assert target.host() == target.restrict(target.host(), {level!r})
import os
os.environ["TREADLE_CPU"] = "abacus"
target.host.cache_clear()
target.host()
"""
    environment = os.environ | {"TREADLE_CPU": level}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "EngineError: TREADLE_CPU: there is no CPU level 'abacus'" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it needs to know where the system puts maps")
def test_code_reaches_its_constants_however_full_the_address_space_is():
    """Holes of a page above 64 GB that are taken: sections that are laid apart are too far from each other."""
    program = """
import mmap, torch, treadle as td
rnn = td.Recurrent(td.LSTMCell(3, 5))
xs = torch.randn(2, 7, 3)
ys, _ = td.Recurrent(rnn.cell, engine="reference")(xs)
wanted = torch.autograd.grad(ys.sum(), list(rnn.parameters()))
options = {"flags": mmap.MAP_PRIVATE | 0x4000, "prot": mmap.PROT_READ}  # MAP_NORESERVE
large = [mmap.mmap(-1, 1 << 36, **options)]
pages = [mmap.mmap(-1, mmap.PAGESIZE) for _ in range(4000)]
large.append(mmap.mmap(-1, 1 << 36, **options))
for page in pages[::2]:
    page.close()
torch.testing.assert_close(torch.autograd.grad(rnn(xs)[0].sum(), list(rnn.parameters())), wanted)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_text_is_written_only_where_its_code_is_unknown(compiled, monkeypatch):
    written = []

    def recall(description, sources="this version", text=TEXT):
        def write():
            written.append(1)
            return text

        monkeypatch.setattr(compilation, "_libraries", {})  # as in another process
        monkeypatch.setattr(compilation, "_recalled", {})
        monkeypatch.setattr(compilation, "_sources", lambda: sources)
        check(compilation.recall(description, ("double it", "clear"), write, target.host()))
        return len(written), len(compiled)

    assert recall("twice") == (1, 1)
    assert recall("twice") == (1, 1)
    assert recall("thrice") == (2, 1)  # the same text
    assert recall("twice", sources="another version") == (3, 1)
    assert recall("twice", sources="another version") == (3, 1)
    assert recall("twice", sources="a version that writes it otherwise", text=TEXT + ";") == (4, 2)
    assert recall("twice", sources=None) == (5, 2)  # in an archive, say: the text itself is the key
    assert recall("twice", sources=None) == (6, 2)
    for path in disk_cache.folder().glob("*.o"):
        path.unlink()
    assert recall("twice") == (7, 3)


def test_a_text_is_written_once_in_a_process(monkeypatch):
    monkeypatch.setattr(compilation, "_recalled", {})
    written = []
    for _ in range(2):
        library = compilation.recall("twice", ("double it",), lambda: written.append(1) or TEXT, target.host())
    assert len(written) == 1
    monkeypatch.setattr(compilation.disk_cache, "read", lambda key: None)
    assert compilation.recall("twice", ("double it",), lambda: "", target.host()) is library


def test_python_looks_for_garbage_again_once_a_text_is_written(monkeypatch):
    monkeypatch.setattr(compilation, "_recalled", {})

    def write():
        assert not gc.isenabled()
        raise ValueError("no text")

    with pytest.raises(ValueError, match="no text"):
        compilation.recall("nothing", ("f",), write, target.host())
    assert gc.isenabled()


def test_a_routine_is_not_written_where_its_code_is_known(compiled, monkeypatch):
    def panel():
        return row_products._panel.__wrapped__(torch.float32, target.host(), 2, False)

    panel()
    assert len(compiled) == 1
    monkeypatch.setattr(compilation, "_libraries", {})  # as in another process
    monkeypatch.setattr(compilation, "_recalled", {})
    monkeypatch.setattr(row_products, "PanelCode", None)
    panel()
    assert len(compiled) == 1


def kernels(subject, dtype):
    """Of all sections of a network, forwards and backwards, with and without bfloat16."""
    rnn = build(subject, dtype)
    x = sequence(rnn, 2, 3, dtype)[:, 0]
    planned = network_of(rnn.cell, x, rnn.initial_state(2)).plan(False)
    for section in planned.sections:
        if section.kind in ("loop", "parallel") and why_not(section) is None:
            for bfloat16 in (False, True):
                one = CompiledSection(section, bfloat16, memory_bound=True)
                derivative = one.derivative(tuple(v.dtype.is_floating_point for v in one.section.inputs))
                for part in (one.plain, derivative.forward, derivative.backward):
                    if part.kernel.outputs or part.kernel.carries or part.kernel.sums:
                        yield part.kernel


def test_a_description_says_all_that_the_text_follows_from():
    texts = {}
    for subject in ("gru", "layer-norm-lstm"):
        for dtype in (torch.float32, torch.float64):
            for kernel in kernels(subject, dtype):
                lowered = lower(kernel, target.host())
                text = by_rows.text(lowered)
                assert texts.setdefault(lowered.description, text) == text
    assert len(texts) > 20


def test_tiles_are_compiled_once_for_all_kernels(compiled, monkeypatch):
    monkeypatch.setattr(kernel_code, "_tiles_of", functools.cache(kernel_code._tiles_of.__wrapped__))

    def tiles_defined(units, dtype):
        before = len(compiled)
        td.Recurrent(td.GRUCell(5, units).to(dtype), engine="cpu")(torch.randn(7, 3, 5, dtype=dtype))
        calling = [text for text in compiled[before:] if re.search(r'^declare .*@"?tile', text, re.MULTILINE)]
        assert calling  # a kernel of its own
        return sum(len(re.findall(r'^define .*@"?tile', text, re.MULTILINE)) for text in compiled[before:])

    lanes = target.host().lanes(4)
    assert tiles_defined(5 * lanes, torch.float32) > 1
    assert tiles_defined(7 * lanes, torch.float32) == 0
    assert tiles_defined(5 * lanes, torch.float64) > 1


def test_what_is_called_lives_as_long_as_its_caller(monkeypatch):
    for known in ("_libraries", "_recalled"):
        monkeypatch.setattr(compilation, known, weakref.WeakValueDictionary())
    called = [compilation.recall("called", ("double it",), lambda: TEXT, target.host())]
    text = 'declare void @"double it"(ptr)\ndefine void @f(ptr %p) {\n  call void @"double it"(ptr %p)\n  ret void\n}'
    caller = compilation.recall("caller", ("f",), lambda: text, target.host(), lambda: {"double it": called[0]})
    gone = weakref.ref(called.pop())
    gc.collect()
    assert gone() is not None
    numbers = (ctypes.c_float * 16)(*range(16))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(caller.address("f"))(ctypes.addressof(numbers))
    assert list(numbers) == [2 * i for i in range(16)]
    del caller
    gc.collect()
    assert gone() is None
