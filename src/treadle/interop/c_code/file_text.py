"""The C file: what it declares, its constants, the step, and a test of itself."""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor

from treadle.compiler.program import Value
from treadle.interop.c_code.functions import literal, own_functions
from treadle.interop.c_code.scalars import c_type
from treadle.interop.c_code.step_body import StepBody
from treadle.interop.exported_step import ExportedStep, as_array

_C_TYPES = {"float32": "float", "float64": "double", "int8": "signed char", "int64": "int64_t", "int32": "int32_t"}
_C_TYPES |= {"bool": "unsigned char", "uint8": "uint8_t", "int16": "int16_t"}
_WIDTH = 112
RECORDED = 5
"""How many steps the test of a file takes."""


def file_text(step: ExportedStep, prefix: str, quantised: bool, tolerance: float, about: str) -> str:
    """One C99 file: the step, and a test that takes recorded steps."""
    fields = field_names(step.initial)
    body = StepBody(step.program, step.constants, fields, prefix, quantised)
    y, x = step.program.outputs["y"], step.program.inputs["x"]
    tested = _self_test(step, fields, prefix, tolerance)
    constants = [_array(name, numbers) for name, numbers in body.arrays.items()]
    functions = own_functions(body.functions, prefix)
    lines = [line.replace("{", "").strip() for line in body.lines]
    stack = sum(_bytes(line) for line in lines)
    return "\n".join(
        [
            _heading(step, prefix, about, fields, stack, sum(a.nbytes for a in body.arrays.values())),
            *(["/* Constants */\n", *constants] if constants else []),
            *(["/* Functions */\n", *functions] if functions else []),
            f"void {prefix}_step(const {c_type(x)} *x, {c_type(y)} *y, {prefix}_state *state)",
            "{",
            *([] if any("state->" in line for line in body.lines) else ["    (void)state;"]),
            *([] if any(re.search(r"\bx\[", line) for line in body.lines) else ["    (void)x;"]),
            *body.lines,
            "}\n",
            tested,
            "#endif",
            "",
        ]
    )


def field_names(components: Iterable[str]) -> dict[str, str]:
    """What the components of a state are called in C, by the names of the program's inputs."""
    names: dict[str, str] = {}
    for component in components:
        name = re.sub(r"\W+", "_", component.removeprefix("state/")).strip("_") or "state"
        name = f"_{name}" if name[0].isdigit() else name
        while name in names.values():
            name += "_"
        names[component] = name
    return names


def _heading(step: ExportedStep, prefix: str, about: str, fields: Mapping[str, str], stack: int, constants: int) -> str:
    y, x = step.program.outputs["y"], step.program.inputs["x"]
    guard = prefix.upper()
    members = [
        f"    {c_type(step.program.inputs[name])} {field}[{max(1, step.program.inputs[name].row_numel)}];"
        for name, field in fields.items()
    ]
    return f"""/* {about}

   One step of a network with memory, in C99, without dependencies and without malloc.

       {prefix}_state state = {prefix}_rest;       // before the first step
       {prefix}_step(x, y, &state);                // once for every step

   x has {guard}_INPUTS numbers, y {guard}_OUTPUTS. {prefix}_selftest() is 0 where recorded steps come out right.
   Constants take {constants} bytes, a state sizeof({prefix}_state), a step about {stack} bytes of stack.
   Elsewhere, #define {guard}_DECLARATIONS and #include this file for its declarations alone. */

#ifndef {guard}_DECLARED
#define {guard}_DECLARED

#include <stdint.h>

enum {{ {guard}_INPUTS = {max(1, x.row_numel)}, {guard}_OUTPUTS = {max(1, y.row_numel)} }};

typedef struct {prefix}_state {{
{chr(10).join(members or ["    char nothing;"])}
}} {prefix}_state;

extern const {prefix}_state {prefix}_rest;
void {prefix}_step(const {c_type(x)} *x, {c_type(y)} *y, {prefix}_state *state);
int {prefix}_selftest(void);

#endif

#ifndef {guard}_DECLARATIONS

#include <math.h>
#include <string.h>

{_state(f"const {prefix}_state {prefix}_rest", step.initial, fields)}"""


def _state(declared: str, tensors: Mapping[str, Tensor], fields: Mapping[str, str]) -> str:
    parts = [f"    .{field} = {{\n{_numbers(as_array(tensors[name]))}\n    }}" for name, field in fields.items()]
    return f"{declared} = {{\n" + (",\n".join(parts) or "    0") + "\n};\n"


def _array(name: str, numbers: np.ndarray) -> str:
    return (
        f"static const {_C_TYPES[str(numbers.dtype)]} {name}[{max(1, numbers.size)}] = {{\n{_numbers(numbers)}\n}};\n"
    )


def _numbers(array: np.ndarray) -> str:
    type = _C_TYPES[str(array.dtype)]
    words = [literal(number, type) for number in array.reshape(-1).tolist()] or ["0"]
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) > _WIDTH:
            lines.append(line.rstrip())
            line = ""
        line += f"{word}, "
    return "\n".join("    " + one for one in [*lines, line.rstrip(", ")])


def _bytes(line: str) -> int:
    found = re.fullmatch(r"(float|double|int64_t|int32_t|unsigned char) [bs]\d+\[(\d+)\];", line)
    width = {"float": 4, "double": 8, "int64_t": 8, "int32_t": 4, "unsigned char": 1}
    return width[found[1]] * int(found[2]) if found else 0


def _self_test(step: ExportedStep, fields: Mapping[str, str], prefix: str, tolerance: float) -> str:
    xs, ys, after = step.recorded(RECORDED)
    y, x = step.program.outputs["y"], step.program.inputs["x"]
    checks = [
        f"    {_failure(step.program.inputs[name], f'state.{field}', f'{prefix}_after.{field}', prefix)}"
        for name, field in fields.items()
    ]
    xs, ys = xs.reshape(RECORDED, -1), ys.reshape(RECORDED, -1)
    guard = prefix.upper()
    return f"""/* Test */

{_array(f"{prefix}_xs", as_array(xs))}
{_array(f"{prefix}_ys", as_array(ys))}
{_state(f"static const {prefix}_state {prefix}_after", after, fields) if fields else ""}
static int {prefix}_differs(double found, double wanted)
{{
    return !(fabs(found - wanted) <= {tolerance:g} * (1.0 + fabs(wanted)));
}}

int {prefix}_selftest(void)
{{
    {prefix}_state state = {prefix}_rest;
    {c_type(y)} y[{guard}_OUTPUTS];
    int failures = 0;
    for (int t = 0; t < {RECORDED}; t++) {{
        const {c_type(x)} *const x = {prefix}_xs + t * {guard}_INPUTS;
        {prefix}_step(x, y, &state);
        {_failure(y, "y", f"{prefix}_ys", prefix, f"t * {guard}_OUTPUTS + ")}
    }}
{chr(10).join(checks)}
    return failures;
}}
"""


def _failure(value: Value, found: str, wanted: str, prefix: str, offset: str = "") -> str:
    size = max(1, value.row_numel)
    return (
        f"for (int i = 0; i < {size}; i++)\n        failures += {prefix}_differs((double){found}[i],"
        f" (double){wanted}[{offset}i]);"
    )
