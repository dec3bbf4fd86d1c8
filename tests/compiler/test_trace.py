"""From Python to a program: what is noted means what Python did, what cannot be noted is refused by line and name."""

import logging
import math
import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import treadle as td
from tests.outcome import outcome, whole
from tests.registry import SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_all_close
from treadle import engines
from treadle.compiler import interpreter
from treadle.compiler.operations import HANDLERS
from treadle.compiler.program import BATCH, show
from treadle.engines.network import network_of
from treadle.state import named_tensors

H = 6


@pytest.mark.share(20)
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("B", [1, 4])
def test_the_program_of_a_step_is_the_step(subject, B):
    rnn = build(subject)
    x, state = sequence(rnn, B, 1)[:, 0], random_state(rnn, B)
    network = network_of(rnn.cell, x, state)
    given = {"x": x} | {f"state/{name}": tensor for name, tensor in named_tensors(state)}
    known = {value.name: tensor for value, tensor in network.constants().items()}
    results = interpreter.run(network.program, given | known, B)
    y, after = rnn.cell(x, state)
    assert_all_close(results, {"y": y} | {f"state/{name}": tensor for name, tensor in named_tensors(after)})


# The table of operations


class Using(nn.Module):
    """A cell that uses an operation in its loop and on its input."""

    input_size = H

    def __init__(self, op):
        super().__init__()
        self.op = op
        self.w, self.v = nn.Parameter(torch.randn(H, H)), nn.Parameter(torch.rand(H) + 0.5)
        self.u = nn.Parameter(torch.randn(H))
        self.prelu, self.norm = nn.PReLU(H), nn.LayerNorm(H)

    def initial_state(self, batch_size):
        return (self.v.new_full((batch_size, H), 0.7),)

    def forward(self, x, state):
        (h,) = state
        inside, outside = self.op(self, h).flatten(1), self.op(self, x).flatten(1)
        new = torch.sigmoid(self.v * x + self.u * h) * 1.4 + 0.2 + 0.1 * inside.mean(1, keepdim=True).tanh()
        return torch.cat([inside, outside, new], 1), (new,)


def three(x):
    """[B, 2, 3]"""
    return x.unflatten(1, (2, 3))


