"""The innermost loops of assembly, as LLVM prints it for x86 and Arm."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LABEL = re.compile(r'^"?([\w.$]+)"?:')
_BRANCH = re.compile(r"^\s+(?:b\.\w+|cbn?z|tbn?z|j[a-z]+)\s+(?:.*,\s*)?([\w.$]+)\s*$")
_FUSED = re.compile(r"^\s+(?:fmla|vfn?m(?:add|sub)\d+p[sd]|bfdot|vdpbf16ps)\b")
_STACK = re.compile(r"\bsp\b|%rsp\b")  # frame pointers are registers like others: LLVM needs none


@dataclass(frozen=True)
class Loop:
    """A loop without another one, or a choice, inside.

    Attributes:
        function: in which it is.
        label: where the branch back goes.
        lines: its instructions, the branch back at the end.
    """

    function: str
    label: str
    lines: tuple[str, ...]

    @property
    def multiply_adds(self) -> int:
        """How many instructions multiply vectors and add."""
        return sum(bool(_FUSED.match(line)) for line in self.lines)

    @property
    def on_stack(self) -> list[str]:
        """The instructions that read or write the stack: what is there did not fit into registers."""
        return [line.strip() for line in self.lines if _STACK.search(line)]


def inner_loops(assembly: str) -> Iterator[Loop]:
    """All of them, in order."""
    function, label, body = "", "", list[str]()
    for line in assembly.splitlines():
        if found := _LABEL.match(line):
            label, body = found[1], []
            if not label.startswith((".L", "L")):
                function = label
        elif line.startswith("\t") and not line.startswith("\t."):
            body.append(line.partition("//")[0].partition("##")[0].rstrip())
            branch = _BRANCH.match(body[-1])
            if branch and branch[1] == label:
                yield Loop(function.removeprefix("_"), label, tuple(body))
