"""Where rows lie: addresses for a recipe, room that is used again when nobody needs it, rows copied there and back."""

import pytest
import torch

from tests.engines.cpu.plan.test_links import SECTIONS, high, low, weight, x
from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Section
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.frame import Axis, Frame
from treadle.engines.cpu.plan.links import Links
from treadle.engines.cpu.plan.rows import COUNTS, ORIGINS, RESETS, Role, TensorKey, tensors_of_layout
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.cpu.plan.slots import Block, Draft, Slot
from treadle.engines.cpu.plan.supply import Supply
from treadle.engines.layout import Layout

T, B = 5, 4
RUNS = [(0, 2), (2, 4)]


@pytest.fixture
def links():
    return Links(SECTIONS, [CompiledSection(section) for section in SECTIONS], {low, high})


LAYOUT = Layout(T, B)


def draft(links, runs=0):
    return Draft(links, Frame.of(LAYOUT), runs)


def test_addresses():
    recipe, key = Recipe(), TensorKey(Role.ROWS, 2)
    assert Slot(Block.KEPT, 64, 7).at(recipe) == (recipe.kept.address + 64, 7)
    assert Slot(Block.SCRATCH, 64, 7).at(recipe) == (recipe.scratch.address + 64, 7)
    address, stride, _ = recipe.tensor(key)
    assert Slot(key).at(recipe) == (address, stride)
    assert Slot(key, 8, 0).at(recipe) == (address + 8, 0)  # one row that stands for all
    behind = recipe.kept.address + 64 + recipe.number("batch", None) * 56
    assert Slot(Block.KEPT, 64, 7, 56).at(recipe) == (behind, 7)


def test_keys_of_different_roles_and_numbers_are_different():
    keys = {TensorKey(role, number) for role in Role for number in range(3)}
    assert len(keys) == 3 * len(Role)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_room_is_used_again_after_its_last_use_and_not_before(links, times):
    one = draft(links)
    slot = one.room(x)
    one.will_use(slot, times)
    for _ in range(times):
        one.has_used(slot)
        one.recipe.barrier()
        other = one.room(x)
        assert other != slot
    one.has_used(slot)
    assert one.room(x) != slot  # in the same phase
    one.recipe.barrier()
    assert one.room(x) == slot


def test_what_is_kept_is_never_used_again(links):
    one = draft(links)
    slot = one.room(x, Block.KEPT)
    one.has_used(slot)
    one.recipe.barrier()
    assert one.room(x, Block.KEPT) != slot


def test_room_for_more_rows(links):
    one = draft(links)
    one.room(x, Block.KEPT, more=B)
    assert one.recipe.kept.size >= (T + 1) * B * 3 * 8


def run(one, inputs):
    tensors = one.supply.tensors(LAYOUT, inputs)
    one.recipe.follow(tensors, about=LAYOUT)
    return tensors


def test_rows_of_each_thread_apart_and_back(links):
    one = draft(links, len(RUNS))
    apart = one.room(x)
    one.split(Slot(one.supply.rows_of(x, False)), apart)
    one.recipe.barrier()
    as_it_lies = one.new_tensor(TensorKey(Role.OUTPUT, 0), x)
    back = one.new_tensor(TensorKey(Role.OUTPUT, 1), x)
    one.runs = 0  # copied as it is
    one.will_use(apart)
    one.copy_out(apart, as_it_lies, x)
    one.runs = len(RUNS)
    one.copy_out(apart, back, x)
    xs = torch.randn(T * B, 3, dtype=torch.float64)
    tensors = run(one, [xs, *[torch.zeros(3, 3)] * 2])
    assert torch.equal(tensors[back.where], xs)
    by_step = xs.view(T, B, 3)
    expected = torch.cat([by_step[:, first:last].reshape(-1, 3) for first, last in RUNS])
    assert torch.equal(tensors[as_it_lies.where], expected)