# Of any numbers; the inputs have ties with every border in here.
ANYWHERE = {
    "neg": lambda m, x: -x,
    "abs": lambda m, x: x.abs(),
    "exp": lambda m, x: x.exp(),
    "exp2": lambda m, x: torch.exp2(x),
    "expm1": lambda m, x: torch.expm1(x),
    "sin": lambda m, x: x.sin(),
    "cos": lambda m, x: x.cos(),
    "tan": lambda m, x: (x / 5).tan(),
    "sinh": lambda m, x: x.sinh(),
    "cosh": lambda m, x: x.cosh(),
    "tanh": lambda m, x: x.tanh(),
    "sigmoid": lambda m, x: x.sigmoid(),
    "logsigmoid": lambda m, x: F.logsigmoid(x),
    "erf": lambda m, x: torch.erf(x),
    "sign": lambda m, x: x.sign() * x,
    "sgn": lambda m, x: torch.sgn(x) * x,
    "floor": lambda m, x: x.floor() * x,
    "ceil": lambda m, x: x.ceil() * x,
    "round": lambda m, x: x.round() * x,
    "trunc": lambda m, x: x.trunc() * x,
    "frac": lambda m, x: x - x.trunc(),
    "square": lambda m, x: x.square(),
    "relu": lambda m, x: x.relu(),
    "relu6": lambda m, x: F.relu6(x),
    "leaky relu": lambda m, x: F.leaky_relu(x, 0.2),
    "prelu": lambda m, x: m.prelu(x),
    "prelu of one": lambda m, x: F.prelu(x, m.v[:1]),
    "elu": lambda m, x: F.elu(x, 0.7),
    "selu": lambda m, x: F.selu(x),
    "celu": lambda m, x: F.celu(x, 0.5),
    "elu of large numbers": lambda m, x: F.elu(x * 1e5),
    "gelu": lambda m, x: F.gelu(x),
    "gelu by tanh": lambda m, x: F.gelu(x, approximate="tanh"),
    "silu": lambda m, x: F.silu(x),
    "mish": lambda m, x: F.mish(x),
    "softplus": lambda m, x: F.softplus(x),
    "softplus beta": lambda m, x: F.softplus(x, 2, 3),
    "softplus of large numbers": lambda m, x: F.softplus(x * 1e5),
    "softsign": lambda m, x: F.softsign(x),
    "tanhshrink": lambda m, x: F.tanhshrink(x),
    "softshrink": lambda m, x: F.softshrink(x),
    "hardshrink": lambda m, x: F.hardshrink(x),
    "hardtanh": lambda m, x: F.hardtanh(x),
    "hardsigmoid": lambda m, x: F.hardsigmoid(x),
    "hardswish": lambda m, x: F.hardswish(x),
    "threshold": lambda m, x: F.threshold(x, 0.5, -7.0),
    "glu": lambda m, x: F.glu(x, 1),
    "clamp": lambda m, x: x.clamp(-1, 1),
    "clamp from below": lambda m, x: x.clamp(min=0.5),
    "clamp from above": lambda m, x: x.clamp_max(0.5),
    "clamp by tensors": lambda m, x: torch.clamp(x, -m.v, m.v),
    "clip the wrong way round": lambda m, x: x.clamp(1, -1),
    "maximum": lambda m, x: torch.maximum(x, x.round()),
    "minimum": lambda m, x: torch.minimum(x, x.detach() * 0 + 0.5),
    "max of two": lambda m, x: torch.max(x, m.v),
    "pow 0": lambda m, x: x**0,
    "pow 1": lambda m, x: x**1,
    "pow 2": lambda m, x: x**2,
    "pow 3": lambda m, x: x**3,
    "pow 5": lambda m, x: x**5,
    "number to the power": lambda m, x: 2**x,
    "positive to the power": lambda m, x: m.v**x,
    "arithmetic with numbers": lambda m, x: (2 - x) * 3 + x / 2 - 1 + 1 / (x.abs() + 1) + True,
    "arithmetic with parameters": lambda m, x: m.v * x - m.v + x / m.v,
    "alpha": lambda m, x: torch.add(x, m.v, alpha=2) - torch.sub(x, m.v, alpha=0.5) + torch.rsub(x, m.v, alpha=3),
    "lerp": lambda m, x: torch.lerp(x, m.v, 0.3) + torch.lerp(x, m.v, x.sigmoid()),
    "addcmul": lambda m, x: torch.addcmul(x, x, m.v, value=0.5),
    "addcdiv": lambda m, x: torch.addcdiv(x, x, m.v, value=0.5),
    "division rounded towards zero": lambda m, x: torch.div(x, 0.7, rounding_mode="trunc") * x,
    "where": lambda m, x: torch.where(x > 0.5, x, m.v),
    "where of numbers": lambda m, x: torch.where(x > 0.5, 1.0, x) + torch.where(x <= 0, x, 2.0),
    "masked fill": lambda m, x: x.masked_fill(x < 0, 3.0),
    "comparisons": lambda m, x: x * ((x > 0) & (x <= 1) | ~(x >= 0) | (x == 3) | (x != x)),
    "comparisons as numbers": lambda m, x: (x > 0.5).to(x.dtype) * x + (x < m.v).double() + (x == 0.5),
    "logical": lambda m, x: (
        torch.logical_not(torch.logical_and(x > 0, x < 1)) * x + torch.logical_or(x > 0, x < -1) * x
    ),
    "comparisons compared": lambda m, x: torch.where(((x > 0) == (x > 1)) | (x == 0) ^ ((x < 3) != (x > 0.5)), x, -x),
    "isnan": lambda m, x: torch.where(x.isnan(), 0.0, x),
    "softmax": lambda m, x: F.softmax(x, 1),
    "softmax of parts": lambda m, x: F.softmax(three(x), 1) + F.softmax(three(x), 2),
    "softmax of large numbers": lambda m, x: F.softmax(x * 1e3, 1),
    "softmin": lambda m, x: F.softmin(x, 1),
    "log softmax": lambda m, x: F.log_softmax(x, 1),
    "logsumexp": lambda m, x: x.logsumexp(1, keepdim=True) + three(x).logsumexp(2).mean(1, keepdim=True),
    "layer norm": lambda m, x: m.norm(x * m.v),
    "layer norm of two axes": lambda m, x: F.layer_norm(three(x * m.v), (2, 3)),
    "layer norm without weights": lambda m, x: F.layer_norm(x * m.v, (H,)),
    "rms norm": lambda m, x: F.rms_norm(x * m.v, (H,), m.v, 1e-5),
    "normalize": lambda m, x: F.normalize(x * m.v, dim=1),
    "sum": lambda m, x: x.sum(1, keepdim=True) + three(x).sum((1, 2)).unsqueeze(1),
    "mean": lambda m, x: x.mean(1, keepdim=True) + three(x).mean(1).mean(-1, keepdim=True),
    "amax": lambda m, x: x.amax(1, keepdim=True) + three(x).amax(2),
    "amin": lambda m, x: x.amin(1, keepdim=True) + three(x).amin(1)[:, :1],
    "var": lambda m, x: (x * m.v).var(1, keepdim=True) + three(x * m.v).var((1, 2), unbiased=False)[:, None],
    "std": lambda m, x: (x * m.v).std(1, keepdim=True) + (x * m.v).std(1, correction=0, keepdim=True),
    "var and mean": lambda m, x: torch.cat(torch.var_mean(x * m.v, 1, keepdim=True), 1),
    "norms": lambda m, x: (x + m.v).norm(dim=1, keepdim=True) + torch.linalg.vector_norm(x, 1, 1, keepdim=True),
    "means of comparisons": lambda m, x: (x > 0).double().mean(1, keepdim=True) * x,
    "matmul": lambda m, x: x @ m.w,
    "matmul with a part": lambda m, x: x[:, 1:4] @ m.w[:3] + x[:, ::2] @ m.w[::2],
    "matmul with a transpose": lambda m, x: x @ m.w.t() + x.mm(m.w.T),
    "matrix of the left": lambda m, x: (m.w @ x.t()).t(),
    "linear": lambda m, x: F.linear(x, m.w, m.v),
    "linear without bias": lambda m, x: F.linear(x, m.w[:3]),
    "linear of three axes": lambda m, x: F.linear(three(x), m.w[:, :3], m.v),
    "linear, the batch second": lambda m, x: F.linear(three(x).transpose(0, 1), m.w[:, :3]).transpose(0, 1),
    "addmm": lambda m, x: torch.addmm(m.v, x, m.w, beta=0.5, alpha=2),
    "matrix and vector": lambda m, x: (x @ m.v)[:, None] + torch.mv(m.w, m.v),
    "dot product of parameters": lambda m, x: x * torch.dot(m.v, m.w[0]),
    "bmm": lambda m, x: torch.bmm(three(x), three(x).transpose(1, 2)),
    "bmm over heads": lambda m, x: torch.bmm(three(x).transpose(0, 1), m.w.view(2, 3, 6)).transpose(0, 1),
    "baddbmm": lambda m, x: torch.baddbmm(x[:, :2, None], three(x), three(x).transpose(1, 2), beta=0.5, alpha=2),
    "einsum of heads": lambda m, x: torch.einsum("bhi,hij->bhj", three(x), m.w.view(2, 3, 6)),
    "einsum outer": lambda m, x: torch.einsum("bi,bj->bij", x[:, :2], x[:, 2:4]),
    "einsum inner": lambda m, x: torch.einsum("bi,bi->b", x, x)[:, None],
    "einsum bilinear": lambda m, x: torch.einsum("bi,ij,bj->b", x, m.w, x)[:, None],
    "matmul of three axes": lambda m, x: three(x) @ m.w[:3],
    "a matrix of its own for each row": lambda m, x: (three(x) @ x[:, :3, None]).squeeze(2),
    "chunk": lambda m, x: x.chunk(3, 1)[1] * x.chunk(2, 1)[0][:, :2],
    "split": lambda m, x: x.split(4, 1)[1] + x.split([1, 2, 3], 1)[1],
    "unbind": lambda m, x: torch.stack(x.unbind(1)[::-1], 1),
    "select and slices": lambda m, x: (
        x[:, 2, None] * x[:, 1:5] + x[:, -1:] + x[:, ::3].sum(1, keepdim=True) + x[:, -2][:, None]
    ),
    "narrow": lambda m, x: x.narrow(1, 2, 3),
    "cat": lambda m, x: torch.cat([x[:, 3:], x * 2, m.v.expand(len(x), H)], 1),
    "stack": lambda m, x: torch.stack([x, -x, x * x], 1) + torch.stack([x, x, -x], 2).transpose(1, 2),
    "hstack": lambda m, x: torch.hstack([x, x[:, :1]]),
    "pad": lambda m, x: F.pad(x, (1, 2)) + F.pad(x, (4, -1), value=2.0),
    "roll": lambda m, x: x.roll(2, 1) + three(x).roll((1, -1), (1, 2)).flatten(1),
    "reshape": lambda m, x: x.view(-1, 3, 2).transpose(1, 2).reshape(len(x), -1) + x.view(x.shape[0], H),
    "permute": lambda m, x: three(x).permute(2, 0, 1).movedim(1, 0),
    "squeeze": lambda m, x: x.unsqueeze(1).unsqueeze(-1).squeeze(1).squeeze(),
    "expand": lambda m, x: x[:, :1].expand(-1, 4) * x[:, None, :].expand(-1, 3, -1).transpose(1, 2)[:, :4, 0],
    "repeat": lambda m, x: x.repeat(1, 2) + x[:, None].repeat(1, 2, 1).flatten(1),
    "tile": lambda m, x: x.tile((1, 2)),
    "broadcast with one": lambda m, x: x[:, :, None] * x[:, None, :3],
    "zeros and ones": lambda m, x: torch.zeros_like(x) + x.new_ones(len(x), 1) + torch.ones(1, dtype=x.dtype) * x,
    "full": lambda m, x: torch.full_like(x, 2.0) * x + x.new_full((H,), 0.5) + torch.full((), 2.0, dtype=x.dtype),
    "empty and fill": lambda m, x: torch.empty_like(x).fill_(2.0) * x + torch.empty_like(x).zero_(),
    "in place on what the step made": lambda m, x: (x * 2).add_(1).mul_(x).clamp_(-3, 3).sub_(m.v),
    "a constant from a list": lambda m, x: x * torch.tensor([1.0, -2, 3, -4, 5, 0], dtype=x.dtype),
    "a constant from NumPy": lambda m, x: x * torch.from_numpy(np.arange(6.0)) + torch.as_tensor(np.float64(2)),
    "a constant of a number": lambda m, x: x * torch.tensor(1.5, dtype=x.dtype),
    "numbers of the features": lambda m, x: x * torch.arange(H, dtype=x.dtype) / math.sqrt(x.shape[1]),
    "triangle of a parameter": lambda m, x: x @ torch.tril(m.w),
    "inverse of a parameter": lambda m, x: x @ torch.linalg.inv(m.w),
    "detach": lambda m, x: x * x.detach() + m.v.detach(),
    "data": lambda m, x: x * x.data + m.w.data[0],
    "a loop over features": lambda m, x: sum(x[:, i : i + 1] * m.v[i] for i in range(H)),
    "flatten and unflatten": lambda m, x: x.unflatten(1, (3, 2)).flatten(1),
    "several of one": lambda m, x: torch.cat([x.tanh(), x.tanh()], 1) * torch.cat([x.tanh(), x.sigmoid()], 1),
    "nothing": lambda m, x: x,
}  # fmt: skip

