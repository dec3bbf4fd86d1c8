"""Vectors of LLVM with the operators of numbers, so that formulas are written as formulas.

Multiply-adds are ``llvm.fmuladd``: one instruction wherever the target has one, two elsewhere. ``llvm.fma`` would be a
call of ``fmaf`` there, lane by lane. So no formula may rely on the product being exact: where that matters, constants
and operands are short enough that it is.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias, Union

from llvmlite import ir

from treadle.approximations import DOUBLE, FLOAT

Number: TypeAlias = float | int
Operand: TypeAlias = Union["Vector", float, int]


class Same(ir.Constant):
    """A number in all lanes of a vector, in a word where llvmlite writes each lane; undefined without a number."""

    def __init__(self, kind: ir.VectorType, number: Number | None = None):
        self.type: Any = kind
        self.constant: Any = (ir.Constant(kind.element, ir.Undefined if number is None else number),) * kind.count

    def _get_reference(self) -> str:
        one = self.constant[0]
        return "undef" if one.constant is ir.Undefined else f"splat ({one})"


class Vector:
    """A vector value with operators; numbers beside it are spread over its lanes."""

    def __init__(self, builder: ir.IRBuilder, value: Any):
        self.builder: Any = builder  # llvmlite's methods have no types, and pyright infers wrong ones
        self.value, self.type = value, value.type
        self.single = value.type.element == ir.FloatType()
        self.mantissa, self.bias = (FLOAT, 127) if self.single else (DOUBLE, 1023)
        self.integer = ir.VectorType(ir.IntType(32 if self.single else 64), value.type.count)

    def lift(self, operand: Operand) -> ir.Value:
        """An operand as LLVM knows it, a number in all lanes."""
        if isinstance(operand, Vector):
            return operand.value
        return Same(self.type, float(operand))

    def new(self, value: ir.Value) -> "Vector":
        return Vector(self.builder, value)

    def __add__(self, other: Operand) -> "Vector":
        return self.new(self.builder.fadd(self.value, self.lift(other)))

    def __sub__(self, other: Operand) -> "Vector":
        return self.new(self.builder.fsub(self.value, self.lift(other)))

    def __rsub__(self, other: Number) -> "Vector":
        return self.new(self.builder.fsub(self.lift(other), self.value))

    def __mul__(self, other: Operand) -> "Vector":
        return self.new(self.builder.fmul(self.value, self.lift(other)))

    def __truediv__(self, other: Operand) -> "Vector":
        return self.new(self.builder.fdiv(self.value, self.lift(other)))

    def __rtruediv__(self, other: Number) -> "Vector":
        return self.new(self.builder.fdiv(self.lift(other), self.value))

    def __neg__(self) -> "Vector":
        return self.new(self.builder.fneg(self.value))

    __radd__, __rmul__ = __add__, __mul__

    def compare(self, operator: str, other: Operand) -> ir.Value:
        """A mask of the lanes where it holds, false beside NaN (but not for ``!=``)."""
        compare = self.builder.fcmp_unordered if operator == "!=" else self.builder.fcmp_ordered
        return compare(operator, self.value, self.lift(other))

    def where(self, mask: ir.Value, other: Operand) -> "Vector":
        """This where the mask is set, the other elsewhere."""
        return self.new(self.builder.select(mask, self.value, self.lift(other)))

    def replaced(self, mask: ir.Value, other: Operand) -> "Vector":
        """The other where the mask is set, this elsewhere."""
        return self.new(self.builder.select(mask, self.lift(other), self.value))

    # Both keep NaN, and in this order of operands are x86's minps and maxps.
    def at_most(self, limit: Number) -> "Vector":
        return self.replaced(self.builder.fcmp_ordered("<", self.lift(limit), self.value), limit)

    def at_least(self, limit: Number) -> "Vector":
        return self.replaced(self.builder.fcmp_ordered(">", self.lift(limit), self.value), limit)

    def intrinsic(self, name: str, *others: Operand, fastmath: Sequence[str] = ()) -> "Vector":
        """One of LLVM's functions of vectors of one type."""
        operands = [self.value, *map(self.lift, others)]
        signature = ir.FunctionType(self.type, [self.type] * len(operands))
        function = declared(self.builder.module, f"llvm.{name}.{suffix(self.type)}", signature)
        return self.new(self.builder.call(function, operands, fastmath=fastmath))

    def multiply_add(self, factor: Operand, term: Operand) -> "Vector":
        return self.intrinsic("fmuladd", factor, term)

    def polynomial(self, coefficients: Sequence[Number]) -> "Vector":
        """By Horner's rule."""
        *rest, before, leading = coefficients
        result = self.multiply_add(leading, before)
        for coefficient in reversed(rest):
            result = result.multiply_add(self, coefficient)
        return result

    def abs(self) -> "Vector":
        return self.intrinsic("fabs")

    def with_sign_of(self, other: "Vector") -> "Vector":
        return self.intrinsic("copysign", other)

    # Numbers as bits. `bits` and `number` change the type, not the bits.
    def bits(self) -> ir.Value:
        return self.builder.bitcast(self.value, self.integer)

    def number(self, bits: ir.Value) -> "Vector":
        return self.new(self.builder.bitcast(bits, self.type))

    def whole(self, value: int) -> ir.Constant:
        return Same(self.integer, value)

    def bits_of(self, value: Number) -> int:
        """The bits of a number whose mantissa has few digits (of this type, not of Python's)."""
        fraction, exponent = math.frexp(value)
        return (exponent - 2 + self.bias << self.mantissa) + int(math.ldexp(fraction, self.mantissa + 1))

    def cut(self) -> "Vector":
        """With the lower half of the mantissa zero, so that products of two such are exact."""
        return self.number(self.builder.and_(self.bits(), self.whole(-1 << (self.mantissa + 2) // 2)))


def suffix(type: ir.VectorType) -> str:
    """What the names of LLVM's intrinsics, and of our functions, end in: ``v16f32``."""
    return f"v{type.count}{'f32' if type.element == ir.FloatType() else 'f64'}"


def declared(module: ir.Module, name: str, signature: ir.FunctionType) -> ir.Function:
    """The function of that name, declared in a module once."""
    return module.globals.get(name) or ir.Function(module, signature, name)
