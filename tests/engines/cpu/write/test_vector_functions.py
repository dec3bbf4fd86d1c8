"""The functions that the CPU engine writes itself, against mpmath in ulps and against PyTorch at the edges."""

import ctypes
import functools
import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from llvmlite import binding as llvm
from llvmlite import ir

from treadle.engines.cpu.write.vector_functions import FUNCTIONS, emit

DTYPES = [np.float32, np.float64]
LANES = [4, 8, 16]
BINARY = {"pow", "maximum", "minimum"}
EXACT = {"sqrt", "reciprocal", "abs", "neg", "floor", "ceil", "trunc", "round", "sign", "maximum", "minimum"}

# Ulps for float and double, and between which numbers.
ACCURACY = {
    "tanh": (3.5, 3.5, (-30, 30)),
    "sigmoid": (3.5, 3.5, (-800, 50)),
    "exp": (2, 2, (-760, 720)),
    "expm1": (3, 3, (-50, 720)),
    "log": (2, 2, (0, 1e4)),
    "log1p": (2, 2, (-1, 1e4)),
    "logsigmoid": (4, 4, (-100, 100)),
    "rsqrt": (2, 2, (0, 1e4)),
    "erf": (1, 3, (-7, 7)),
    "sin": (3, 3, (-1e4, 1e4)),
    "cos": (3, 3, (-1e4, 1e4)),
}
REFERENCES = {
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "logsigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
}
EDGES = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 2.0, -3.0, 1e30, -1e30, 1e-30]


def element(dtype):
    return ir.FloatType() if dtype == np.float32 else ir.DoubleType()


def module_of(dtype, lanes):
    """``void name(x, [y,] result, n)`` of each function."""
    module, count, pointer = ir.Module(), ir.IntType(64), ir.PointerType()
    vector, align = ir.VectorType(element(dtype), lanes), np.dtype(dtype).itemsize
    for name in FUNCTIONS:
        arity = 2 if name in BINARY else 1
        signature = ir.FunctionType(ir.VoidType(), [pointer] * (arity + 1) + [count])
        function = ir.Function(module, signature, f"run_{name}")
        entry, loop, end = (function.append_basic_block() for _ in range(3))
        builder = ir.IRBuilder(entry)
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(count)
        *inputs, output = (builder.gep(a, [index], source_etype=element(dtype)) for a in function.args[:-1])
        operands = [builder.load(address, typ=vector, align=align) for address in inputs]
        builder.store(emit(builder, name, *operands), output, align=align)
        following = builder.add(index, count(lanes))
        index.add_incoming(count(0), entry)
        index.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, function.args[-1]), loop, end)
        builder.position_at_end(end)
        builder.ret_void()
    return module


def optimised(module, triple, cpu, features):
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=2, jit=True)
    parsed = llvm.parse_assembly(str(module), llvm.create_context())
    parsed.triple, parsed.data_layout = triple, str(machine.target_data)
    parsed.verify()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(parsed, builder)
    return parsed, machine


@functools.cache
def compiled(dtype, lanes):
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    parsed, machine = optimised(module_of(dtype, lanes), llvm.get_process_triple(), llvm.get_host_cpu_name(), features)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return engine