# Of positive numbers.
POSITIVE = {
    "log": lambda m, x: x.log(),
    "log1p": lambda m, x: x.log1p(),
    "log2": lambda m, x: x.log2(),
    "log10": lambda m, x: x.log10(),
    "sqrt": lambda m, x: x.sqrt(),
    "rsqrt": lambda m, x: x.rsqrt(),
    "reciprocal": lambda m, x: x.reciprocal() + 1 / x,
    "pow -1": lambda m, x: x**-1,
    "pow -2": lambda m, x: x**-2,
    "pow 0.5": lambda m, x: x**0.5,
    "pow -0.5": lambda m, x: x**-0.5,
    "pow 0.3": lambda m, x: x**0.3,
    "pow of a tensor": lambda m, x: x**m.v + x**x,
    "division": lambda m, x: m.v / x + x / x.sum(1, keepdim=True),
}


@torch.no_grad()
def no_gradient(m, x):
    return x * 2


def partly_without_gradient(m, x):
    with torch.no_grad():
        scale = x.abs().amax(1, keepdim=True) + 1
    return x / scale


def overwritten(change):
    """A product that is changed in place while nothing is recorded: its gradient is that of the product."""

    def op(m, x):
        y = x * m.v
        with torch.no_grad():
            change(y, x)
        return y * y

    return op