def test_a_pass_runs_on_its_slots(links):
    """The first link's kernel by hand."""
    one, (link, *_) = draft(links), links
    plain = link.compiled.plain
    packed = one.pack({link: plain})[link]
    (own_x,) = plain.streams
    slots = {own_x: Slot(one.supply.rows_of(x, False)), plain.outputs[0]: one.new_tensor(TensorKey(Role.OUTPUT), low)}
    start = one.recipe.tensor(TensorKey(Role.START))[0]
    end = one.supply.new(TensorKey(Role.END), 3, axis=Axis.BATCH)
    one.run(link, plain, packed, slots, [(start, end, start)])
    xs, w, h = (torch.randn(*shape, dtype=torch.float64) for shape in ((T * B, 3), (3, 3), (B, 3)))
    tensors = one.supply.tensors(LAYOUT, [xs, w, torch.zeros(3, 3)])
    tensors[TensorKey(Role.START)] = h
    one.recipe.follow(tensors, about=LAYOUT)
    for row, y in zip(xs.view(T, B, 3), tensors[TensorKey(Role.OUTPUT)].view(T, B, 3), strict=True):
        h = torch.tanh(row @ w.t() + h)
        torch.testing.assert_close(y, h)
    torch.testing.assert_close(tensors[TensorKey(Role.END)], h)


# The tensors of a call


def test_inputs_are_as_machine_code_reads_them(links):
    supply = Supply(links, Recipe(), 0)
    link = next(iter(links))
    own = next(own for own, value in link.inputs.items() if value is weight)
    turned = p.permute(own, (1, 0))
    address, rows, columns = supply.matrix(link, own)
    assert supply.matrix(link, turned) == (address, columns, rows)  # the same memory
    for value in (own, turned):
        supply.shared(link, value)
    key = supply.rows_of(x, False)
    xs, w = torch.randn(3, T * B).t().float(), torch.randn(3, 3, dtype=torch.float64).t()
    tensors = supply.tensors(Layout(T, B), [xs, w, w])
    assert tensors[key].dtype == torch.float64
    assert tensors[key].stride(1) == 1
    assert torch.equal(tensors[key], xs.double())
    matrices = [tensors[k] for k in tensors if k.role is Role.MATRIX]
    shared = [tensors[k] for k in tensors if k.role is Role.SHARED]
    assert all(torch.equal(a, b) for a, b in zip(matrices, [w], strict=True))
    assert all(torch.equal(a, b) and a.is_contiguous() for a, b in zip(shared, [w, w.t()], strict=True))


def test_whole_numbers_stay_what_they_are_only_where_they_are_looked_up():
    token = p.placeholder("token", (p.BATCH,), torch.int64)
    table = p.placeholder("table", (7, 3), torch.float32)
    section = Section(Kind.PARALLEL, (token, table), (p.embedding(table, token),))
    links = Links([section], [CompiledSection(section)], section.outputs)
    supply = Supply(links, Recipe(), 0)
    keys = [supply.rows_of(token, as_indices) for as_indices in (True, False)]
    tensors = supply.tensors(Layout(T, B), [torch.arange(T * B), torch.zeros(7, 3)])
    assert [tensors[key].dtype for key in keys] == [torch.int64, torch.float32]


def test_the_tensors_of_a_layout():
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2, 1] = True
    plain, broken = Layout(T, B), Layout(T, B, resets=resets)
    assert RESETS not in tensors_of_layout(plain, (), 0)
    assert ORIGINS not in tensors_of_layout(broken, (), 0)
    found = tensors_of_layout(broken, [ORIGINS], 0)
    assert torch.equal(found[RESETS].view(T, B).bool(), resets)
    assert torch.equal(found[COUNTS], torch.full((T,), B))
    assert torch.equal(found[ORIGINS], broken.origins)
    apart = tensors_of_layout(broken, [ORIGINS], 2)
    assert [apart[TensorKey(Role.RUN_OFFSETS, i)].tolist() for i in range(2)] == [[0, 2, 4, 6, 8], [8, 10, 12, 14, 16]]
    assert apart[RESETS].tolist() == [*resets[:, :2].flatten(), *resets[:, 2:].flatten()]
