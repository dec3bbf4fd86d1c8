"""Every intermediate value of every step, by the names of the cell's own source."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from treadle.compiler.trace import Trace
from treadle.compiler.watch import Watch
from treadle.engines.call import Call
from treadle.engines.decision import why_no_program
from treadle.engines.network import traced
from treadle.errors import ShapeError, TraceError
from treadle.insight.recorded_names import Named, named_values
from treadle.insight.replay import Moment, Replay
from treadle.locks import MAKING
from treadle.protocol import State
from treadle.running.bidirectional import Bidirectional, both_directions
from treadle.running.dropin import DropIn
from treadle.running.recurrent import Recurrent
from treadle.running.reversed import Reversed, run_reversed
from treadle.state import named_tensors, rebuild
from treadle.wiring.sizes import is_cell


class Record(Mapping[str, Tensor]):
    """What `record` gives: every value of every step, by name, in the order in which they are computed.

    Attributes:
        batch_first: whether its tensors are [B, T, …] or [T, B, …].
    """

    def __init__(self, tensors: Mapping[str, Tensor], lines: Mapping[str, str], batch_first: bool = True):
        self._tensors, self._lines, self.batch_first = dict(tensors), dict(lines), batch_first

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise KeyError(self._unknown(name))
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def line(self, name: str) -> str:
        """The file and line of the source that makes a value, ``"lstm.py:57"``; empty for ``x`` and states before.

        Raises:
            KeyError: there is no value of that name.
        """
        if name not in self._tensors:
            raise KeyError(self._unknown(name))
        return self._lines[name]

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(str(name), self._tensors, 3, 0.5)
        return f"there is no {name!r}" + (f": did you mean {' or '.join(map(repr, near))}?" if near else "")

    def __repr__(self) -> str:
        """Names, shapes and lines, one value a line."""
        width = max(map(len, self._tensors), default=0)
        rows = [f"{name:<{width}}  {list(t.shape)}  {self._lines[name]}".rstrip() for name, t in self._tensors.items()]
        return "\n".join(rows)


def record(
    rnn: Any, xs: Tensor, state: State = None, lengths: Any = None, resets: Tensor | None = None, mask: Any = None
) -> Record:
    """Record every intermediate value of every step, by the path of the cell and the variable of its own source.

    Nothing is to be instrumented: while the step is traced, every variable that holds a value is noted. The numbers
    are those of the interpreter, which defines what a step means, without gradients.

    - ``"layer1.forget"`` is the variable ``forget`` of the ``forward`` of ``layer1``; of a single cell, ``"forget"``.
      A value that several variables hold has all their names.
    - A name means what the variable holds last. What it held before in the same step is ``"s#1"``, ``"s#2"``, …, in
      order: a loop ``s = s + …`` of three rounds gives ``"s#1"``, ``"s#2"``, ``"s"``.
    - ``"layer0.c"``, of a component of the state: what it is after the step; ``"layer0.c(t-1)"``: before it, after a
      reset, if there is one. ``"layer0.y(t-2)"``: what a wiring keeps to be read late. A plain tuple as state has
      ``"state.0"``.
    - ``"x"`` and ``"y"`` are the network's, ``"layer0.y"`` is what a module gives, ``"layer1.x"`` what it reads. A
      variable of such a name that holds something else has a number.
    - A value in a tuple, dict or object is ``"gates[0]"``, ``"state.h"``. A variable of another method or a helper, of
      a value that has no better name, has the name of that in front: ``"layer0.squashed.i"``.
    - A value that nothing holds has the name of its operation and line: ``"layer0.sigmoid@lstm.py:57"``.

    Left out are parameters and what is made of them alone, which is the same at every step, and values that nothing
    holds and that show another's numbers in another form.

    Args:
        rnn: a `treadle.Recurrent`, a drop-in, a `treadle.Reversed`, a `treadle.Bidirectional` (its names begin with
            ``forward.`` and ``backward.``; in a bidirectional drop-in with ``layer0.forward.``), or a cell.
        xs: [B, T, I] as the network takes it.
        state: the state before the first step; as the network takes it. ``None`` for the initial one.
        lengths: [B] whole numbers: past its end a row's state stands still, and all other values are zero.
        resets: [B, T] booleans, as `treadle.Recurrent` takes them.
        mask: [B, T] booleans, as `treadle.Recurrent` takes them: at a step that is not taken the state stands still,
            and all other values are zero.

    Returns:
        A mapping from names to tensors [B, T, …] ([T, B, …] where the network has time first), in the order in which
        they are computed. ``record.line("layer0.forget")`` is the line of the source. Random masks are those of a
        forward pass from the same state of the generator.

    Raises:
        TraceError: the step cannot be turned into a program, with the line, the reason and what to write instead.
        ShapeError: an argument does not fit, or there are no rows or no steps.
        StateError: ``state`` is of another network.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.LSTMCell(5, 5)]))
        >>> values = td.record(rnn, torch.randn(2, 7, 3))
        >>> values["layer1.forget"].shape
        torch.Size([2, 7, 5])
        >>> torch.equal(values["layer1.x"], values["layer0.h"])
        True
    """
    recorder = _Recorder(over_time(rnn))
    with torch.no_grad():
        _, _, values = recorder(xs, state, lengths, resets, True, mask)
    return Record(values, recorder.lines, recorder.batch_first)


def over_time(network: Any) -> Any:
    """What was passed as a network over time: a cell as a `treadle.Recurrent`."""
    if isinstance(network, Recurrent | Bidirectional | Reversed | DropIn):
        return network
    if isinstance(network, nn.Module) and is_cell(network):
        return Recurrent(network)
    raise TypeError(
        "what can be recorded is a Recurrent, a drop-in, a Bidirectional, a Reversed or a cell, but this is a"
        f" {type(network).__name__}: pass the network that is in it"
    )


def trace_of(call: Call, watch: Watch) -> Trace:
    """The program of the step that a call asks for, and what was seen while it was traced.

    Raises:
        TraceError: there is none.
    """
    refusal = why_no_program(call)
    why = None if refusal is None else str(refusal)
    if why is None:
        with MAKING:
            found = traced(call.cell, call.xs[0], call.state, watch)
        if found.program is not None and not found.error:
            return found
        why = found.error
    name = type(call.cell).__name__
    raise TraceError(
        f"{name} has no program, so its values cannot be recorded: {why}. Its outputs and states come"
        " from rnn(xs, return_states=True) all the same"
    )


class _Recorder:
    """A network, called as `both_directions` calls one: what it gives as states are its values by name."""

    def __init__(self, network: Any):
        self.network, self.batch_first = network, network.batch_first if hasattr(network, "batch_first") else True
        self.lines: dict[str, str] = {}

    def __call__(
        self, xs: Tensor, state: State, lengths: Any, resets: Any, return_states: bool, mask: Any = None
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        network = self.network
        if isinstance(network, DropIn) and not network.bidirectional:
            network, state = network.recurrent(), network.states_of(state)
        if isinstance(network, Recurrent):
            end, values = self._one_direction(network, network.call(xs, state, lengths, resets, mask=mask))
        elif isinstance(network, Bidirectional):
            before = (None, None) if state is None else (state["forward"], state["backward"])
            pair = (_Recorder(network.ahead), _Recorder(network.back))
            ys, end, values = self._directions(pair, xs, before, lengths, resets, mask)
            values = {"x": values["forward.x"], **values, "y": ys}
            self.lines |= {"x": "", "y": ""}
        elif isinstance(network, Reversed):
            alone: Any = _Recorder(network.network)
            _, end, values = run_reversed(alone, xs, state, lengths, resets, True, mask)
            self.lines |= alone.lines
        else:
            end, values = self._layers(network, xs, state, lengths, resets, mask)
        return values["y"], end, values

    def _one_direction(self, network: Recurrent, call: Call) -> tuple[State, dict[str, Tensor]]:
        """Every value of a network that reads from the first step to the last."""
        call = call.in_precision_of_weights()
        if not call.xs.shape[0] or not call.xs.shape[1]:
            given = list(call.xs.transpose(0, int(self.batch_first)).shape)
            raise ShapeError(f"there is nothing to record in {given}: pass at least one row and one step")
        watch, axis = Watch(call.cell), int(self.batch_first)
        found = trace_of(call, watch)
        assert found.program is not None
        names = named_values(found.program, watch)
        with torch.autocast("cpu", enabled=False):
            replay = Replay(call, found.program, found.lifted, watch.made)
            moments = list(replay.each(one.value for one in names.values()))
        self.lines |= {name: one.line for name, one in names.items()}
        made: dict[Any, Tensor] = {}  # one tensor for all names of a value
        for one in names.values():
            if (key := (one.value, one.before, one.after)) not in made:
                made[key] = torch.stack([_of(moment, one) for moment in moments], axis)
        values = {name: made[one.value, one.before, one.after] for name, one in names.items()}
        end = {name: moments[-1].after[f"state/{name}"] for name, _ in named_tensors(call.state)}
        return rebuild(call.state, end), values

    def _directions(
        self,
        pair: tuple["_Recorder", "_Recorder"],
        xs: Tensor,
        before: Any,
        lengths: Any,
        resets: Any,
        mask: Any,
        path: str = "",
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """Those of two networks, of which the second reads from the last step to the first."""
        ahead, back = both_directions(pair, xs, before, lengths, resets, True, mask)  # pyright: ignore[reportArgumentType]
        values: dict[str, Tensor] = {}
        for direction, recorder, (_, _, found) in zip(("forward", "backward"), pair, (ahead, back), strict=True):
            values |= {f"{path}{direction}.{name}": tensor for name, tensor in found.items()}
            self.lines |= {f"{path}{direction}.{name}": line for name, line in recorder.lines.items()}
        return torch.cat([ahead[0], back[0]], -1), {"forward": ahead[1], "backward": back[1]}, values

    def _layers(
        self, network: DropIn, xs: Tensor, hx: Any, lengths: Any, resets: Any, mask: Any
    ) -> tuple[State, dict[str, Tensor]]:
        """Those of a bidirectional drop-in: layer after layer, each in both directions over the whole sequence."""
        ys = xs.transpose(0, 1) if self.batch_first else xs
        recorders = [_Recorder(one) for one in network.directions()]
        before = network.states_of(hx)
        values: dict[str, Tensor] = {}
        for i in range(0, len(recorders), 2):
            pair, path = (recorders[i], recorders[i + 1]), f"layer{i // 2}."
            ys, _, found = self._directions(pair, ys, before[i : i + 2], lengths, resets, mask, path)
            values |= found
            if i + 2 < len(recorders):
                ys = nn.functional.dropout(ys, network.dropout, network.training)
        self.lines |= {"x": "", "y": ""}
        values = {"x": values["layer0.forward.x"], **values, "y": ys}
        return None, {name: t.transpose(0, 1) for name, t in values.items()} if self.batch_first else values


def _of(moment: Moment, one: Named) -> Tensor:
    if one.before or one.after:
        return moment.before[one.before] if one.before else moment.after[one.after]
    return moment.values[one.value]