def detached_later(m, x):
    y = x * m.v
    z = y * 2
    y.detach_()
    return y * z


def scaled_in_place_without_gradient(m, x):
    with torch.no_grad():
        scale = x.abs()
    return x / scale.add_(m.v).add_(1)


# Rows are divided by their norms, which PyTorch changes in place under no_grad.
ANYWHERE["cosine similarity"] = lambda m, x: F.cosine_similarity(x + 0.3, m.u[None], dim=1)[:, None]
ANYWHERE["cosine similarity of small numbers"] = lambda m, x: F.cosine_similarity(x, m.u[None], eps=3.0)[:, None]
ANYWHERE |= {
    f"no_grad, {name}": overwritten(change)
    for name, change in {
        "clamp_": lambda y, x: y.clamp_(-0.5, 0.5),
        "mul_": lambda y, x: y.mul_(x).add_(1),
        "copy_": lambda y, x: y.copy_(x.sin()),
        "copy_ of a product": lambda y, x: y.copy_(x @ torch.ones(H, H, dtype=x.dtype)),
        "copy_ of one": lambda y, x: y.copy_(x[:, :1]),
        "zero_": lambda y, x: y.zero_(),
        "fill_": lambda y, x: y.fill_(2.0),
    }.items()
}
ANYWHERE["no_grad, then in place"] = scaled_in_place_without_gradient
ANYWHERE["detach_"] = detached_later
ANYWHERE["requires_grad_"] = lambda m, x: x.detach().requires_grad_() * x + (x * 2).requires_grad_()
ANYWHERE["a clone in place"] = lambda m, x: x.clone().mul_(2) * m.v.clone().add_(1)
ANYWHERE["no_grad"] = lambda m, x: no_gradient(m, x) + x
ANYWHERE["no_grad in part"] = partly_without_gradient

# In which PyTorch itself computes with a constant in float32, the sixth of a hard sigmoid's slope.
COARSE = {"hardsigmoid": torch.float32}

BORDERS = [-6.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 6.0, 0.1, -0.7, 2.3]


def using(op, positive=False):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        cell = Using(op).double()
        order = torch.stack([torch.randperm(len(BORDERS))[:H] for _ in range(12)])
    xs = torch.tensor(BORDERS, dtype=torch.float64)[order].view(3, 4, H)
    return cell, xs.abs() + 0.3 if positive else xs


def results(cell, xs, engine):
    torch.manual_seed(9)
    return outcome(whole, td.Recurrent(cell, engine=engine), xs)


@pytest.mark.share(25)
@pytest.mark.parametrize("name", [*ANYWHERE, *POSITIVE])
def test_operations_in_values_and_gradients(name):
    cell, xs = using((ANYWHERE | POSITIVE)[name], name in POSITIVE)
    reference = results(cell, xs, "reference")
    for engine in ("interpreter", "cpu"):
        try:
            assert_all_close(results(cell, xs, engine), reference, COARSE.get(name))
        except AssertionError as error:
            raise AssertionError(f"{engine}: {error}") from error


# What PyTorch's Python bindings or its own decompositions never let a step call, or only derivatives do.
UNREACHABLE = set(
    "_reshape_alias _safe_softmax _unsafe_view alias bitwise_or bitwise_and bitwise_not concat contiguous dot"
    " empty_strided lift_fresh_copy linear log_sigmoid_backward new_empty new_empty_strided reshape scalar_tensor"
    " select_backward sigmoid_backward slice_backward square tanh_backward threshold_backward to type_as unsafe_split"
    " unsafe_split_with_sizes vdot view_as mv __and__ __or__ log_sigmoid_forward new_zeros clamp_min matmul empty_like"
    " zeros ones_like floor_divide remainder stack zeros_like rsub new_full empty lift_fresh std logical_or logical_xor"
    " __xor__ _fused_rms_norm".split()
)


def test_the_table_above_reaches_the_table_of_operations(monkeypatch):
    reached = set()
    for name, function in list(HANDLERS.items()):
        noted = lambda *a, name=name, function=function, **k: reached.add(name) or function(*a, **k)  # noqa: E731
        monkeypatch.setitem(HANDLERS, name, noted)
    for op in (ANYWHERE | POSITIVE).values():
        cell, xs = using(op)
        network_of(cell, xs[:, 0], cell.initial_state(3))
    assert set(HANDLERS) - reached <= UNREACHABLE


