"""Random cells in random wirings, compiled, against the interpreter and against Python; in any mode, with any weights.

`make test` draws 40, `make fuzz` a thousand. The number of a failing test is its seed; the failure prints the source of
every random cell and the program that was compiled:

    TREADLE_FUZZ=200 pytest tests/engines/test_fuzz.py -k "[137]"
"""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import treadle as td
from tests.outcome import outcome
from tests.tolerances import assert_all_close
from treadle.compiler.program import show
from treadle.engines.network import network_of
from treadle.state import map_state

COUNT = int(os.environ.get("TREADLE_FUZZ", "40"))

WIDTHS = [1, 2, 3, 4, 5, 8, 9, 17]

UNARY = [
    "torch.tanh({0})",
    "torch.sigmoid({0})",
    "{0}.sin()",
    "{0}.cos()",
    "torch.exp(-{0}.square())",
    "F.relu({0})",
    "F.leaky_relu({0}, 0.1)",
    "F.elu({0})",
    "F.gelu({0})",
    "F.silu({0})",
    "F.softplus({0})",
    "F.hardtanh({0})",
    "{0}.clamp(-0.7, 0.8)",
    "({0}.abs() + 0.1).sqrt()",
    "({0}.square() + 0.5).log()",
    "1 / (1 + {0} ** 2)",
    "({0} + 1.5 * torch.ones_like({0})).tanh()",
    "-{0}",
    "{0}.detach().sin()",
    "torch.where({0} > 0, {0}, 0.3 * {0})",
    "(0.2 * {0}).expm1()",
    "({0}.abs() + 1).pow(0.7)",
]
BINARY = [
    "{0} + {1}",
    "{0} - {1}",
    "torch.tanh({0} * {1})",
    "{0} / (1 + {1}.abs())",
    "torch.maximum({0}, {1} - 0.1)",
    "torch.where({0} > {1} + 0.05, {1}.sin(), {0})",
    "torch.lerp({0}, {1}, 0.3)",
    "torch.sigmoid({0}) * {1}.tanh()",
    "({0} > 0.1).to({1}.dtype) * {1} + {0}",
    "{0}.masked_fill(({1} < 0.2) & ({0} > -0.5), 0.25)",
]
TO_ONE = [
    "{0}.mean(1, keepdim=True)",
    "{0}.sum(1, keepdim=True).tanh()",
    "{0}.amax(1, keepdim=True)",
    "{0}.amin(1, keepdim=True)",
    "({0}.square().mean(1, keepdim=True) + 0.1).rsqrt()",
    "{0}.logsumexp(1, keepdim=True)",
    "torch.linalg.vector_norm({0} + 0.3, dim=1, keepdim=True).tanh()",
]
ALIKE = [
    "F.softmax({0}, 1)",
    "F.log_softmax({0}, 1).tanh()",
    "F.layer_norm({0}, ({n},), eps=0.1)",
    "F.layer_norm({0}, ({n},), self.{p}, self.{q}, eps=0.1)",
    "F.rms_norm({0}, ({n},), eps=0.1)",
    "{0} * self.{p}",
    "{0} * self.{p} + self.{q}",
    "F.prelu({0}, self.{p})",
    "{0}.roll(1, 1)",
    "torch.cat([{0}[:, 1:], {0}[:, :1]], 1)",
    "torch.stack([{0}, {0}.sin()], 1).mean(1)",
    "{0} - {0}.mean(1, keepdim=True)",
    "{0} * {0}.amax(1, keepdim=True).sigmoid()",
]