def run(name, *xs, lanes=16):
    """The function of arrays of one dtype."""
    (size,) = xs[0].shape
    padded = [np.resize(x, -(-size // lanes) * lanes) for x in xs]
    result = np.empty_like(padded[0])
    address = compiled(xs[0].dtype.type, lanes).get_function_address(f"run_{name}")
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(xs) + 1), ctypes.c_int64)(address)
    call(*(array.ctypes.data for array in (*padded, result)), len(result))
    return result[:size]


def theirs(name, *xs):
    """PyTorch's results, as an array; NumPy's and Python's where PyTorch's are not always the nearest."""
    if name == "sqrt":
        with np.errstate(invalid="ignore"):
            return np.sqrt(xs[0])
    if name == "erf":  # on Arm, PyTorch's is 0 where x is small
        return np.array(list(map(math.erf, xs[0].tolist())), xs[0].dtype)
    function = torch.nn.functional.logsigmoid if name == "logsigmoid" else getattr(torch, name)
    return function(*map(torch.from_numpy, xs)).numpy()


def ulps(actual, expected):
    """The largest error, given mpmath's numbers; where these are denormal or too large, that much is checked."""
    limits = np.finfo(actual.dtype)
    worst = 0.0
    for value, reference in zip(actual.tolist(), expected, strict=True):
        if abs(reference) < limits.smallest_normal:
            assert abs(value) <= limits.smallest_normal, (value, reference)
        elif abs(reference) >= limits.max:
            assert value in (math.copysign(math.inf, reference), math.copysign(limits.max, reference))
        else:
            ulp = mpmath.ldexp(1, mpmath.frexp(reference)[1] - 1 - limits.nmant)
            worst = max(worst, float(abs(mpmath.mpf(value) - reference) / ulp))
    return worst


def numbers(low, high, dtype, count=150):
    """Some evenly between, some of every size, some near 1."""
    random = np.random.default_rng(0)
    tiny = math.log2(np.finfo(dtype).smallest_normal)
    sizes = np.exp2(random.uniform(tiny, math.log2(high), count)) * random.choice([-1, 1], count)
    near = np.concatenate([random.uniform(-3, 3, 2 * count), 1 + random.normal(size=count) * 1e-3])
    x = np.concatenate([random.uniform(low, high, count), sizes, near]).astype(dtype)
    return x[(x > low) & (x < high)]


@pytest.mark.share(11)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACCURACY)
def test_is_accurate(name, dtype):
    *allowed, between = ACCURACY[name]
    x = numbers(*between, dtype)
    reference = REFERENCES.get(name) or getattr(mpmath, name)
    with mpmath.workdps(40):
        expected = [reference(mpmath.mpf(value)) for value in x.tolist()]
        worst = ulps(run(name, x), expected)
    assert worst <= allowed[DTYPES.index(dtype)], f"{worst:.2f} ulp"


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_has_limits_stays_between_them(dtype):
    x = np.linspace(-40, 40, 500_001).astype(dtype)
    assert np.abs(run("tanh", x)).max() == 1
    assert np.abs(run("erf", x)).max() == 1
    assert run("sigmoid", x).max() == 1
    assert run("sigmoid", x).min() > 0


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_is_accurate_all_over_the_floats(name):
    x = np.arange(0, 2**32, 4999, dtype=np.int64).astype(np.uint32).view(np.float32)
    x = x[np.abs(x) < 100]
    wide = x.astype(np.float64)
    expected = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
    ulp = np.exp2(np.frexp(expected)[1] - 24.0)
    normal = np.abs(expected) >= np.finfo(np.float32).smallest_normal
    assert (np.abs(run(name, x) - expected) / ulp)[normal].max() <= 3.4


@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 1), (np.float64, 8)])
def test_pow_is_accurate(dtype, limit):
    random = np.random.default_rng(1)
    x = np.exp(random.uniform(-8, 8, 900)).astype(dtype)
    x[:300] = 1 + random.normal(size=300) * 1e-3
    y = (random.uniform(-80, 80, len(x)) / np.maximum(np.abs(np.log(x.astype(np.float64))), 0.1)).astype(dtype)
    with mpmath.workdps(40):
        expected = [mpmath.power(a, b) for a, b in zip(map(mpmath.mpf, x.tolist()), y.tolist(), strict=True)]
        worst = ulps(run("pow", x, y), expected)
    assert worst <= limit, f"{worst:.2f} ulp"