# What is not a loop's: as PyTorch's own call, before it or after it


OPAQUE = {
    "float32 among float64": lambda m, x: x.float().double(),
    "counts": lambda m, x: (x > 0).sum(1, keepdim=True) * x,
    "cumsum": lambda m, x: x.cumsum(1),
    "cumprod": lambda m, x: x.cumprod(1),
    "sort": lambda m, x: (x * m.v).sort(1).values,
    "flip": lambda m, x: x.flip(1),
    "gather": lambda m, x: x.gather(1, torch.zeros(len(x), 2, dtype=torch.long)),
    "index_select": lambda m, x: x.index_select(1, torch.tensor([3, 0, 0])),
    "topk": lambda m, x: (x * m.v).topk(2, 1).values,
    "embedding": lambda m, x: F.embedding((x > 0).long(), m.w),
    "convolution": lambda m, x: F.conv1d(x[:, None], m.w[:2, None, :3]),
    "average pool": lambda m, x: F.avg_pool1d(x[:, None], 2),
}


@pytest.mark.share(6)
@pytest.mark.parametrize("name", OPAQUE)
def test_operations_of_which_the_compiler_knows_that_they_treat_rows_alike(name, caplog):
    cell, xs = using(OPAQUE[name])
    reference = results(cell, xs, "reference")
    assert_all_close(results(cell, xs, "interpreter"), reference)
    words = r"the loop over 0 of Using: (.*test_trace\.py:\d+: aten\.|it computes in)"
    with pytest.raises(td.errors.EngineError, match=words):
        results(cell, xs, "cpu")
    engines.say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "treadle"):
        assert_all_close(results(cell, xs, "auto"), reference)
    assert len(caplog.records) == 1

    class OnTheInput(Using):
        def forward(self, x, state):
            y, (new,) = super().forward(x, state)
            return torch.cat([y, op(self, x).flatten(1) * y[:, :1], op(self, new).flatten(1)], 1), (new,)

    op, cell = cell.op, OnTheInput(lambda m, x: x).double()
    assert_all_close(results(cell, xs, "cpu"), results(cell, xs, "reference"))


# Integers and booleans in the state


