"""Loops of products on CPUs that need not be here: they keep them as busy as LLVM says that these can be."""

import pytest

from benchmarks import tile_throughput
from benchmarks.inner_loops import inner_loops

COMMAND = tile_throughput.analyser()
needs_analyser = pytest.mark.skipif(COMMAND is None, reason="there is no llvm-mca of LLVM 17 or later")


@pytest.fixture(scope="module")
def rows():
    return list(tile_throughput.rows(COMMAND or ""))


@needs_analyser
def test_full_tiles_reach_the_peak(rows):
    full = [row for row in rows if row.product != "one row"]
    assert {row.cpu for row in full} == {"haswell", "znver3", "neoverse-n1", "neoverse-v1", "apple-m1"}
    assert [row for row in full if row.speed < 0.95 * row.peak] == []
    assert [row for row in rows if row.speed > 1.01 * row.peak] == []


@needs_analyser
def test_one_row_does_not_wait_for_its_sums_on_arm(rows):
    """Eight sums begin two multiply-adds in a cycle, where each waits four cycles, if as many vectors are read."""
    alone = [row for row in rows if row.product == "one row" and row.vectors == 8 and "neoverse" in row.cpu]
    assert len(alone) == 4
    assert [row for row in alone if row.speed < 0.93 * 2] == []


@needs_analyser
def test_the_page_has_this_table(rows, monkeypatch):
    monkeypatch.setattr(tile_throughput, "rows", lambda command: rows)
    table = tile_throughput.table(COMMAND or "")
    page = tile_throughput.PAGE.read_text()
    made = table.splitlines()[-1]
    if made not in page:
        pytest.skip(f"the page's table is of another LLVM: {made}")
    assert tile_throughput.page_with(table) == page, "python -m benchmarks.tile_throughput makes it again"


def test_a_loop_is_what_branches_back_to_the_last_label():
    text = """
f:
.LBB0_1:
	vmovups	(%rsi), %ymm1
	vfmadd231ps	%ymm1, %ymm0, %ymm2
	vmovups	%ymm2, 32(%rsp)
	jne	.LBB0_1
	b.lt	.LBB0_1
_g:
LBB1_1:
	cbz	x1, LBB1_2
LBB1_2:
	fmla.4s	v0, v1, v2[1]           // comment
	subs	x1, x1, #1
	b.ne	LBB1_2
	ret
"""
    first, *_, last = inner_loops(text)
    assert (first.function, first.multiply_adds, first.on_stack) == ("f", 1, ["vmovups\t%ymm2, 32(%rsp)"])
    assert (last.function, last.label, last.multiply_adds, last.on_stack) == ("g", "LBB1_2", 1, [])