@pytest.mark.parametrize("dtype", DTYPES)
def test_pow_of_negative_bases(dtype):
    x, y = (
        np.array(c, dtype=dtype) for c in zip(*itertools.product([-1.0, -2.5, -0.3], np.arange(-9, 10)), strict=True)
    )
    result = run("pow", x, y)
    np.testing.assert_array_equal(np.signbit(result), y % 2 == 1)
    np.testing.assert_array_equal(np.abs(result), run("pow", np.abs(x), y))
    assert np.isnan(run("pow", x, y + dtype(0.5))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_edges_are_those_of_pytorch(name, dtype):
    limits = np.finfo(dtype)
    x = np.array([*EDGES, limits.max, limits.smallest_normal, limits.smallest_subnormal], dtype)
    if name in ("sin", "cos"):
        x = x[~(np.abs(x) > 1e6) | np.isinf(x)]
    xs = [np.array(c) for c in zip(*itertools.product(x, x), strict=True)] if name in BINARY else [x]
    actual, expected = run(name, *xs), theirs(name, *xs)
    if name in EXACT:
        np.testing.assert_array_equal(actual, expected)
    else:
        # A denormal may be zero, but limits are exact.
        np.testing.assert_allclose(actual, expected, rtol=4 * limits.eps, atol=limits.smallest_normal)
        at_limit = np.any([np.isinf(x) | (x == 0) for x in xs], axis=0) & ((expected == 0) | np.isinf(expected))
        np.testing.assert_array_equal(actual[at_limit], expected[at_limit])
    if name not in ("maximum", "minimum"):
        signed = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(actual[signed]), np.signbit(expected[signed]), err_msg=str(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(EXACT))
def test_is_exact(name, dtype):
    xs = [numbers(-1e6, 1e6, dtype), numbers(-1e6, 1e6, dtype)[::-1].copy()][: 2 if name in BINARY else 1]
    if name == "sqrt":
        xs = [np.abs(xs[0])]
    np.testing.assert_array_equal(run(name, *xs), theirs(name, *xs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradual_underflow_of_exp_and_log(dtype):
    limits = np.finfo(dtype)
    x = np.log(limits.smallest_normal) - np.arange(1, 15).astype(dtype)
    np.testing.assert_allclose(run("exp", x), np.exp(x), rtol=0, atol=limits.smallest_subnormal)
    tiny = limits.smallest_subnormal * np.arange(1, 50).astype(dtype)
    np.testing.assert_allclose(run("log", tiny), np.log(tiny), rtol=2 * limits.eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_waves_of_large_numbers(name, dtype):
    x = numbers(-1e6, 1e6, dtype, 3000) if dtype == np.float32 else numbers(-1e9, 1e9, dtype, 3000)
    wave = getattr(np, name)
    np.testing.assert_allclose(run(name, x), wave(x.astype(np.float64)), rtol=0, atol=np.finfo(dtype).eps)
    assert np.abs(run(name, np.logspace(6, 38, 1000).astype(dtype))).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lanes", LANES[:-1])
def test_lanes_do_not_matter(lanes, dtype):
    x = numbers(-50, 50, dtype)
    for name in FUNCTIONS:
        xs = [x, x[::-1].copy()][: 2 if name in BINARY else 1]
        np.testing.assert_array_equal(run(name, *xs, lanes=lanes), run(name, *xs), err_msg=name)


def test_a_module_has_each_function_once():
    vector = ir.VectorType(ir.FloatType(), 8)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(vector, [vector]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(emit(builder, "tanh", emit(builder, "tanh", function.args[0])))
    assert str(module).count("define internal") == 1
    assert str(module).count('call <8 x float> @"tanh.v8f32"') == 2


@pytest.mark.parametrize(
    ("target", "dtype"),
    [("nehalem", np.float64), ("haswell", np.float32), ("skylake-avx512", np.float64), ("arm64", np.float32)],
)
def test_needs_no_library(target, dtype):
    triple, cpu = ("aarch64-linux-gnu", "") if target == "arm64" else ("x86_64-linux-gnu", target)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        llvm.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip(f"this LLVM makes no code for {triple}")
    parsed, machine = optimised(module_of(dtype, 4), triple, cpu, "")
    lines = [line.split() for line in machine.emit_assembly(parsed).splitlines()]
    assert ["ret" if target == "arm64" else "retq"] in lines
    assert not [line for line in lines if line[:1] in (["callq"], ["bl"])]
