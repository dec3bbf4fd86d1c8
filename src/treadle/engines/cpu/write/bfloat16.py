"""bfloat16 in LLVM: the type, which llvmlite has no name for, and the instruction that multiplies pairs."""

from typing import Any

from llvmlite import ir


class BFloat(ir.Type):
    """LLVM's ``bfloat``."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


def multiply_pairs(build: Any, a: Any, w: Any, c: Any) -> Any:
    """``c`` [float32 lanes] plus, in each lane, both products of a pair of bfloat16 of ``a`` and one of ``w``."""
    lanes = c.type.count
    half = ir.VectorType(BFloat(), 2 * lanes)
    name = f"llvm.x86.avx512bf16.dpbf16ps.{lanes * 32}"
    module = build.module
    function = module.globals.get(name) or ir.Function(module, ir.FunctionType(c.type, [c.type, half, half]), name)
    return build.call(function, [c, build.bitcast(a, half), build.bitcast(w, half)])
