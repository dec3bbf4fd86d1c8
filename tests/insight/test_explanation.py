"""What `treadle.explain` says is so."""

import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import SUBJECTS, CountingCell, build, sequence, stack


class BranchingCell(nn.Module):
    """What it does depends on numbers."""

    input_size = 3

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, 3)

    def initial_state(self, batch_size):
        return (self.mix.weight.new_zeros(batch_size, 3),)

    def forward(self, x, state):
        h = self.mix(x) + state[0]
        if h.sum() > 0:  # the line that is named
            h = -h
        return h, (h,)


def explained(wiring: str, **options) -> td.Explanation:
    return td.explain(td.Recurrent(stack(wiring, **options)))


def test_a_stack_has_a_loop_for_each_layer():
    explanation = explained("stack")
    assert explanation.engine == "cpu"
    assert not explanation.reason
    assert [loop.layers for loop in explanation.loops] == [("layer0",), ("layer1",), ("layer2",)]
    assert [loop.states for loop in explanation.loops] == [(f"layer{i}/h", f"layer{i}/c") for i in range(3)]
    assert {section.engine for section in explanation.loops} == {"cpu"}
    hoisted = {section.before: section.products for section in explanation.sections if section.before}
    assert hoisted == {
        ("layer0",): ("x @ layer0.weight_ih.T",),
        ("layer1",): ("layer0.h(t) @ layer1.weight_ih.T",),
        ("layer2",): ("layer1.h(t) @ layer2.weight_ih.T",),
    }


def test_feedback_is_one_loop():
    explanation = explained("feedback")
    (loop,) = explanation.loops
    assert loop.layers == ("layer0", "layer1", "layer2")
    assert "layer2/h" in loop.states
    assert "layer2.y(t-1) @ layer0.weight_ih[:, 3:7].T" in loop.products
    hoisted = [section.products for section in explanation.sections if section.before]
    assert hoisted == [("x @ layer0.weight_ih[:, 0:3].T",)]


def test_relay_loops_over_cell_states_above_the_lowest_layer():
    explanation = explained("relay")
    assert [loop.states for loop in explanation.loops] == [("layer0/h", "layer0/c"), ("layer1/c",), ("layer2/c",)]
    assert [loop.multiply_adds for loop in explanation.loops[1:]] == [0, 0]
    last = [section for section in explanation.sections if section.kind == "all steps"][-1]
    assert (last.before, last.after) == ((), "layer2")


def test_delayed_outputs_are_shifted_sequences():
    kinds = [(s.kind, s.states) for s in td.explain(build("graph-delays")).sections if s.kind == "shifted"]
    assert ("shifted", ("low.delayed/0",)) in kinds
    assert ("shifted", ("x.delayed/1",)) in kinds


def test_a_delay_may_be_longer_than_python_recurses():
    g = td.Graph(3)
    explanation = td.explain(td.Recurrent(g.outputs(g.add("low", td.RNNCell(3, 4), reads=g.x.delayed(1100)))))
    assert sum(section.kind == "shifted" for section in explanation.sections) == 1100


def test_norms_are_named():
    loop = td.explain(td.Recurrent(td.Stack([td.LayerNormLSTMCell(3, 5)]))).loops[0]
    assert sorted(loop.norms) == ["layer0.norm_cell", "layer0.norm_hidden", "layer0.norm_input"]
    assert loop.functions == {"sigmoid": 3, "tanh": 2}


def test_multiply_adds_are_those_of_the_weights():
    rnn = td.Recurrent(stack("dense"))
    matrices = sum(weight.numel() for weight in rnn.parameters() if weight.ndim == 2)
    assert td.explain(rnn).multiply_adds == matrices


