"""How we know that the tests work: the code is broken in one place after another, and the short suite must notice each.

``python -m tests.mutations`` copies the code to a temporary folder, breaks it there, and runs the tests that should
notice. Each mutation is a mistake that somebody could make, at least one for each room of the house. One whose text is
no longer found is an error: give it the text that took its place.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests", "benchmarks", "conftest.py", "pyproject.toml")
FAILED = 1  # pytest's status where tests failed; others say that they could not run


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    Args:
        file: below ``src/treadle``.
        before: what is there, once.
        after: what takes its place.
        meaning: what the mistake is.
        tests: what should notice it: arguments of pytest.
    """

    file: str
    before: str
    after: str
    meaning: str
    tests: str


PAIRS = "tests/engines/test_pairwise.py -k"

MUTATIONS = [
    Mutation(
        "engines/layout.py",
        "self.mask.cumsum(0) - 1",
        "self.mask.cumsum(0)",
        "in a hole stands the state after the next step, not after the last",
        "tests/engines/test_pairwise.py -k 'holes'",
    ),
    Mutation(
        "engines/passes/turns.py",
        "(constant + sink.offset, *coefficients)",
        "(constant + sink.offset + 1, *coefficients)",
        "of what a nest has stored, its second turn reads what lies elsewhere in the row",
        "tests/engines/test_engines.py -k 'agree'",
    ),
    Mutation(
        "engines/cpu/write/tile.py",
        "c.at(out, c.const(first * c.lanes))",
        "out",
        "with few registers, the second part of a tile is written over the first",
        "tests/engines/test_engines.py -m 'slow or not slow' -k 'other_instructions'",
    ),
    Mutation(
        "engines/cpu/plan/bound_pass.py",
        "tensor.data_ptr() != start or ",
        "",
        "a repeated call reads a parameter where it lay before",
        "tests/running/test_repeats.py -k 'noticed'",
    ),
    Mutation(
        "running/reversed.py",
        "_before_the_step_before(taken.closed(resets, 1), taken.lengths, None)",
        "taken.closed(resets, 1)",
        "from the end, a masked row is reset before the step, not after it",
        "tests/running/test_reversed.py -k 'step_by_step'",
    ),
    Mutation(
        "engines/cpu/plan/frame.py",
        "lambda layout: layout.steps",
        "lambda layout: max(layout.steps - 1, 1)",
        "a recipe takes fewer steps than the layout that it is followed for",
        "tests/engines/cpu/plan/test_chain.py -k 'many_lengths'",
    ),
    Mutation(
        "serving/beginnings.py",
        "kept.answer.step != job.step",
        "True",
        "a retry gets no kept answer",
        "tests/serving/test_sequences.py -k 'kept_answer'",
    ),
    Mutation(
        "serving/sessions.py",
        "                job.ys = found\n",
        "                job.ys = ys[0]\n",
        "clients that step together all get the first one's answer",
        "tests/serving/test_sequences.py -k 'many_clients'",
    ),
    Mutation(
        "serving/live_model.py",
        "        sequence.position += 1\n",
        "",
        "a step that is taken where it is asked for is not counted",
        "tests/serving/test_sequences.py -k 'however_they_are_taken'",
    ),
    Mutation(
        "serving/memory.py",
        "                    self._overtaken(job)\n                    continue\n",
        "                    pass\n",
        "a server that another one has overtaken answers from the old state",
        "tests/serving/test_fencing.py",
    ),
    Mutation(
        "serving/dataplane.py",
        "self.admit(served.latest, self._reading + 1)",
        "self.admit(served.latest)",
        "more requests are read than the queue has room for",
        "tests/serving/test_overload.py",
    ),
    Mutation(
        "show/explorer_page.py",
        '.replace("<", "\\\\u003c")',
        "",
        "a text among the explorer's data ends the element that holds it",
        "tests/show/test_explorer_page.py -k 'ends_its_element'",
    ),
    Mutation(
        "show/explorer/program.mjs",
        "pin.name === name && pin.step === step",
        "pin.name === name",
        "a state that is set before one step is set before every step",
        "tests/show/test_explorer_page.py -k 'by_node'",
    ),
    Mutation(
        "engines/execution.py",
        'layout.padded(own.given_away("y", known, layout))',
        'layout.padded(known[program.outputs["y"]])',
        "outputs share memory with inputs",
        "tests/running/test_aliasing.py -k 'echo'",
    ),
    Mutation(
        "engines/cpu/machine/memory_pool.py",
        "while self.idle > allowed:",
        "while False:",
        "memory that waits has no limit",
        "tests/engines/cpu/machine/test_memory_pool.py",
    ),
    Mutation(
        "engines/layout.py",
        "self._place_after(self.sorted - 1, ",
        "self._place_after(self.sorted - 2, ",
        "a short row ends with the state of the step before its last",
        f"{PAIRS} 'lengths'",
    ),
    Mutation(
        "engines/passes/indices.py",
        "for size in reversed(list(shape)):",
        "for size in list(shape):",
        "strides of rows with several axes in the wrong order",
        f"{PAIRS} 'slstm-two-heads and cpu'",
    ),
    Mutation(
        "engines/gpu/write/steps.py",
        "= tl.where(live[:, None], {now}, {_state(carry)})",
        "= {now}",
        "in a kernel, rows that have ended go on",
        "tests/engines/gpu/test_loops.py -k 'agree_with_the_reference and (lengths or mask)'",
    ),
    Mutation(
        "engines/gpu/plan/phases.py",
        "            steps %= AT_ONCE\n",
        "",
        "steps that a graph has replayed are launched once more",
        "tests/engines/gpu/test_phases.py -k 'second_call_on'",
    ),
    Mutation(
        "engines/cpu/write/vector_functions.py",
        "minus_r = n.multiply_add(low, n.multiply_add(high, x))",
        "minus_r = n.multiply_add(high, x)",
        "sigmoid forgets the low part of ln 2",
        "tests/engines/cpu/write/test_vector_functions.py",
    ),
    Mutation(
        "engines/cpu/routines/copies.py",
        "here = source + before * size",
        "here = source + first * size",
        "rows that lie apart for each thread are read from the wrong place",
        "tests/engines/test_engines.py -k threads",
    ),
    Mutation(
        "engines/cpu/machine/disk_cache.py",
        "if content[:HEADER_BYTES] != _header(key, kind, held):",
        "if not content.startswith(MAGIC[kind]):",
        "a damaged kernel on disk is run",
        "tests/engines/cpu/machine/test_disk_cache.py",
    ),
    Mutation(
        "engines/cpu/plan/kernel.py",
        "resets = recipe.tensor(RESETS)[0] if frame.has_resets else 0",
        "resets = 0",
        "kernels are not told of resets",
        f"{PAIRS} 'resets and cpu'",
    ),
    Mutation(
        "compiler/trace.py",
        "        _refuse_own_derivatives(results)\n",
        "",
        "a derivative that somebody wrote himself is replaced by that of its operations",
        "tests/compiler/test_trace.py -k refused",
    ),
    Mutation(
        "compiler/operations/rowwise.py",
        'raise NotRowwise("it goes over the batch axis")',
        "pass",
        "what mixes the rows of a batch is compiled as if it did not",
        "tests/compiler/test_trace.py -k refused",
    ),
    Mutation(
        "compiler/operations/pointwise.py",
        'power if exponent > 0 else elementwise("reciprocal", power)',
        "power",
        "a power below zero is that above it",
        "tests/compiler/test_trace.py -k 'operations and pow'",
    ),
    Mutation(
        "compiler/fission.py",
        "place[value] = (self.loop_of[value] + 1, 0)",
        "place[value] = (self.loop_of[value], 0)",
        "what reads a loop is put before it",
        "tests/compiler/test_fission.py",
    ),
    Mutation(
        "compiler/pieces.py",
        "limit |= {w: min(limit.get(w, level), level) for w in self._wholes[v]}",
        "limit |= {w: level for w in self._wholes[v]}",
        "what is read early is computed late",
        "tests/compiler/test_pieces.py",
    ),
    Mutation(
        "compiler/derivative.py",
        'if value.op in ("dot", "opaque"):',
        'if value.op == "opaque":',
        "the derivative does products again that could be kept",
        "tests/compiler/test_derivative.py",
    ),
    Mutation(
        "compiler/interpreter.py",
        "stop = start + step * (shape[axis] - 1) + 1 if",
        "stop = start + step * (shape[axis] - 1) if",
        "slices lack their last element",
        f"{PAIRS} 'interpreter and gru'",
    ),
    Mutation(
        "gradients/truncated.py",
        "return max(0, block + self.steps - self.horizon)",
        "return max(0, block - self.horizon)",
        "truncated gradients reach a block too far",
        "tests/gradients/test_truncated.py -k horizon",
    ),
    Mutation(
        "running/recurrent.py",
        "nn.Parameter(row[0].clone())",
        "nn.Parameter(torch.zeros_like(row[0]))",
        "a learned initial state starts at zero, not where the cell's own is",
        "tests/running/test_recurrent.py -k starts_where",
    ),
    Mutation(
        "running/session.py",
        "return states.map_state(Tensor.clone, self._state)",
        "return self._state",
        "the state of a session is no copy: it changes with the next step",
        "tests/running/test_session.py -k state_is_a_copy",
    ),
    Mutation(
        "running/likeness.py",
        "        return _memcmp()(mine.data_ptr(), other.data_ptr(), mine.nbytes) == 0",
        "        return True",
        "a session is made of weights that have changed since",
        "tests/running/test_snapshot.py -k see_every_change",
    ),
    Mutation(
        "engines/cpu/write/by_index.py",
        "return self.cursor.load_word(self.index, self.cursor.b.add(self.first, r))",
        "return self.cursor.load_word(self.index, r)",
        "of a pool's rows, each thread takes those of the first",
        "tests/running/test_sessions.py -k 'more_rows_than_a_block'",
    ),
    Mutation(
        "running/sequence_operator.py",
        "module.training = bool(mode)",
        "pass",
        "the derivative of a compiled graph is that of the modes of later",
        "tests/running/test_sequence_operator.py -k modes_of_then",
    ),
    Mutation(
        "running/plain_operators.py",
        'after = where(now["active"], after, state)',
        "pass",
        "the states of an exported program go on in padding",
        "tests/running/test_plain_operators.py -k any_length",
    ),
    Mutation(
        "running/dropin.py",
        "lengths = lengths[input.sorted_indices.cpu()]",
        "lengths = lengths.sort(descending=False).values",
        "packed sequences are packed again in the wrong order",
        "tests/running/test_dropin.py -k packed",
    ),
    Mutation(
        "wiring/named.py",
        'between(f"{name}_late", node.delayed())',
        'between(f"{name}_late", node)',
        "lateral layers read the present twice",
        "tests/wiring/test_named.py",
    ),
    Mutation(
        "streams/keeper.py",
        "[position + 1 for position in positions]",
        "list(positions)",
        "a stream is expected to go on where its last step was",
        "tests/streams/test_keeper.py",
    ),
    Mutation(
        "adapt/gate_orders.py",
        "list(given).index(gate)",
        "list(wanted).index(gate)",
        "gates stay in the order in which they are given",
        "tests/adapt/test_layouts.py",
    ),
    Mutation(
        "seq2seq/kept_sessions.py",
        "elif like is Likeness.OTHER_NUMBERS:",
        "elif not like:",
        "other weights are not noticed",
        "tests/seq2seq/test_kept_sessions.py",
    ),
    Mutation(
        "adapt/bilinear.py",
        "- (size - 1) / 2",
        "- size // 2",
        "the weights of an enlargement lie half a pixel off",
        "tests/adapt/test_bilinear.py",
    ),
    Mutation(
        "files/model_file.py",
        '"tied": json.dumps(_tied(model)),',
        '"tied": "[]",',
        "weights that were one come back as two",
        "tests/files/test_model_file.py -k 'shared or parameter'",
    ),
    Mutation(
        "seq2seq/decoding.py",
        "total[:, 0] = 0  # all begin alike: only one of them counts",
        "total[:] = 0",
        "all beams say the same",
        "tests/seq2seq/test_decoding.py",
    ),
    Mutation(
        "control/spaces.py",
        "return scores.argmax(1)",
        "return scores.argmin(1)",
        "with several rows, the unlikeliest action is taken",
        "tests/control",
    ),
    Mutation(
        "training/budget.py",
        "0.5 * (1 + math.cos(math.pi * share_done))",
        "0.5 * (1 + math.cos(2 * math.pi * share_done))",
        "the learning rate rises again at the end",
        "tests/training/test_budget.py",
    ),
    Mutation(
        "data/ts_file.py",
        'np.nan if word == "?" else',
        '0.0 if word == "?" else',
        "a missing value is read as zero",
        "tests/data/test_ts_file.py",
    ),
    Mutation(
        "interop/keras_in/gates.py",
        '"LSTM": ("i", "c", "f", "o")',
        '"LSTM": ("i", "f", "c", "o")',
        "the gates of Keras 1 are read in the order of today",
        "tests/interop/test_keras_old_files.py",
    ),
    Mutation(
        "interop/onnx_nodes/sequence.py",
        "self.after[name] = self._last(by_step, initial, len(new.shape))",
        'self.after[name] = self.writer.node("Gather", by_step, self.writer.constant(-1, np.int64), axis=0)',
        "in ONNX files a delayed output ends with the last step of the longest row",
        "tests/interop/test_onnx_file.py",
    ),
    Mutation(
        "interop/onnx_in/step.py",
        "y, after = self._cell(number)(xs.squeeze(1 if first else 0), state)",
        "y, after = self._cell(number)(xs.squeeze(1 if first else 0), self._cell(number).initial_state(len(state[0])))",
        "a graph of ONNX that goes live forgets its state",
        "tests/interop/test_onnx_step.py",
    ),
]


