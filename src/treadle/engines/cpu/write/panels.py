"""A few rows by several threads: each computes some of the columns of every product.

Rows cannot be shared out where there is one. But what a few rows wait for are the weights, which come from a far cache,
and two cores read twice as fast as one. So each thread has panels of every matrix, always the same ones, which then lie
in its own core's cache; between phases the threads wait for each other.

This is done for one step of a session (``columns.py``), and for all steps of a sequence (``abreast.py``).
"""

from collections.abc import Callable
from typing import Any

from treadle.compiler.program import Value
from treadle.engines.cpu.write.emit import Emitter

__all__ = ["PanelEmitter"]


class PanelEmitter(Emitter):
    """Writes kernels whose scratch is shared by threads that each compute some panels of every product."""

    own: Any
    """The address of what is the thread's own."""
    first_panel: Any
    last_panel: Any

    def panels_of(self, phase: Any) -> int:
        """Into how many parts a phase can be divided."""
        if isinstance(phase, list):
            return 1
        return self.packings[phase if isinstance(phase, Value) else phase.fused[0].product].panels

    def _own(self) -> Any:
        return self.own

    def _all_panels(self, whole: int, rest: bool, panel_of: Callable[[Any, bool], None]) -> None:
        b = self.b
        with self.loop(self.first_panel, self._minimum(self.last_panel, self.const(whole)), self.const(1)) as panel:
            panel_of(panel, True)
        if rest:
            with b.if_then(b.icmp_signed(">", self.last_panel, self.const(whole))):
                panel_of(self.const(whole), False)

    def _row_address(self, key: Any, r: Any) -> Any:
        start = self.b.mul(self.table["capacity"], self.const(self.row_start[key]))
        return self._at(self.scratch, self.b.add(start, self.b.mul(r, self.const(self.row_size[key]))))
