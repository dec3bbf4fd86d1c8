"""One battery, many subjects: the cells and wirings that cross-cutting tests walk. A new one gets a row here.

``CELLS``: name -> factory of (I, H). ``STACKS``: the named wirings, three layers, sizes that differ where they may.
``GRAPHS``: wirings without a name, and users' own cells. ``SUBJECTS``: all of them, name -> factory without arguments.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import treadle as td
from benchmarks.cells import MultiplicativeCell
from treadle.state import map_state, named_tensors, rebuild
from treadle.wiring.named import layer_input_size

CELLS: dict[str, Callable[[int, int], Any]] = {
    "lstm": td.LSTMCell,
    "lstm-no-bias": partial(td.LSTMCell, bias=False),
    "lstm-forget-bias": partial(td.LSTMCell, forget_bias=1.0),
    "lstm-projection": lambda I, H: td.LSTMCell(I, H, proj_size=max(1, H // 2)),
    "lstm-activations": partial(
        td.LSTMCell, activation="softsign", gate_activation="hard_sigmoid_0.2", output_activation="gelu"
    ),
    "gru": td.GRUCell,
    "gru-no-bias": partial(td.GRUCell, bias=False),
    "gru-reset-before": partial(td.GRUCell, reset_after=False),
    "rnn": td.RNNCell,
    "rnn-no-bias": partial(td.RNNCell, bias=False),
    "rnn-relu": partial(td.RNNCell, nonlinearity="relu"),
    "rnn-prelu": lambda I, H: td.RNNCell(I, H, nonlinearity=nn.PReLU(H)),
    "layer-norm-lstm": td.LayerNormLSTMCell,
    "layer-norm-lstm-forget-bias": partial(td.LayerNormLSTMCell, forget_bias=1.0),
    "peephole-lstm": td.PeepholeLSTMCell,
    "peephole-lstm-no-bias": partial(td.PeepholeLSTMCell, bias=False),
    "peephole-lstm-forget-bias": partial(td.PeepholeLSTMCell, forget_bias=1.0),
    "zoneout-lstm": td.ZoneoutLSTMCell,
    "zoneout-lstm-forget-bias": partial(td.ZoneoutLSTMCell, forget_bias=1.0, zoneout_hidden=0.3),
    "coupled-lstm": td.CoupledLSTMCell,
    "minimal-gated": td.MinimalGatedCell,
    "slstm": td.SLSTMCell,
    "slstm-two-heads": lambda I, H: td.SLSTMCell(I, 2 * H, heads=2),
    "ind-rnn": td.IndRNNCell,
    "ind-rnn-tanh": partial(td.IndRNNCell, nonlinearity="tanh"),
    "ind-rnn-prelu-of-one-slope": lambda I, H: td.IndRNNCell(I, H, nonlinearity=nn.PReLU()),
    "recurrent-highway": td.RecurrentHighwayCell,
    "recurrent-highway-depth-1": partial(td.RecurrentHighwayCell, depth=1),
    "min-gru": td.MinGRUCell,
    "min-lstm": td.MinLSTMCell,
    "rg-lru-two-heads": lambda I, H: td.RGLRUCell(I, 2 * H, heads=2),
    "mlstm-two-heads": lambda I, H: td.MLSTMCell(I, 2 * H, heads=2),
    "cfc": partial(td.CfCCell, backbone_size=7),
    "conv-lstm": lambda I, H: td.ConvLSTMCell(I, H, image_size=(3, 5)),
    "conv-lstm-kernel-1": lambda I, H: td.ConvLSTMCell(I, H, image_size=(1, 3), kernel_size=1),
}

CELL_TYPES = list(dict.fromkeys(type(make(3, 4)) for make in CELLS.values()))

HIDDEN_SIZES = {"relay": (4, 4, 4), "residual": (4, 4, 3)}


def stack(
    wiring: str,
    cell: Callable[[int, int], Any] = td.LSTMCell,
    input_size: int = 3,
    hidden_sizes: tuple[int, ...] | None = None,
    **options: Any,
) -> td.Stack:
    """Cells of one kind under a named wiring."""
    sizes = hidden_sizes or HIDDEN_SIZES.get(wiring, (5, 3, 4))
    reads = [layer_input_size(wiring, layer, input_size, list(sizes)) for layer in range(len(sizes))]
    return td.Stack([cell(I, H) for I, H in zip(reads, sizes, strict=True)], wiring, **options)


STACKS: dict[str, Callable[[], Any]] = {f"stack-{wiring}": partial(stack, wiring) for wiring in td.WIRINGS}


def delays() -> td.Graph:
    g = td.Graph(3)
    low = g.add("low", td.LSTMCell(6, 4), reads=[g.x, g.x.delayed(2)])
    high = g.add("high", td.GRUCell(12, 5), reads=[low, low.delayed(3), low.delayed()])
    return g.outputs(high, low.delayed(2))


def sums() -> td.Graph:
    g = td.Graph(4)
    low = g.add("low", td.GRUCell(4, 4), reads=g.x)
    high = g.add("high", td.GRUCell(8, 4), reads=[td.sum_of(low, g.x), td.sum_of(low.delayed(), g.x, low)])
    return g.outputs(td.sum_of(high, td.sum_of(low, low)))


def memoryless_nodes() -> td.Graph:
    g = td.Graph(3)
    wide = g.add("wide", nn.Linear(3, 5), reads=g.x)
    bent = g.add("bent", nn.PReLU(), reads=wide)
    low = g.add("low", td.RNNCell(10, 4), reads=[bent, wide.delayed()])
    normed = g.add("normed", nn.LayerNorm(4), reads=low)
    return g.outputs(g.add("scores", nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)), reads=normed))


def nested() -> td.Graph:
    inner = stack("lateral", td.GRUCell, 5, (4, 3))
    g = td.Graph(3)
    low = g.add("low", td.RNNCell(6, 2), reads=[g.x, g.later("inner", 3).delayed()])
    return g.outputs(g.add("inner", inner, reads=[low, g.x]))


def feedback_from_above() -> td.Graph:
    g = td.Graph(3)
    top = g.later("top", 2)
    low = g.add("low", td.LSTMCell(5, 4), reads=[g.x, top.delayed(2)])
    middle = g.add("middle", td.GRUCell(6, 4), reads=[low, top.delayed()])
    return g.outputs(g.add("top", nn.Linear(4, 2), reads=middle), low)


def self_delayed() -> td.Graph:
    g = td.Graph(3)
    low = g.add("low", td.GRUCell(11, 4), reads=[g.x, g.later("low", 4).delayed(), g.later("low", 4).delayed(3)])
    return g.outputs(low)


def shared_cell() -> td.Graph:
    cell, g = td.LSTMCell(4, 4), td.Graph(4)
    low = g.add("low", cell, reads=g.x)
    return g.outputs(g.add("high", cell, reads=low))


def handed_over() -> td.Graph:
    """The upper layer steps from both h and c of the lower, the third from the second's c alone, and reads its c."""
    g = td.Graph(3)
    low = g.add("low", td.LSTMCell(3, 4), reads=g.x)
    both = {"h": low.state("h"), "c": low.state("c")}
    middle = g.add("middle", td.LSTMCell(3, 4), reads=g.x, previous=both)
    delayed = {"c": middle.state("c"), "h": low.delayed(2)}
    high = g.add("high", td.PeepholeLSTMCell(8, 4), reads=[low.state("c"), middle], previous=delayed)
    return g.outputs(high, middle.state("c"))