class Clockwork(nn.Module):
    """Every part has its period; the state counts the steps."""

    input_size = H

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(2 * H, H)
        self.register_buffer("period", torch.tensor([1, 1, 2, 2, 3, 5]))

    def initial_state(self, batch_size):
        h = self.mix.weight.new_zeros(batch_size, H)
        seen = torch.zeros(batch_size, H, dtype=torch.bool)
        return {"h": h, "t": torch.zeros(batch_size, dtype=torch.long), "seen": seen}

    def forward(self, x, state):
        h, t, seen = state["h"], state["t"], state["seen"]
        early = torch.div(t, 2, rounding_mode="trunc") < 2
        now = (t[:, None] % self.period == 0) | ((t // 2)[:, None] == 3) & early[:, None]
        new = torch.where(now, self.mix(torch.cat([x, h], 1)).tanh(), h) + t[:, None] / 10 - (t[:, None] - 1) / 9
        seen = seen | (new > 0.5)
        return new * seen, {"h": new, "t": t + 1, "seen": seen}


def test_counters_and_flags_in_the_state():
    rnn = td.Recurrent(Clockwork().double(), engine="interpreter")
    xs = torch.randn(2, 9, H, dtype=torch.float64)
    results = outcome(whole, rnn, xs)
    rnn.engine = "reference"
    assert_all_close(results, outcome(whole, rnn, xs))
    rnn.engine = "auto"
    assert_all_close(results, outcome(whole, rnn, xs))
    rnn.engine = "cpu"
    with pytest.raises(td.errors.EngineError, match="int64"):
        rnn(xs)


# What is refused


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * 3


def in_place_on_a_parameter(m, x, h):
    with torch.no_grad():
        m.v.mul_(1.0)
    return h


def in_place_on_the_input(m, x, h):
    with torch.no_grad():
        x.mul_(1.0)
    return h


def in_place_on_the_state(m, x, h):
    with torch.no_grad():
        h.add_(0.0)
    return h


def in_place_on_a_buffer(m, x, h):
    m.count.add_(1)
    return h


def in_place_on_a_part_of_a_parameter(m, x, h):
    with torch.no_grad():
        m.w[0].mul_(1.0)
    return h


def in_place_on_data(m, x, h):
    y = x * 2
    y.data.clamp_(-1, 1)
    return h + y


def gives_other_data(m, x, h):
    y = x * 2
    y.data = x * 3
    return h + y


def in_place_on_a_part(m, x, h):
    y = x * 2
    y[:, 0] = 0.5
    return h + y


def hides_a_tensor(m, x, h):
    m.last = h
    return h


def hides_a_tensor_in_a_list(m, x, h):
    m.history.append(h)
    return h


def hides_a_tensor_in_a_buffer(m, x, h):
    m.memory = m.memory * 0 + h.mean()
    return h


def counts(m, x, h):
    m.steps += 1
    return h


def branches(m, x, h):
    if h.sum() > 0:
        return h
    return -h


def loops_over_rows(m, x, h):
    return torch.stack([row * 2 for row in h])


def loops_over_row_numbers(m, x, h):
    return torch.stack([h[i] * 2 for i in range(len(h))])


SIZE = "with another batch size, or from call to call: a step may compute neither"
REFUSED = {
    "branch": (branches, r"aten\._local_scalar_dense|aten.is_nonzero|use torch.where, which takes both ways"),
    "item": (lambda m, x, h: h * h.amax().detach().item(), "use torch.where|batch axis"),
    "item of one": (lambda m, x, h: h * m.v[0].item(), r"_local_scalar_dense: .*use torch\.where"),
    "tolist of rows": (lambda m, x, h: h * h.tolist()[0][0], "test_trace"),
    "numpy": (lambda m, x, h: h + torch.from_numpy(h.detach().numpy()), "numpy"),
    "in place on the input": (in_place_on_the_input, r"aten\.mul_.*: .*in place"),
    "in place on the state": (in_place_on_the_state,
        r"aten\.add_.*changes its input state/0 in place: use the form without _"),
    "in place on a parameter": (in_place_on_a_parameter,
        r"aten\.mul_.*changes parameter/v in place: what a step changes must be part of the state"),
    "in place on a part of a parameter": (in_place_on_a_part_of_a_parameter, "it writes into part of a tensor"),
    "in place on data": (in_place_on_data, "it writes into part of a tensor"),
    "other data": (gives_other_data, r"gives tensor\.data other numbers: use tensor\.copy_"),
    "memory in other strides": (lambda m, x, h: h @ m.w.t().as_strided((H, H), (1, H)), "how a tensor lies in memory"),
    "in place on a buffer": (in_place_on_a_buffer,
        r"aten\.add_.*changes parameter/count in place: .*part of the state"),
    "in place on a part": (in_place_on_a_part,
        "it writes into part of a tensor: build the whole with torch.cat or torch.stack"),
    "a tensor hidden in the module": (hides_a_tensor,
        r"keeps something in self\.last: a step remembers in its state alone"),
    "a tensor hidden in a list": (hides_a_tensor_in_a_list, r"keeps something in self\.history"),
    "a tensor hidden in a buffer": (hides_a_tensor_in_a_buffer,
        r"keeps something in self\.memory|mean goes over the batch"),
    "a counter hidden in the module": (counts, r"keeps something in self\.steps"),
    "mean of rows": (lambda m, x, h: h - h.mean(0),
        r"aten\.mean.*rows of the batch must not meet, but the mean goes over the batch axis"),
    "mean of all": (lambda m, x, h: h - h.mean(), "rows of the batch must not meet"),
    "sum of rows": (lambda m, x, h: h - h.sum(0),
        "rows of the batch must not meet, but a sum goes over the batch axis"),
    "sum of all": (lambda m, x, h: h - h.sum(), "rows of the batch must not meet, but a sum"),
    "sum of rows, kept": (lambda m, x, h: h / h.sum(0, keepdim=True), "rows of the batch must not meet, but a sum"),
    "maximum of rows": (lambda m, x, h: h - h.amax(0), "rows of the batch must not meet, but the maximum"),
    "softmax of rows": (lambda m, x, h: h.softmax(0), r"aten\._softmax.*the softmax goes over the batch axis"),
    "deviation of rows": (lambda m, x, h: h / (h.std(0) + 1), "the variance goes over the batch axis"),
    "norm of all": (lambda m, x, h: h / h.norm(), "the norm goes over the batch axis"),
    "batch norm": (lambda m, x, h: F.batch_norm(h, None, None, training=True), r"aten\..*batch_norm"),
    "transposed": (lambda m, x, h: h + h.t().reshape(len(h), H), "it mixes the batch axis with features"),
    "flattened": (lambda m, x, h: h.reshape(-1).reshape(len(h), H), "it lays the batch axis and features into one"),
    "pairs of rows": (lambda m, x, h: h.view(-1, 2 * H)[:, :H].repeat(2, 1),
        "it lays the batch axis and features into one"),
    "the first row": (lambda m, x, h: h + h[0], r"aten\.select.*the choice of one row: it goes over the batch axis"),
    "the last rows": (lambda m, x, h: h + h[-1:], r"aten\.slice.*it picks rows"),
    "rows backwards": (lambda m, x, h: h.flip(0), r"aten\.flip.*it goes over the batch axis"),
    "rows rolled": (lambda m, x, h: h.roll(1, 0), r"the rolling goes over the batch axis"),
    "rows by number": (lambda m, x, h: h[torch.zeros(len(h), dtype=torch.long)], r"aten\.index"),
    "rows side by side": (lambda m, x, h: torch.cat([h, h], 0)[: len(h)],
        r"the concatenation goes over the batch axis"),
    "rows added up": (lambda m, x, h: h.cumsum(0), r"aten\.cumsum.*it goes over the batch axis"),
    "rows sorted": (lambda m, x, h: h.sort(0).values, r"aten\.sort.*it goes over the batch axis"),
    "products of rows": (lambda m, x, h: (h @ h.t()) @ h, r"the product contracts or pairs rows"),
    "covariance": (lambda m, x, h: h @ (h.t() @ h),
        "rows of the batch must not meet, but a product goes over the batch axis"),
    "all pairs of rows": (lambda m, x, h: (h[:, None] - h[None]).pow(2)[:, 0], "rows of one operand against features"),
    "rows numbered": (lambda m, x, h: h + torch.arange(len(h))[:, None], r"aten\.arange.*it numbers them"),
    "the number of rows": (lambda m, x, h: h * (len(h) - 1), SIZE),
    "the number of rows as a float": (lambda m, x, h: h / float(h.shape[0]), "something else than a whole number"),
    "Python's random numbers": (lambda m, x, h: h * random.random(), "draws random numbers of Python's"),
    "NumPy's random numbers": (lambda m, x, h: h * torch.from_numpy(np.random.rand(H)),
        "draws random numbers of Python's or NumPy's"),
    "a loop over rows": (loops_over_rows, "test_trace"),
    "a loop over row numbers": (loops_over_row_numbers, "test_trace"),
    "an operation that nobody knows": (lambda m, x, h: torch.fft.rfft(h).abs()[:, :1] + h,
        r"aten\._fft_r2c.*does not know this operation: write it with others, or run with engine='reference'"),
    "an equation solved": (lambda m, x, h: torch.linalg.solve(m.w, h.unsqueeze(2)).squeeze(2),
        r"aten\._linalg_solve_ex"),
    "index of the largest": (lambda m, x, h: h + h.argmax(1, keepdim=True), r"aten\.argmax"),
    "a derivative of one's own": (lambda m, x, h: Double.apply(h),
        "Double.* is a function with a derivative of its own"),
    "remainder of floats": (lambda m, x, h: h % 0.3,
        r"aten\.remainder.*the compiler knows this operation, but not of floats"),
    "an error of Python": (lambda m, x, h: h + torch.zeros(H + 1), "test_trace"),
    "random numbers for all rows": (lambda m, x, h: h + torch.rand(H, dtype=x.dtype),
        "that all rows share: draw some for each row"),
    "random numbers by numbers": (lambda m, x, h: torch.bernoulli(h.sigmoid()) + h,
        "a distribution that depends on the input"),
}  # fmt: skip


class Refused(Using):
    steps = 0

    def __init__(self, op):
        super().__init__(op)
        self.history = []
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("memory", torch.zeros(()))
        self.last = None

    def forward(self, x, state):
        (h,) = state
        h = self.op(self, x, h)
        h = torch.sigmoid(self.v * x + self.u * h)
        return h, (h,)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_program_is_refused_by_line_and_runs_as_python(name, caplog):
    op, words = REFUSED[name]
    xs = torch.randn(4, 3, H, dtype=torch.float64)
    cell = Refused(op).double()
    engines.say_once.cache_clear()
    before = dict(vars(cell))
    with pytest.raises(td.errors.EngineError, match=words) as caught:
        td.Recurrent(cell, engine="cpu")(xs)
    assert re.search(r"test_trace\.py:\d+", str(caught.value))
    with pytest.raises(td.errors.EngineError, match=words):
        td.Recurrent(cell, engine="interpreter")(xs)
    assert vars(cell) == before
    assert not cell.history
    if name == "an error of Python":
        return

    def run(engine):
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        fresh = Refused(op).double()
        fresh.load_state_dict(cell.state_dict())
        with torch.no_grad():
            return td.Recurrent(fresh, engine=engine)(xs)

    with caplog.at_level(logging.WARNING, "treadle"):
        ys, (h,) = run("auto")
        run("auto")
    assert len(caplog.records) == 1
    assert "runs step by step in Python" in caplog.text
    expected = run("reference")
    assert_all_close({"y": ys, "h": h}, {"y": expected[0], "h": expected[1][0]})


class GrowingState(Refused):
    def forward(self, x, state):
        y, (h,) = super().forward(x, (state[0][:, :H],))
        return y, (torch.cat([h, h], 1),)


class WideningState(Refused):
    def forward(self, x, state):
        y, (h,) = super().forward(x.double(), (state[0].double(),))
        return y, (h,)


class MoreState(Refused):
    def forward(self, x, state):
        y, (h,) = super().forward(x, state)
        return y, (h, h)


class RowsLast(Refused):
    def forward(self, x, state):
        y, state = super().forward(x, state)
        return y.t(), state


class OneRow(Refused):
    def forward(self, x, state):
        _, state = super().forward(x, state)
        return self.v, state


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (GrowingState, r"state 0 goes in as \[B, 6\] .* and comes out as \[B, 12\]"),
        (WideningState, r"goes in as \[B, 6\] torch.float32 and comes out as \[B, 6\] torch.float64"),
        (MoreState, r"given a state of \['0'\], but returned one of \['0', '1'\]"),
        (RowsLast, r"the output is \[6, B\]: its first axis must be the batch"),
        (OneRow, r"the output is \[6\]: its first axis must be the batch"),
    ],
)
def test_a_step_keeps_the_form_of_its_state(kind, words):
    dtype = torch.float32 if kind is WideningState else torch.float64
    cell = kind(lambda m, x, h: h).double()
    x, state = torch.randn(2, H, dtype=dtype), (torch.zeros(2, H, dtype=dtype),)
    with pytest.raises(td.errors.TraceError, match=words):
        network_of(cell, x, state)


