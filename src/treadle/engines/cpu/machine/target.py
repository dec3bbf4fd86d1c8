"""The machine that code is made for: which vectors it has, and how many registers to keep sums in."""

import enum
import functools
import os
from dataclasses import dataclass

import llvmlite.binding as llvm

from treadle.errors import EngineError

SSE4 = frozenset({"cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3"})
AVX2 = SSE4 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"}
AVX512 = AVX2 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}

LEVELS = {
    "avx512": ("x86-64-v4", AVX512),
    "avx2": ("x86-64-v3", AVX2),
    "sse4": ("x86-64-v2", SSE4),
    "neon": ("generic", frozenset({"neon"})),
}
"""What a target can be restricted to: LLVM's name of such a CPU, and the features that it needs."""


_X86 = "x86_64", "i386", "i686"


class Dots(enum.Enum):
    """What adds four products of bytes to each lane of 32 bits; see ``write/int8_dots.py``."""

    UNSIGNED = "unsigned bytes with signed ones: vpdpbusd of VNNI"
    SIGNED = "signed bytes: sdot of Arm"


@dataclass(frozen=True)
class Target:
    """A CPU as LLVM knows it, and what the code generators need to know of it.

    There is a fused multiply-add everywhere but under ``"sse4"``, where LLVM would call libm for each lane of
    ``llvm.fma``: ask for ``llvm.fmuladd``, which is fused wherever that is fast.
    """

    triple: str
    cpu: str
    features: str
    """As LLVM reads them: ``"+avx2,-avx512f"``."""
    vector_bytes: int
    """Bytes in a vector register: 64 with AVX-512, 32 with AVX2, otherwise 16."""
    registers: int
    """How many vector registers there are."""
    bf16_dot: bool
    """Whether one instruction multiplies pairs of bfloat16 and adds them to float32 (AVX-512 BF16)."""

    @property
    def pause(self) -> tuple[str, list[int]]:
        """LLVM's function that tells the core that it waits, and its arguments; "" where there is none.

        On Arm, ``yield`` does next to nothing; ``isb`` takes about as long as ``pause`` takes on x86.
        """
        if self.triple.startswith("x86_64"):
            return "llvm.x86.sse2.pause", []
        return ("llvm.aarch64.isb", [15]) if _is_arm64(self.triple) else ("", [])

    @property
    def multiplies_by_lane(self) -> bool:
        """Whether a multiply-add takes any lane of a vector as its factor, as on Arm.

        Factors then come a vector at a time. To spread each of them takes as many reads as there are multiply-adds in a
        tile of few columns.
        """
        return _is_arm64(self.triple)

    @property
    def dots(self) -> Dots | None:
        """The instruction that multiplies bytes, if there is one.

        Products of numbers of 16 bits (``vpmaddwd``) are no faster than floats: two digits take as many of them.
        """
        present = _present(self.features)
        if _is_arm64(self.triple):
            return Dots.SIGNED if "dotprod" in present else None
        vnni = {64: "avx512vnni", 32: "avxvnni"}.get(self.vector_bytes)
        return Dots.UNSIGNED if vnni in present else None

    @property
    def masks(self) -> bool:
        """Whether one instruction reads or writes some lanes of a vector: those of AVX2 and AVX-512 do."""
        return self.vector_bytes > 16

    @property
    def indexes(self) -> bool:
        """Whether reads and writes compute their address from a base, an index and a distance, as on x86.

        Loops are then as fast with one index for all that they read. On Arm some need a pointer for each.
        """
        return self.triple.startswith(_X86)

    @property
    def at_once(self) -> int:
        """How many rows of what it multiplies a turn of a large tile's loop takes.

        A tile of 16 registers has a number to read for every two multiply-adds of AVX2. A core that begins four
        instructions in a cycle has none to spare for a turn of the loop then.
        """
        return 2 if self.registers == 16 and self.masks else 1

    def lanes(self, dtype_bytes: int) -> int:
        """How many numbers of that many bytes fit into a vector."""
        return self.vector_bytes // dtype_bytes


@functools.cache
def host() -> Target:
    """This machine, or what the environment variable ``TREADLE_CPU`` restricts it to (see `LEVELS`).

    ``TREADLE_CPU=avx2`` makes a process use the code that a machine without AVX-512 gets; it is read once.

    Raises:
        EngineError: ``TREADLE_CPU`` names what there is not, or what this machine cannot run.
    """
    triple = llvm.get_process_triple()
    features = llvm.get_host_cpu_features()
    target = described(triple, llvm.get_host_cpu_name(), features.flatten())
    level = os.environ.get("TREADLE_CPU", "")
    if not level:
        return target
    try:
        return restrict(target, level)
    except EngineError as error:
        raise EngineError(f"TREADLE_CPU: {error}") from None


def restrict(target: Target, level: str) -> Target:
    """A target with the instructions of one of `LEVELS` only, so that its code also runs wherever the target's does.

    Raises:
        EngineError: there is no such level, or the target lacks some of its instructions.
    """
    if level not in LEVELS:
        raise EngineError(f"there is no CPU level {level!r}: choose one of {', '.join(LEVELS)}")
    cpu, needed = LEVELS[level]
    missing = needed - _present(target.features)
    if missing:
        raise EngineError(
            f"this CPU ({target.cpu}) cannot run code for {level!r}, it lacks {', '.join(sorted(missing))}: "
            f"choose one of {', '.join(runnable(target)) or 'none'}"
        )
    return described(target.triple, cpu, ",".join(f"+{name}" for name in sorted(needed)))


def runnable(target: Target) -> list[str]:
    """The levels that the target can be restricted to, widest first."""
    present = _present(target.features)
    return [level for level, (_, needed) in LEVELS.items() if needed <= present]


def _present(features: str) -> set[str]:
    return {feature[1:] for feature in features.split(",") if feature.startswith("+")}


def _is_arm64(triple: str) -> bool:
    return triple.startswith(("aarch64", "arm64"))  # Linux says the one, macOS the other


def described(triple: str, cpu: str, features: str) -> Target:
    """A CPU, as LLVM names it, its system and its features."""
    if _is_arm64(triple) and "neon" not in _present(features):
        # Each of them has NEON, also those that LLVM does not know by name.
        features = ",".join(filter(None, [features, "+neon"]))
    present = _present(features)
    wide = present >= AVX512
    return Target(
        triple=triple,
        cpu=cpu,
        features=features,
        vector_bytes=64 if wide else 32 if present >= AVX2 else 16,
        registers=16 if triple.startswith(_X86) and not wide else 32,
        bf16_dot=wide and "avx512bf16" in present,
    )
