"""What is known of a machine, also of those that the tests do not run on: LLVM compiles for all of them."""

import llvmlite.binding as llvm
import pytest

from treadle.engines.cpu.machine import follower, target

ARM = {"linux": "aarch64-unknown-linux-gnu", "macos": "arm64-apple-darwin23.0.0"}
X86 = "x86_64-unknown-linux-gnu"


@pytest.fixture(scope="module", autouse=True)
def _every_target():
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def assembly(of: target.Target, text: str) -> str:
    module = llvm.parse_assembly(f'target triple = "{of.triple}"\n{text}')
    machine = llvm.Target.from_triple(of.triple).create_target_machine(cpu=of.cpu, features=of.features)
    return machine.emit_assembly(module)


@pytest.mark.parametrize("cpu", ["generic", "neoverse-n1", "neoverse-v1", "apple-m1"])
@pytest.mark.parametrize("system", ARM)
def test_who_waits_lets_the_core_rest_on_arm(system, cpu):
    arm = target.described(ARM[system], cpu, "")
    assert "\tisb" in assembly(arm, follower._text(arm))


def test_who_waits_lets_the_core_rest_on_x86():
    x86 = target.described(X86, "x86-64-v3", "+avx2")
    assert "\tpause" in assembly(x86, follower._text(x86))


@pytest.mark.parametrize("features", ["", "+fp-armv8", "+neon,+sve"])
@pytest.mark.parametrize("system", ARM)
def test_every_arm_has_vectors_whatever_llvm_says_of_it(system, features):
    arm = target.described(ARM[system], "generic", features)
    assert "neon" in target.runnable(arm)
    assert target.restrict(arm, "neon").vector_bytes == 16
    assert arm.registers == 32
    assert arm.features.split(",").count("+neon") == 1


def test_an_x86_has_no_neon():
    with pytest.raises(target.EngineError, match="lacks neon"):
        target.restrict(target.described(X86, "x86-64", "+sse2"), "neon")