def broken(mutation: Mutation, root: Path) -> tuple[Path, str]:
    """The file that a mutation changes, and its text with the mistake in it.

    Raises:
        LookupError: the text to be replaced is not there once.
    """
    path = root / "src" / "treadle" / mutation.file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.count(mutation.before) != 1:
        raise LookupError(
            f"{mutation.file} has {mutation.before.strip()!r} {text.count(mutation.before)} times, not once"
        )
    return path, text.replace(mutation.before, mutation.after)


def run(mutation: Mutation | None, tests: str, cache: Path) -> tuple[int, str]:
    """The status of pytest on a copy of the code, and the last line that it wrote."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, copy / name)
        if mutation is not None:
            path, text = broken(mutation, copy)
            path.write_text(text, encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": str(copy / "src"), "TREADLE_CACHE": str(cache)}
        environment |= {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider --tb=no -m 'not slow' {tests}"
        done = subprocess.run(
            command, shell=True, cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        lines = (done.stdout + done.stderr).strip().splitlines() or [""]
        failed = [line for line in lines if line.startswith("FAILED")]
        return done.returncode, re.sub(r" - .*", "", (failed or lines)[-1])


def report(mutation: Mutation, everything: bool, cache: Path) -> bool:
    """Break one place and say what came of it: whether it was noticed."""
    began = time.monotonic()
    try:
        status, line = run(mutation, "tests" if everything else mutation.tests, cache)
    except LookupError as error:
        status, line = 2, str(error)
    noticed = status == FAILED or status < 0  # a signal: the process crashed
    verdict = "noticed" if noticed else "NOT NOTICED" if status == 0 else "ERROR"
    print(
        f"{verdict:12}{mutation.file}: {mutation.meaning}\n{'':12}{line} ({time.monotonic() - began:.0f} s)", flush=True
    )
    return noticed


def main() -> int:
    """Break the code in every place, or in those whose file has one of the words given."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="only files whose name has one of these in it")
    parser.add_argument(
        "--all", action="store_true", help="run the whole short suite on each, not only what should notice"
    )
    parser.add_argument("--clean", action="store_true", help="break nothing: the tests named must pass")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    given = parser.parse_args()
    chosen = [m for m in MUTATIONS if not given.words or any(word in m.file for word in given.words)]
    with (
        tempfile.TemporaryDirectory(prefix="kernels-") as cache,
        concurrent.futures.ThreadPoolExecutor(given.jobs) as pool,
    ):
        if given.clean:
            results = list(
                pool.map(lambda tests: run(None, tests, Path(cache)), dict.fromkeys(m.tests for m in chosen))
            )
            print(*(line for _, line in results), sep="\n")
            return int(any(status for status, _ in results))
        noticed = list(pool.map(lambda mutation: report(mutation, given.all, Path(cache)), chosen))
    print(f"{sum(noticed)} of {len(noticed)} noticed")
    return int(not all(noticed))


if __name__ == "__main__":
    sys.exit(main())
