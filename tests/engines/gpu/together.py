"""Programs that wait for each other, under Triton's interpreter.

The interpreter runs one program after another, so one that waits would wait for ever. Here each program is a generator
that yields where it meets the others, and they take turns in a random order: so the source that a GPU runs in one
launch is run in one launch, and an order that a meeting has to forbid is tried sooner or later.
"""

import inspect
import itertools
import random
import re

from triton.runtime.interpreter import GridExecutor, _implicit_cvt, _patch_lang, interpreter_builder

from treadle.engines.gpu.plan.launches import function_of

MEETING = re.compile(r"f\.meet\(meetings \+ (.*), (met)\)")


class Together:
    """The kernel of a source as Triton has it, ``kernel[grid](...)``; the ``seed`` decides on the order of turns."""

    def __init__(self, text, seed=0):
        made = function_of(MEETING.sub(r"yield \1, \2", text))
        self.function, self.names, self.random = made.rewrite(), made.arg_names, random.Random(seed)

    def __getitem__(self, grid):
        return _Launch(self.function, self.names, grid, self.random)


class _Launch(GridExecutor):
    def __init__(self, function, names, grid, order):
        super().__init__(function, names, grid)
        self.random = order

    def __call__(self, *given, **options):
        options = {name: value for name, value in options.items() if name in self.arg_names}
        host, words = self._init_args_hst(given, options)
        scope = _patch_lang(self.fn)
        try:
            arguments = inspect.getcallargs(self.fn, *host, **words)
            arguments = {n: a if n in self.constexprs else _implicit_cvt(a) for n, a in arguments.items()}
            grid = (*self.grid, 1, 1)[:3]
            interpreter_builder.set_grid_dim(*grid)
            self._take_turns({which: self.fn(**arguments) for which in itertools.product(*map(range, grid))})
        finally:
            scope.restore()
        self._restore_args_dev(given, host, options, words)

    def _take_turns(self, programs):
        counters, waiting = {}, dict.fromkeys(programs, (None, 0))
        while programs:
            ready = [which for which, (counter, count) in waiting.items() if counters.get(counter, 0) >= count]
            assert ready, f"all wait for ever: {waiting}, but {counters}"
            which = self.random.choice(ready)
            interpreter_builder.set_grid_idx(*which)
            met = next(programs[which], None)
            if met is None:
                del programs[which], waiting[which]
            else:
                counter, count = (int(number.handle.data.item()) for number in met)
                counters[counter] = counters.get(counter, 0) + 1
                waiting[which] = counter, count