class Writer:
    """Writes the forward of a random cell, line by line, with the width of every variable."""

    def __init__(self, draw: random.Random, input_size: int):
        self.draw, self.lines, self.parameters = draw, [], {}
        self.widths: dict[str, int] = {"x": input_size}

    def new(self, text: str, width: int) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        self.widths[name] = width
        return name

    def parameter(self, *shape: int) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = shape
        return name

    def any(self) -> str:
        # The newest more often, so that chains get long.
        names = list(self.widths)
        return names[-1 - min(int(self.draw.expovariate(0.4)), len(names) - 1)]

    def fit(self, name: str, width: int) -> str:
        have = self.widths[name]
        if have == width:
            return name
        if have > width:
            start = self.draw.randrange(have - width + 1)
            return self.new(f"{name}[:, {start}:{start + width}]", width)
        if have == 1:
            return self.new(f"{name}.expand(-1, {width})", width)
        way = self.draw.randrange(3)
        if way == 0:
            return self.new(f"F.pad({name}, (0, {width - have}))", width)
        if way == 1:
            times = -(-width // have)
            return self.new(f"{name}.repeat(1, {times})[:, :{width}]", width)
        return self.new(f"torch.cat([{name}, {self.fit(self.any(), width - have)}], 1)", width)

    def product(self) -> None:
        name, width = self.any(), self.draw.choice(WIDTHS)
        have, way = self.widths[name], self.draw.randrange(4)
        if way == 0:
            text = f"{name} @ self.{self.parameter(have, width)}"
        elif way == 1:
            text = f"F.linear({name}, self.{self.parameter(width, have)}, self.{self.parameter(width)})"
        elif way == 2:
            other = self.any()
            text = f"torch.cat([{name}, {other}], 1) @ self.{self.parameter(have + self.widths[other], width)}"
        else:
            text = f"torch.tanh({name} @ self.{self.parameter(have, width)}) * self.{self.parameter(width)}"
        self.new(text, width)

    def statement(self) -> None:
        draw, name = self.draw, self.any()
        n = self.widths[name]
        match draw.randrange(8):
            case 0 | 1:
                self.new(draw.choice(UNARY).format(name), n)
            case 2 | 3:
                other = self.any()
                other = other if draw.random() < 0.2 and self.widths[other] == 1 else self.fit(other, n)
                pair = [name, other] if draw.random() < 0.5 or self.widths[other] != n else [other, name]
                self.new(draw.choice(BINARY).format(*pair), n)
            case 4:
                self.new(draw.choice(TO_ONE).format(name), 1)
            case 5:
                self.new(draw.choice(ALIKE).format(name, n=n, p=self.parameter(n), q=self.parameter(n)), n)
            case 6:
                start = draw.randrange(n)
                stop, step = draw.randrange(start, n) + 1, draw.choice([1, 1, 1, 2, 3])
                self.new(f"{name}[:, {start}:{stop}:{step}]", len(range(start, stop, step)))
            case 7:
                split = next((k for k in (4, 3, 2) if n % k == 0 and n > k), None)
                if split and draw.random() < 0.6:
                    rest = n // split
                    way = draw.randrange(4)
                    if way == 0:
                        self.new(f"{name}.view(-1, {split}, {rest}).transpose(1, 2).reshape(-1, {n})", n)
                    elif way == 1:
                        self.new(f"F.softmax({name}.view(-1, {split}, {rest}), 1).flatten(1)", n)
                    elif way == 2:
                        self.new(f"{name}.view(-1, {split}, {rest}).mean(1)", rest)
                    else:
                        matrix = self.parameter(split, rest, 2)
                        parts = f"{name}.view(-1, {split}, {rest})"
                        self.new(f"torch.einsum('bhi,hij->bhj', {parts}, self.{matrix}).flatten(1)", 2 * split)
                else:
                    other = self.any()
                    if n + self.widths[other] < 40:
                        self.new(f"torch.cat([{name}, {other}], 1)", n + self.widths[other])


class RandomCell(nn.Module):
    """A cell whose step was written by chance."""

    def __init__(self, draw: random.Random, input_size: int):
        super().__init__()
        writer = Writer(draw, input_size)
        self.sizes = {f"s{i}": draw.choice(WIDTHS) for i in range(draw.randint(1, 3))}
        self.input_size = input_size
        writer.widths |= self.sizes
        todo = ["product"] * draw.randint(1, 3) + ["statement"] * draw.randint(3, 12)
        draw.shuffle(todo)
        for kind in todo:
            getattr(writer, kind)()
        after = {}
        for name, width in self.sizes.items():
            way = draw.randrange(8)
            value = writer.fit(writer.any(), width)
            other = draw.choice(list(self.sizes))
            if way == 0 and self.sizes[other] == width:
                after[name] = other  # handed on as it was
            elif way == 1:
                after[name] = writer.new(f"0.9 * {name} + 0.1 * torch.tanh({value})", width)
            elif way == 2:
                gate = writer.new(f"torch.sigmoid({value})", width)
                inside = writer.fit(writer.any(), width)
                after[name] = writer.new(f"{gate} * {name} + (1 - {gate}) * torch.tanh({inside})", width)
            else:
                after[name] = writer.new(f"torch.tanh({value})", width)
        parts = [writer.any() for _ in range(draw.randint(1, 2))] + ["x"]  # something always has a gradient
        parts = [part if writer.widths[part] < 20 else writer.fit(part, 9) for part in parts]
        self.output_size = sum(writer.widths[part] for part in parts)
        state = ", ".join(f'"{name}": {value}' for name, value in after.items())
        lines = [f"{', '.join(self.sizes)}, = state.values()", *writer.lines]
        lines.append(f"return torch.cat([{', '.join(parts)}], 1), {{{state}}}")
        self.source = "def forward(self, x, state):\n    " + "\n    ".join(lines)
        for name, shape in writer.parameters.items():
            scale = shape[-2] ** -0.5 if len(shape) > 1 else 0.5
            self.register_parameter(name, nn.Parameter(scale * torch.randn(shape)))
        scope: dict[str, Any] = {"torch": torch, "F": F}
        exec(self.source, scope)
        self.step = scope["forward"]

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        like = next(self.parameters())
        return {name: like.new_zeros(batch_size, size) for name, size in self.sizes.items()}

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> Any:
        return self.step(self, x, state)


def random_network(draw: random.Random) -> tuple[Any, list[RandomCell]]:
    """A cell or a wiring of cells, and the random cells in it."""
    input_size = draw.choice(WIDTHS[:6])
    if draw.random() < 0.5:
        cell = RandomCell(draw, input_size)
        return cell, [cell]
    g, made, nodes = td.Graph(input_size), [], []
    names = [f"n{i}" for i in range(draw.randint(2, 4))]
    sizes = {name: draw.choice([1, 3, 4, 5]) for name in names}
    norms = [name for name in names if sizes[name] > 1]  # of one feature, a norm is nothing but rounding errors
    earlier: list[Any] = [g.x]
    for name in names:
        reads = draw.sample(earlier, draw.randint(1, min(2, len(earlier))))
        reads = [read.delayed(draw.randint(1, 3)) if draw.random() < 0.25 else read for read in reads]
        if draw.random() < 0.4:
            later = draw.choice(names[names.index(name) :])
            reads.append(g.later(later, sizes[later]).delayed(draw.randint(1, 2)))
        total = sum(read.size[0] for read in reads)
        H = sizes[name]
        kind = draw.randrange(7)
        if kind == 0:
            module: Any = td.LSTMCell(total, H)
        elif kind == 1:
            module = td.GRUCell(total, H)
        elif kind == 2 and name in norms:
            module = td.LayerNormLSTMCell(total, H)
        elif kind == 3:
            module = nn.Sequential(nn.Linear(total, H), nn.PReLU())
        elif kind == 4:
            module = td.RNNCell(total, H)
        else:
            cell = RandomCell(draw, total)
            made.append(cell)
            inner = td.Graph(total)
            read = inner.add("cell", cell, reads=inner.x)
            module = inner.outputs(inner.add("out", nn.Linear(cell.output_size, H), reads=read))
        node = g.add(name, module, reads=reads)
        nodes.append(node)
        earlier.append(node)
    outputs = draw.sample(nodes, draw.randint(1, 2))
    if nodes[-1] not in outputs:
        outputs.append(nodes[-1])
    return g.outputs(*outputs), made


class Bounded(nn.Module):
    """A parametrisation: weights that another function of numbers gives, laid out otherwise in memory."""

    def forward(self, weight: Tensor) -> Tensor:
        return torch.tanh(weight.mT).mT


class Repeated(nn.Module):
    """A parametrisation: one row for all."""

    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * weight[:1].expand_as(weight) + 0.5 * weight.flip(0)


def parametrised(draw: random.Random, cell: nn.Module) -> str:
    """Put something in the place of a matrix of a network; returns what."""
    places = [
        (module, name)
        for module in cell.modules()
        for name, weight in module._parameters.items()
        if weight is not None and weight.ndim == 2 and min(weight.shape) > 1
    ]
    if not places:
        return "no matrix to parametrise"
    module, name = draw.choice(places)
    ways = {
        "weight_norm": lambda: parametrizations.weight_norm(module, name, dim=draw.choice([0, 1, None])),
        "spectral_norm": lambda: parametrizations.spectral_norm(module, name),
        "orthogonal": lambda: parametrizations.orthogonal(
            module, name, draw.choice(["matrix_exp", "cayley", "householder"])
        ),
        "bounded": lambda: parametrize.register_parametrization(module, name, Bounded()),
        "repeated": lambda: parametrize.register_parametrization(module, name, Repeated()),
    }
    way = draw.choice(list(ways))
    ways[way]()
    cell.eval()  # in training, the spectral norm takes a step of its own each time
    return f"{way} of {type(module).__name__}.{name}"


def checkpointed(rnn: Any, *given: Any, **options: Any) -> Any:
    return checkpoint(rnn, *given, use_reentrant=False, **options)


def many_at_once(rnn: Any, xs: Tensor, state: Any, **options: Any) -> Any:
    """Two networks' inputs at once, of which the second one is taken."""
    both = lambda tensor: torch.stack([0.5 * tensor, tensor])  # noqa: E731
    result = torch.func.vmap(lambda xs, state: rnn(xs, state, **options))(both(xs), map_state(both, state))
    return tuple(map_state(lambda tensor: tensor[1], part) if part != () else () for part in result)


def after_inference(rnn: Any, xs: Tensor, state: Any, **options: Any) -> Any:
    with torch.inference_mode():
        rnn(xs, state, **options)
    return rnn(xs, state, **options)


def within(context: Callable[[], Any]) -> Callable[..., Any]:
    def run(rnn: Any, *given: Any, **options: Any) -> Any:
        with context():
            return rnn(*given, **options)

    return run


@contextlib.contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES: dict[str, Callable[..., Any]] = {
    "plain": lambda rnn, *given, **options: rnn(*given, **options),
    "after inference mode": after_inference,
    "anomalies": within(torch.autograd.detect_anomaly),
    "checkpointed": checkpointed,
    "vmap": many_at_once,
    "autocast": within(lambda: torch.autocast("cpu", dtype=torch.bfloat16)),
    "default dtype": within(default_dtype),
    "default device": within(lambda: torch.device("meta")),
    "weights kept": within(parametrize.cached),
    "hooks on what is saved": within(lambda: torch.autograd.graph.saved_tensors_hooks(Tensor.clone, lambda t: t)),
}


@pytest.mark.share(COUNT if "TREADLE_FUZZ" in os.environ else 3)
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("seed", range(COUNT))
def test_random_networks(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    cell, made = random_network(draw)
    around = random.Random(seed + 10**6)  # one of its own, so that a seed is the network that it was
    mode = around.choice(list(MODES))
    weights = parametrised(around, cell) if around.random() < 0.4 else "plain weights"
    rnn = td.Recurrent(cell, learn_initial_state=draw.random() < 0.3).double()
    B, T = draw.choice([1, 2, 3, 5]), draw.choice([1, 2, 4, 6])
    xs = torch.randn(B, T, rnn.input_size, dtype=torch.float64)
    state = map_state(lambda s: 0.5 * torch.randn_like(s), rnn.initial_state(B))
    lengths = torch.tensor([draw.randint(0, T) for _ in range(B)]) if draw.random() < 0.4 else None
    lengths = None if lengths is None or not lengths.any() else lengths
    resets = torch.rand(B, T) < 0.3 if draw.random() < 0.4 else None
    every = draw.random() < 0.6

    def run(rnn, xs, state):
        way = MODES["plain" if rnn.engine == "reference" else mode]
        result = way(rnn, xs, state, lengths=lengths, resets=resets, return_states=every)
        return result if every else (*result, ())

    results = {}
    try:
        for engine in ("reference", "interpreter", "cpu"):
            # What a transform of torch.func follows, an engine that is asked for by name refuses.
            rnn.engine = "auto" if mode == "vmap" and engine != "reference" else engine
            results[engine] = outcome(run, rnn, xs, state)
        assert_all_close(results["interpreter"], results["reference"])
        assert_all_close(results["cpu"], results["interpreter"])
    except Exception as error:
        described = [f"seed {seed}, {mode}, {weights}, B {B}, T {T}, lengths {lengths}, resets {resets}"]
        described += [*(c.source for c in made), repr(cell)]
        if "interpreter" in results:
            network = network_of(cell, xs[:, 0], cell.initial_state(B))
            described.append(show(network.plan(every).program))
        raise AssertionError("\n\n".join([f"{type(error).__name__}: {error}", *described])) from error
