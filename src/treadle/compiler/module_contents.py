"""What a module holds while its step is traced: the tensors that become inputs, and whether anything changed."""

import functools
from typing import Any

from torch import Tensor, nn

from treadle.compiler.source_lines import first_line
from treadle.compiler.tracer import Traced
from treadle.errors import TraceError


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a module holds, by path: parameters, buffers, and plain attributes."""
    found: dict[str, Tensor] = {}
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        for group in (part._parameters, part._buffers, vars(part)):
            for name, tensor in group.items():
                if isinstance(tensor, Tensor):
                    found[prefix + name] = tensor
    return found


class Contents:
    """What a module's parts hold, lists and dicts among it, to see whether a step changes that, and to undo it."""

    def __init__(self, cell: nn.Module):
        self.copies: list[tuple[nn.Module, str, Any, Any]] = []
        for part in cell.modules():
            held = vars(part)
            self.copies.append((part, "", held, dict(held)))
            self.copies += [
                (part, name, value, value.copy())
                for name, value in held.items()
                if isinstance(value, (list, dict, set))
            ]

    def check(self) -> None:
        """Refuse a step that remembers something in the module."""
        for part, name, container, before in self.copies:
            for inner in self._changed(container, before):
                cached = isinstance(getattr(type(part), str(inner), None), functools.cached_property)
                if not name and cached and not _holds_traced(container.get(inner)):
                    continue
                code = getattr(type(part).forward, "__code__", None)
                line = first_line(code) if code else "a step"
                attribute = inner if not name or name.startswith("_") else name
                raise TraceError(
                    f"{line}: {type(part).__name__} keeps something in self.{attribute}: a step remembers in its"
                    " state alone"
                )

    def restore(self) -> None:
        """Put everything back."""
        for _, _, container, before in self.copies:
            if self._changed(container, before):
                container.clear()
                container.extend(before) if isinstance(container, list) else container.update(before)

    @staticmethod
    def _changed(container: Any, before: Any) -> list[Any]:
        if isinstance(container, dict):
            nothing = object()
            return [k for k in {**before, **container} if container.get(k, nothing) is not before.get(k, nothing)]
        if isinstance(container, list):
            same = len(container) == len(before) and all(a is b for a, b in zip(container, before, strict=True))
            return [] if same else [""]
        return list(container ^ before)


def _holds_traced(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_traced, value))
    return any(map(_holds_traced, value.values())) if isinstance(value, dict) else isinstance(value, Traced)