def tokens() -> td.Graph:
    g = td.Graph(())
    embedded = g.add("embedded", nn.Embedding(7, 3), reads=g.x)
    before = g.add("before", nn.Embedding(7, 2), reads=g.x.delayed())
    low = g.add("low", td.LSTMCell(9, 4), reads=[embedded, before, g.later("low", 4).delayed(2)])
    return g.outputs(g.add("scores", nn.Linear(4, 7), reads=low))


def images() -> td.Graph:
    g = td.Graph((2, 3, 5))
    low = g.add("low", td.ConvLSTMCell(4, 2, image_size=(3, 5)), reads=[g.x, g.x.delayed()])
    return g.outputs(g.add("high", td.ConvLSTMCell(4, 1, image_size=(3, 5)), reads=[low, g.x]), low.delayed())


def pooled() -> td.Graph:
    g = td.Graph(3)
    low = g.add("low", td.LSTMCell(3, 4), reads=g.x)
    mean = g.add("mean", td.MeanCell(4), reads=low)
    return g.outputs(g.add("head", nn.Linear(8, 2), reads=[low, mean]))


class CountingCell(nn.Module):
    """A user's own cell: says no sizes, keeps a plain tuple with a nested dict, and counts steps in whole numbers."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(5, 2)

    def initial_state(self, batch_size):
        mean = self.mix.weight.new_full((batch_size, 2), 0.5)
        return (mean, {"steps": torch.zeros(batch_size, dtype=torch.long), "scale": mean[:, :1] * 2})

    def forward(self, x, state):
        mean, (steps, scale) = state[0], (state[1]["steps"], state[1]["scale"])
        new = self.mix(torch.cat([x, mean], 1)).tanh() * scale
        steps = steps + 1
        mean = mean + (new - mean) / (1 + steps[:, None])
        return new * mean, (mean, {"steps": steps, "scale": scale.cos()})


GRAPHS: dict[str, Callable[[], Any]] = {
    "graph-delays": delays,
    "graph-sums": sums,
    "graph-memoryless-nodes": memoryless_nodes,
    "graph-nested": nested,
    "graph-feedback-from-above": feedback_from_above,
    "graph-self-delayed": self_delayed,
    "graph-shared-cell": shared_cell,
    "graph-handed-over": handed_over,
    "graph-tokens": tokens,
    "graph-images": images,
    "graph-pooled": pooled,
    "stack-with-dropout": partial(stack, "relay", dropout=0.5),
    "stack-of-stacks": lambda: td.Stack([stack("feedback", td.RNNCell), stack("dense", td.GRUCell, 4)]),
    "noisy-state": lambda: td.NoisyStateCell(stack("relay", td.LSTMCell), 0.2, dropout=0.1),
    "closed-loop": lambda: td.ClosedLoop(td.GRUCell(3 + 2, 4), td.Continuous(3), td.Continuous(2)).cell,
    "closed-loop-discrete": lambda: td.ClosedLoop(td.LSTMCell(3 + 5, 4), td.Discrete(3), td.Discrete(5)).cell,
    "own-cell": CountingCell,
    "own-multiplicative-cell": lambda: MultiplicativeCell(3, 5),
}

SUBJECTS: dict[str, Callable[[], Any]] = {
    **{name: partial(factory, 3, 5) for name, factory in CELLS.items()},
    **STACKS,
    **GRAPHS,
}


LEFT_OUT = {
    "conv-lstm": "convolution",
    "conv-lstm-kernel-1": "convolution",
    "graph-images": "convolution",
    "own-cell": "int64",
}
"""What the CPU engine does not take, and why; "auto" runs these loops step by step in PyTorch."""


def engine_of(subject: str, engine: str = "cpu") -> str:
    """A compiled engine by its name, so that nothing else can take its place in silence, wherever it takes all."""
    return "auto" if subject in LEFT_OUT else engine


def build(subject: str, dtype: torch.dtype = torch.float64, **options: Any) -> td.Recurrent:
    """A subject over time, in evaluation mode, the same whenever it is asked for, no parameter at a special value."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        rnn = td.Recurrent(SUBJECTS[subject](), **options).eval()
        with torch.no_grad():
            for name, parameter in rnn.named_parameters():
                parameter += 0.3 * torch.randn_like(parameter)
                if subject.startswith("mlstm") and name == "cell.bias_ih":
                    parameter[-4:-2] -= 4  # else answers are quotients of small differences
                if name.startswith("initial.") and name.endswith(("/n", ".n")):
                    parameter.abs_().add_(0.5)  # a normaliser is a sum of exponentials
    return rnn.to(dtype)


def sequence(rnn: td.Recurrent, B: int = 3, T: int = 7, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random inputs [B, T, ...], whatever the network reads; tokens where it reads tokens."""
    random, size = torch.Generator().manual_seed(2), rnn.input_size
    if size == ():
        return torch.randint(7, (B, T), generator=random)
    row = (3,) if size is None else (size,) if isinstance(size, int) else size
    return torch.randn(B, T, *row, generator=random, dtype=torch.float64).to(dtype)


def random_state(rnn: td.Recurrent, B: int = 3, dtype: torch.dtype = torch.float64) -> Any:
    """A state with no zeros in it, past outputs included."""
    random = torch.Generator().manual_seed(3)

    def draw(name: str, zeros: Tensor) -> Tensor:
        if not zeros.is_floating_point():
            return torch.randint(7, zeros.shape, generator=random)
        drawn = torch.randn(zeros.shape, generator=random, dtype=torch.float64).to(dtype)
        return drawn.abs() + 0.5 if name.split("/")[-1] == "n" else drawn

    zeros = map_state(Tensor.detach, rnn.cell.initial_state(B))
    return rebuild(zeros, {name: draw(name, tensor) for name, tensor in named_tensors(zeros)})
