"""Pictures of values over time."""

import numpy as np
import pytest
import torch

import treadle as td
from tests.registry import build, sequence
from treadle.show.recorded import record_figure


def values(**options):
    rnn = build("stack-stack", **options)
    xs = sequence(rnn)
    return td.record(rnn, xs if rnn.batch_first else xs.transpose(0, 1))


def panels(figure):
    return [axes for axes in figure.axes if axes.get_ylabel()]


@pytest.mark.parametrize("batch_first", [True, False])
def test_maps_show_the_numbers(batch_first):
    record = values(batch_first=batch_first)
    forget, c = panels(record_figure(record, ["layer0.forget", "layer1.c"], row=2))
    assert [axes.get_ylabel() for axes in (forget, c)] == ["layer0.forget", "layer1.c"]
    shown = record["layer0.forget"] if batch_first else record["layer0.forget"].transpose(0, 1)
    assert np.allclose(forget.images[0].get_array(), shown[2].T)
    assert forget.images[0].get_clim() == (0, 1)
    low, high = c.images[0].get_clim()
    assert low == -high


def test_lines_show_the_numbers():
    record = values()
    (axes,) = panels(record_figure(record, ["layer0.h"], units=[4, 1], labels=list("abcdefg")))
    assert [line.get_label() for line in axes.lines] == ["unit 4", "unit 1"]
    assert np.allclose(axes.lines[0].get_ydata(), record["layer0.h"][0, :, 4])
    assert [label.get_text() for label in axes.get_xticklabels()] == list("abcdefg")


def test_without_names_what_is_remembered():
    shown = [axes.get_ylabel() for axes in panels(record_figure(values()))]
    assert shown == ["x", *(f"layer{i}.{part}" for i in range(3) for part in "hc"), "y"]
    tokens = build("graph-tokens")
    assert "x" not in [axes.get_ylabel() for axes in panels(record_figure(td.record(tokens, sequence(tokens))))]


def test_kinds_of_values_that_can_be_drawn(tmp_path):
    for subject in ("own-cell", "conv-lstm", "graph-delays", "noisy-state"):
        rnn = build(subject)
        assert td.show.draw_record(td.record(rnn, sequence(rnn)), tmp_path / "values.svg").exists()
    record = td.record(td.RNNCell(2, 1), torch.full((1, 4, 2), float("nan")))
    assert td.show.draw_record(record, tmp_path / "values.png").exists()


def test_what_cannot_be_drawn():
    record = values()
    with pytest.raises(KeyError, match=r"did you mean 'layer0\.forget'"):
        record_figure(record, ["layer0.forgot"])
    with pytest.raises(ValueError, match="1 to 40 values, but `names` has 41"):
        record_figure(record, ["y"] * 41)
    with pytest.raises(ValueError, match="3 rows, but `row=3`"):
        record_figure(record, row=3)
    with pytest.raises(ValueError, match="units 0 to 4, but `units` has 5"):
        record_figure(record, ["layer0.h"], units=[5])
    with pytest.raises(ValueError, match="7 steps, but 2 `labels`"):
        record_figure(record, labels=["a", "b"])