class Wide(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, size))

    def initial_state(self, batch_size):
        return (self.weight.new_zeros(batch_size, self.weight.shape[1]),)

    def forward(self, x, state):
        return state[0] + x @ self.weight, (state[0],)


def test_the_batch_is_no_size_that_the_step_has():
    for size in (9973, 9967):
        cell = Wide(size)
        assert network_of(cell, torch.zeros(2, 1), cell.initial_state(2)).program.outputs["y"].shape == (BATCH, size)


def test_common_subexpressions_are_one_value():
    cell, xs = using(lambda m, x: (x * m.v).tanh() + (x * m.v).tanh())
    program = network_of(cell, xs[:, 0], cell.initial_state(3)).program
    assert len({(v.op, v.inputs, v.attributes, v.shape) for v in program.values()}) == len(program.values())
    assert "tanh" in show(program, sources=True)


def test_programs_say_where_they_come_from():
    cell, xs = using(lambda m, x: x.sin())
    program = network_of(cell, xs[:, 0], cell.initial_state(3)).program
    sources = {program.lines[v] for v in program.values() if v.op == "sin"}
    assert sources
    assert all(re.fullmatch(r"test_trace\.py:\d+", source) for source in sources)


def test_each_program_says_its_own_lines():
    """Values are shared by all programs that compute them; the lines of a user's file are not."""

    class Another(Using):
        def forward(self, x, state):
            (h,) = state
            new = torch.sigmoid(self.v * x + self.u * h.cumsum(1))
            return new, (new,)

    class AndAnother(Using):
        def forward(self, x, state):
            (h,) = state
            new = torch.sigmoid(self.v * x + self.u * h.cumsum(1))
            return new, (new,)

    for kind in (Another, AndAnother):
        first = kind.forward.__code__.co_firstlineno
        cell = kind(None)
        with pytest.raises(td.errors.EngineError, match=rf"test_trace\.py:{first + 2}: aten\.cumsum"):
            td.Recurrent(cell, engine="cpu")(torch.randn(2, 3, H))
        lines = set(network_of(cell, torch.zeros(2, H), cell.initial_state(2)).program.lines.values())
        assert f"test_trace.py:{first + 2}" in lines
        assert {int(line.split(":")[1]) for line in lines} <= set(range(first, first + 4))
        assert f"test_trace.py:{first + 2}: aten.cumsum" in str(td.explain(td.Recurrent(cell)))


