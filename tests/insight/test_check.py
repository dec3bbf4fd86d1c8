"""`check_cell` passes what keeps the contract, and names what each kind of broken cell has to mend."""

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS
from treadle.errors import CellError


class Good(nn.Module):
    """A correct cell; the broken ones below differ in one thing each."""

    input_size = 3

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(7, 4)

    def initial_state(self, batch_size):
        return (self.mix.weight.new_zeros(batch_size, 4),)

    def forward(self, x, state):
        h = self.mix(torch.cat([x, state[0]], 1)).tanh()
        return h, (h,)


class NoInitialState(nn.Module):
    def forward(self, x, state):
        return x, state


class WrongSignature(Good):
    def forward(self, x):  # pyright: ignore
        return x


class ReturnsOne(Good):
    def forward(self, x, state):
        return super().forward(x, state)[0]


class NoState(Good):
    def initial_state(self, batch_size):
        return ()


class BatchLast(Good):
    def initial_state(self, batch_size):
        return (torch.zeros(4, batch_size),)

    def forward(self, x, state):
        y, (h,) = super().forward(x, (state[0].T,))
        return y, (h.T,)


class GrowingState(Good):
    def forward(self, x, state):
        y, (h,) = super().forward(x, (state[0][:, :4],))
        return y, (torch.cat([state[0], h], 1),)


class OtherFields(Good):
    def forward(self, x, state):
        y, (h,) = super().forward(x, state)
        return y, (h, h)


class OtherContainer(Good):
    def forward(self, x, state):
        y, (h,) = super().forward(x, state)
        return y, [h]


class MixesRows(Good):
    def forward(self, x, state):
        return super().forward(x - x.mean(0), state)


class UsesBatchNorm(Good):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x, state):
        return super().forward(self.norm(x) if len(x) else x, state)


class HidesState(Good):
    last: torch.Tensor | float = 0.0

    def forward(self, x, state):
        y, state = super().forward(x, state)
        y = y + (self.last if isinstance(self.last, float) else self.last.mean())
        self.last = y.detach()
        return y, state


class ChangesInput(Good):
    def forward(self, x, state):
        with torch.no_grad():
            x.mul_(2)
        return super().forward(x, state)


class ChangesState(Good):
    def forward(self, x, state):
        y, after = super().forward(x, state)
        with torch.no_grad():
            state[0].copy_(y)
        return y, after


class CutsGradient(Good):
    def forward(self, x, state):
        return super().forward(x, (state[0].detach(),))


class FixedPrecision(Good):
    def forward(self, x, state):
        y, (h,) = super().forward(x, state)
        return y.float(), (h,)


class FixedDevice(Good):
    def forward(self, x, state):
        y, (h,) = super().forward(x, state)
        return y + torch.ones(len(x), 4, device="cpu", dtype=x.dtype), (h,)


class NotFinite(Good):
    def forward(self, x, state):
        y, (h,) = super().forward(x, state)
        return y, ((9 * h).exp().exp(),)


class NotFiniteGradient(Good):
    def forward(self, x, state):
        y, state = super().forward(x, state)
        return y + (0 * y.detach()).norm() + (y - y).norm(dim=1, keepdim=True).sqrt(), state


class HoldsALambda(Good):
    def __init__(self):
        super().__init__()
        self.activation = lambda x: x


@pytest.mark.share(10)
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (NoInitialState, "has no initial_state"),
        (WrongSignature, r"forward\(x, state\)"),
        (ReturnsOne, "contract: forward returned Tensor: return the pair"),
        (NoState, "contract: initial_state returned no tensors"),
        (BatchLast, r"state_form: 0 is \[4, 3\] for 3 rows: its first axis must be the batch"),
        (GrowingState, "state_form: .*keep shape and dtype"),
        (OtherFields, "state_form: .*return the same kind of state"),
        (OtherContainer, "state_form: .*return the same kind of state"),
        (MixesRows, "rows: .*must not influence each other"),
        (UsesBatchNorm, "state_form: .*more than 1 value per channel"),
        (HidesState, "nothing_hidden: .*keeps something outside its state"),
        (ChangesInput, "nothing_hidden: .*changed its input x in place"),
        (ChangesState, "nothing_hidden: .*changed the state .*in place"),
        (CutsGradient, "gradients: .*look for detach"),
        (FixedPrecision, "precision: y is torch.float32 in a cell of torch.float64"),
        (FixedDevice, "device: .*device=x.device"),
        (NotFinite, "finite: .*not finite"),
        (NotFiniteGradient, "finite: the gradient of .* is not finite"),
        (HoldsALambda, "copies: .*cannot be pickled"),
    ],
)
def test_names_what_to_mend(kind, words):
    with pytest.raises(CellError, match=words):
        td.check_cell(kind())


@pytest.mark.share(3)
@pytest.mark.parametrize("name", SUBJECTS)
def test_passes_every_cell_and_wiring(name):
    cell = SUBJECTS[name]()
    needs_size = getattr(cell, "input_size", None) is None
    assert "gradients" in td.check_cell(cell, *((3,) if needs_size else ()))


def test_passes_a_cell_of_ones_own_and_leaves_it_as_it_was():
    cell = Good()
    before = {name: value.clone() for name, value in cell.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.randn(3)
    torch.manual_seed(4)
    checks = td.check_cell(cell)
    assert torch.equal(torch.randn(3), expected), "the random generator must go on as if nothing had been drawn"
    assert "rows" in checks
    assert cell.training
    assert next(cell.parameters()).grad is None
    assert all(torch.equal(cell.state_dict()[name], value) for name, value in before.items())


def test_several_mistakes_are_all_named():
    class Worse(MixesRows, FixedDevice):
        pass

    with pytest.raises(CellError) as caught:
        td.check_cell(Worse())
    lines = str(caught.value).splitlines()
    assert lines[0] == "Worse breaks the contract of a cell:"
    assert {line.split(":")[0] for line in lines[1:]} >= {"- rows", "- device", "- copies"}


def test_the_program_of_a_step_is_the_step(monkeypatch):
    from treadle.compiler.operations import table

    assert "program" in td.check_cell(Good())
    monkeypatch.setitem(table.HANDLERS, "tanh", lambda a: table.unary("sigmoid", a))
    with pytest.raises(CellError, match="program: y differs between the compiled step and its Python"):
        td.check_cell(Good())


def test_a_cell_without_a_program_is_slow_and_not_wrong():
    class Sorted(Good):
        def forward(self, x, state):
            y, (h,) = super().forward(x, state)
            return y + h.argmax(1, keepdim=True), (h,)

    Sorted.__qualname__ = "Sorted"
    globals()["Sorted"] = Sorted  # so that it can be pickled
    assert "program" in td.check_cell(Sorted())


def test_needs_to_know_what_the_cell_reads():
    class Sizeless(Good):
        input_size = None  # pyright: ignore

    with pytest.raises(CellError, match=r"check_cell\(cell, input_size=...\)"):
        td.check_cell(Sizeless())
    with pytest.raises(CellError, match="derive the class"):
        td.check_cell(object())