def kept_in_truth(rnn: td.Recurrent, steps: int) -> int:
    """Bytes that autograd holds on to after a forward pass over one row: memory counted once."""
    xs, held = sequence(rnn, 1, steps, dtype=torch.float32), {}

    def pack(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor, tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = rnn(xs)
    del outputs
    return sum(size for _, size in held.values())


BYTES = [
    *(f"stack-{wiring}" for wiring in td.WIRINGS),
    "layer-norm-lstm",
    "zoneout-lstm",
    "slstm",
    "rnn-relu",
    "graph-delays",
]


@pytest.mark.share(4)
@pytest.mark.parametrize("subject", BYTES)
def test_bytes_are_those_that_are_kept(subject):
    rnn = build(subject, torch.float32)
    xs = sequence(rnn, dtype=torch.float32)
    explanation = td.explain(rnn, xs)
    assert all(section.kept is not None for section in explanation.sections)
    # Results lie at different places of a page: less than a page each is lost, however many steps there are.
    steps = 1 << 16
    assert abs(explanation.kept_bytes - (kept_in_truth(rnn, 2 * steps) - kept_in_truth(rnn, steps)) / steps) < 1


def test_nothing_is_kept_without_gradients():
    assert td.explain(td.Recurrent(td.LSTMCell(3, 5)).requires_grad_(False)).kept_bytes == 0


@pytest.mark.share(12)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_network_explains_itself(subject):
    rnn = build(subject, torch.float32)
    explanation = td.explain(rnn, sequence(rnn, dtype=torch.float32))
    assert explanation.sections
    assert len(str(explanation).splitlines()) > len(explanation.sections)
    assert explanation.programs().count("reads ") == len(explanation.sections)


def test_programs_name_what_they_read_and_their_lines():
    text = td.explain(td.Recurrent(td.LSTMCell(3, 5))).programs()
    assert "h(t-1) @ weight_hh.T" in text
    assert "c(t) <- " in text
    assert "# lstm.py:" in text
    assert "# lstm.py:" not in td.explain(td.Recurrent(td.LSTMCell(3, 5))).programs(sources=False)


def test_drawn_numbers_are_listed():
    assert td.explain(td.Recurrent(td.ZoneoutLSTMCell(3, 5))).random == ("bernoulli [B, 5]", "bernoulli [B, 5]")
    assert td.explain(td.Recurrent(td.ZoneoutLSTMCell(3, 5)).eval()).random == ()


# Reasons.


def test_a_loop_without_machine_code_says_why():
    explanation = td.explain(td.Recurrent(td.ConvLSTMCell(2, 3, image_size=(3, 5))))
    (loop,) = explanation.loops
    assert (loop.engine, loop.kept) == ("PyTorch", None)
    assert "conv_lstm.py" in loop.reason
    assert "convolution" in loop.reason
    assert loop.reason in str(explanation)
    named = td.explain(td.Recurrent(td.ConvLSTMCell(2, 3, image_size=(3, 5)), engine="cpu"))
    assert named.engine == ""
    assert "engine 'cpu' refuses the loop over h, c" in named.reason


@pytest.mark.parametrize(("engine", "left"), [("auto", "reference"), ("cpu", ""), ("interpreter", "")])
def test_an_untraceable_cell_says_which_line(engine, left):
    explanation = td.explain(td.Recurrent(BranchingCell(), engine=engine))
    assert (explanation.engine, explanation.sections) == (left, ())
    line = BranchingCell.forward.__code__.co_firstlineno + 2
    assert f"test_explanation.py:{line}: aten._local_scalar_dense" in explanation.reason
    assert explanation.reason in str(explanation)


def test_hooks_are_the_reason_and_are_not_called():
    rnn, calls = td.Recurrent(td.LSTMCell(3, 5)), []
    rnn.cell.register_forward_hook(lambda *_: calls.append(1))
    explanation = td.explain(rnn)
    assert (explanation.engine, explanation.sections, calls) == ("reference", (), [])
    assert "LSTMCell has hooks" in explanation.reason


def test_another_device_is_the_reason():
    explanation = td.explain(td.Recurrent(td.LSTMCell(3, 5, device="meta")))
    assert (explanation.engine, len(explanation.loops)) == ("reference", 1)
    assert "x is on meta" in explanation.reason
    assert {section.engine for section in explanation.sections} == {"Python"}


@pytest.mark.parametrize("engine", ["interpreter", "reference"])
def test_an_engine_that_was_asked_for_is_the_reason(engine):
    explanation = td.explain(td.Recurrent(td.LSTMCell(3, 5), engine=engine))
    assert (explanation.engine, len(explanation.loops)) == (engine, 1)
    assert f"engine='{engine}' was asked for" in str(explanation)


def test_drop_ins():
    assert [loop.layers for loop in td.explain(td.GRU(3, 5, 2, wiring="skip")).loops] == [("layer0",), ("layer1",)]
    bidirectional = td.explain(td.LSTM(3, 5, bidirectional=True, cell=td.PeepholeLSTMCell))
    assert "each layer and direction by itself" in bidirectional.reason


# What is passed.


def test_a_cell_without_a_size_needs_an_input():
    rnn = td.Recurrent(CountingCell())
    with pytest.raises(td.errors.ShapeError, match=r"CountingCell does not say what it reads.*td\.explain\(rnn, x\)"):
        td.explain(rnn)
    assert td.explain(rnn, torch.zeros(2, 4, 3)).loops
    with pytest.raises(td.errors.ShapeError, match="takes a sequence"):
        td.explain(td.Recurrent(td.LSTMCell(3, 5)), torch.zeros(2, 3))


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match=r"given a LSTMCell: pass td\.Recurrent\(cell\)"):
        td.explain(td.LSTMCell(3, 5))