def test_code_without_a_file_is_a_users_too():
    scope = {"Using": Using, "torch": torch}
    exec(
        "class Typed(Using):\n"
        "    def forward(self, x, state):\n"
        "        h = state[0].cumsum(0)\n"
        "        return h, (h,)\n",
        scope,
    )
    with pytest.raises(td.errors.EngineError, match=r"<string>:3: aten\.cumsum"):
        td.Recurrent(scope["Typed"](None), engine="cpu")(torch.randn(2, 3, H))


def test_nothing_stays_of_a_trace():
    """Tracing leaves the module, the generator and the gradients as they were."""
    cell, xs = using(lambda m, x: F.dropout(x, 0.5))
    torch.manual_seed(4)
    before = torch.get_rng_state()
    network_of(cell, xs[:, 0], cell.initial_state(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in cell.parameters())


# Random numbers


def two_draws(m, x):
    first, second = torch.rand_like(x), torch.randn_like(x)
    return x * second + first


RANDOM = {
    "dropout": lambda m, x: F.dropout(x, 0.4) + F.dropout(x, 0.6),
    "dropout under no_grad": lambda m, x: x * torch.no_grad()(F.dropout)(x, 0.4),
    "normal in place under no_grad": overwritten(lambda y, x: y.normal_()),
    "alpha dropout": lambda m, x: F.alpha_dropout(x, 0.4, training=True),
    "two draws": two_draws,
    "bernoulli": lambda m, x: x * torch.bernoulli(torch.full_like(x, 0.3)),
    "bernoulli in place": lambda m, x: (
        x * torch.empty_like(x).bernoulli_(0.3) + x * torch.empty_like(x).bernoulli_(0.7)
    ),
    "normal in place": lambda m, x: x + torch.zeros_like(x).normal_(0, 0.1) + x.new_empty(x.shape).uniform_(0, 0.1),
    "rand": lambda m, x: x + torch.rand(len(x), 1, dtype=x.dtype) + torch.randn(x.shape, dtype=x.dtype),
    "randint": lambda m, x: x * torch.randint(3, x.shape) + torch.randint_like(x, 4),
    "noise of a learned width": lambda m, x: x + m.v * torch.randn_like(x),
}  # fmt: skip


@pytest.mark.share(6)
@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_those_that_python_would_draw(name):
    cell, xs = using(RANDOM[name])
    reference = results(cell, xs, "reference")
    assert_all_close(results(cell, xs, "interpreter"), reference)
    assert_all_close(results(cell, xs, "cpu"), reference)
    torch.manual_seed(1)
    td.Recurrent(cell, engine="cpu")(xs)
    after = torch.rand(2)
    torch.manual_seed(1)
    td.Recurrent(cell, engine="reference")(xs)
    assert torch.equal(torch.rand(2), after)


@pytest.mark.parametrize("combine", [lambda x, h: x @ h.T, lambda x, h: x + h[0, :2]])
def test_a_step_that_catches_an_error_of_shapes_takes_the_branch_that_python_takes(combine):
    class Tries(nn.Module):
        input_size = 3

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 4))

        def initial_state(self, batch_size):
            return (torch.zeros(batch_size, 3),)

        def forward(self, x, state):
            try:
                y = combine(x, self.weight)
            except RuntimeError:
                y = 2 * x
            h = (y + state[0]).tanh()
            return h, (h,)

    rnn = td.Recurrent(Tries(), engine="cpu")
    xs = torch.randn(2, 5, 3)
    torch.testing.assert_close(rnn(xs)[0], td.Recurrent(rnn.cell, engine="reference")(xs)[0])
