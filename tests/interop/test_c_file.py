"""Networks as C: against the cell's own Python, under strict compilers, sanitisers, and on other machines."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests import registry
from tests.interop.stateless import Stateless
from treadle.errors import InteropError, ShapeError, TraceError

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler: apt-get install gcc")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
MAIN = "int net_selftest(void);\nint main(void) { return net_selftest() != 0; }\n"


def written(subject: str, dtype=torch.float32, **options) -> td.interop.Report:
    rnn = registry.build(subject, dtype)
    return td.interop.to_c(rnn, "net.c", input_size=3 if rnn.input_size is None else None, **options)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.c").write_text(MAIN)
    return tmp_path


def built(compiler: str, *options: str) -> None:
    subprocess.run([compiler, *STRICT, *options, "net.c", "main.c", "-o", "net", "-lm"], check=True)


@needs_cc
@pytest.mark.share(6)
@pytest.mark.parametrize("subject", registry.SUBJECTS)
def test_every_cell_and_wiring(subject):
    report = written(subject)
    assert report.difference is not None
    assert report.difference <= 2e-6
    assert "200 steps" in str(report)
    built("cc", "-O1")
    subprocess.run(["./net"], check=True)


@needs_cc
@pytest.mark.share(3)
@pytest.mark.parametrize("subject", [*registry.STACKS, "conv-lstm", "slstm-two-heads", "graph-tokens", "own-cell"])
def test_clean_under_sanitisers(subject):
    written(subject, compiler=None)
    built("cc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    subprocess.run(["./net"], check=True)


@needs_cc
def test_double_precision():
    assert (written("layer-norm-lstm", torch.float64).difference or 0) <= 1e-13


@needs_cc
def test_own_loop_against_a_session():
    """What a person writes who includes the file: the declarations elsewhere, steps in a loop, several states."""
    torch.manual_seed(0)
    rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 7), td.GRUCell(7, 5)]))
    td.interop.to_c(rnn, "voice.c", name="voice")
    Path("loop.c").write_text(
        '#define VOICE_DECLARATIONS\n#include "voice.c"\n'
        "void loop(int steps, const float *xs, float *ys) {\n"
        "    voice_state one = voice_rest, other = voice_rest;\n"
        "    float ignored[VOICE_OUTPUTS];\n"
        "    for (int t = 0; t < steps; t++) {\n"
        "        voice_step(xs + t * VOICE_INPUTS, ys + t * VOICE_OUTPUTS, &one);\n"
        "        voice_step(xs, ignored, &other);\n    }\n}\n"
    )
    subprocess.run(["cc", *STRICT, "-O3", "-shared", "-fPIC", "voice.c", "loop.c", "-o", "voice.so", "-lm"], check=True)
    xs, ys = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), np.zeros((50, 5), np.float32)
    ctypes.CDLL("./voice.so").loop(50, xs.ctypes.data_as(ctypes.c_void_p), ys.ctypes.data_as(ctypes.c_void_p))
    np.testing.assert_allclose(ys, rnn.session().steps(xs), rtol=0, atol=1e-6)


@needs_cc
def test_functions_are_right_everywhere():
    """At the ends, for tiny, huge and infinite numbers, and for NaN."""

    def functions(x):
        parts = [x.exp(), x.sigmoid(), x.tanh(), nn.functional.logsigmoid(x), x.sign(), x.clamp(min=-1.0), x.abs()]
        parts += [torch.maximum(x, x * 0), (x * x + 1).sqrt(), x.round(), x.reciprocal(), (x * x + 1).pow(0.3)]
        return torch.cat(parts, 1)

    cell = Stateless(1, functions)
    td.interop.to_c(cell, "net.c")
    subprocess.run(["cc", *STRICT, "-O3", "-shared", "-fPIC", "net.c", "-o", "net.so", "-lm"], check=True)
    handle, state = ctypes.CDLL("./net.so"), (ctypes.c_float * 1)()
    tiny = [0.0, -0.0, 1e-38, -1e-38, 1e-7, -1e-7, 1e-3, 0.3, -0.3]
    xs = [*tiny, *np.linspace(-110, 110, 2001), np.inf, -np.inf, np.nan, 88.7, -103.5, 3e38]
    for number in np.array(xs, np.float32):
        wanted = cell(torch.tensor([[number]]), (torch.zeros(1, 1),))[0][0].numpy()
        y = (ctypes.c_float * len(wanted))()
        handle.net_step((ctypes.c_float * 1)(number), y, state)
        np.testing.assert_allclose(np.array(y), wanted, rtol=3e-6, atol=1e-37, err_msg=str(number))


@needs_cc
def test_int8_says_what_it_costs():
    rnn = registry.build("stack-stack", torch.float32)
    whole = td.interop.to_c(rnn, "whole.c")
    report = td.interop.to_c(rnn, "net.c", weights="int8")
    assert report.difference is not None
    assert report.difference <= 2e-6  # from the rounded network
    distance = float(report.notes[0].removeprefix("int8: ").split()[0])
    assert 1e-4 < distance < 0.05  # of 255 levels
    assert whole.notes == ()
    built("cc", "-O2")
    subprocess.run(["./net"], check=True)
    assert "static const signed char" in Path("net.c").read_text()


@needs_cc
def test_a_state_that_moves_through_its_parts():
    """Delayed outputs hand each other on; two parts change places: no part is overwritten before it was read."""

    class Swaps(nn.Module):
        input_size = 2

        def initial_state(self, batch_size):
            start = torch.arange(6.0).reshape(1, 6).expand(batch_size, 6)
            return tuple(start[:, 2 * i : 2 * i + 2] for i in range(3))

        def forward(self, x, state):
            a, b, _ = state
            return x + a, (b, a, x)

    assert td.interop.to_c(Swaps(), "net.c").difference == 0


def test_what_cannot_be_said_is_refused_by_name():
    with pytest.raises(TraceError, match=r"test_c_file.py:\d+: aten.cumsum cannot be said in C"):
        td.interop.to_c(Stateless(3, lambda x: x.cumsum(1)), "net.c", compiler=None)
    with pytest.raises(ShapeError, match="pass input_size="):
        td.interop.to_c(registry.CountingCell(), "net.c", compiler=None)
    with pytest.raises(TraceError, match="bfloat16"):
        td.interop.to_c(td.LSTMCell(3, 4).bfloat16(), "net.c", compiler=None)
    with pytest.raises(ValueError, match="an identifier such as 'net'"):
        td.interop.to_c(td.LSTMCell(3, 4), "net.c", name="2 nets")
    with pytest.raises(ValueError, match="'float32' or 'int8'"):
        td.interop.to_c(td.LSTMCell(3, 4), "net.c", weights="int4")
    with pytest.raises(TypeError, match="this is a Linear"):
        td.interop.to_c(nn.Linear(3, 4), "net.c")
    with pytest.raises(InteropError, match="there is no C compiler 'no-such-cc'"):
        td.interop.to_c(td.LSTMCell(3, 4), "net.c", compiler="no-such-cc")


@needs_cc
def test_nothing_is_written_where_both_sides_differ(folder, monkeypatch):
    monkeypatch.setattr("treadle.interop.c_code.functions.EXP", {23: (0.5, 0.1), 52: (0.5, 0.1)})
    with pytest.raises(InteropError, match="nothing was written"):
        td.interop.to_c(td.LSTMCell(3, 4), "net.c")
    assert {path.name for path in folder.iterdir()} == {"main.c"}


def machine(compiler: str, emulator: str) -> object:
    lacking = [tool for tool in (compiler, emulator) if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"there is no {' and no '.join(lacking)}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "emulator"),
    [
        pytest.param(*pair, marks=machine(*pair))
        for pair in [("aarch64-linux-gnu-gcc", "qemu-aarch64"), ("riscv64-linux-gnu-gcc", "qemu-riscv64")]
    ],
)
@pytest.mark.share(8)
@pytest.mark.parametrize("subject", registry.SUBJECTS)
def test_on_other_machines(subject, compiler, emulator):
    written(subject, compiler=None)
    built(compiler, "-O2", "-static")
    subprocess.run([emulator, "./net"], check=True)


START = """
int main(void);
void start(void)
{
    static const unsigned int text[] = {0x20026, 0x20023}; /* the application ended: well, or not */
    const int status = main();
    register unsigned int operation __asm__("r0") = 0x18, reason __asm__("r1") = text[status != 0];
    __asm__ volatile("bkpt 0xab" : : "r"(operation), "r"(reason));
    for (;;) { }
}
__attribute__((section(".vectors"), used)) void *const vectors[] = {(void *)0x20300000, (void *)start};
int *__errno(void) { static int number; return &number; }
"""


@pytest.mark.slow
@machine("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.share(6)
@pytest.mark.parametrize("subject", registry.SUBJECTS)
def test_on_a_microcontroller(subject, folder):
    """A Cortex-M3 without an operating system and without a unit for floats, emulated."""
    written(subject, compiler=None)
    (folder / "start.c").write_text(START)
    words = ["arm-none-eabi-gcc", "-mcpu=cortex-m3", "-mthumb", "-O2", "-std=gnu99", "-nostartfiles"]
    words += ["-Wl,--section-start=.vectors=0", "-Wl,-Ttext=0x400", "-Wl,-Tdata=0x20000000"]
    subprocess.run([*words, "start.c", "net.c", "main.c", "-o", "net.elf", "-lm"], check=True)
    emulator = ["qemu-system-arm", "-M", "mps2-an385", "-nographic", "-semihosting", "-kernel", "net.elf"]
    subprocess.run(emulator, check=True, timeout=60, stdin=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cppcheck") is None, reason="there is no cppcheck: apt-get install cppcheck")
@pytest.mark.share(8)
@pytest.mark.parametrize("subject", registry.SUBJECTS)
def test_cppcheck_has_nothing_to_say(subject):
    written(subject, compiler=None)
    words = ["cppcheck", "--std=c99", "--enable=warning,performance,portability", "--inconclusive"]
    subprocess.run([*words, "--error-exitcode=1", "--quiet", "net.c"], check=True)
