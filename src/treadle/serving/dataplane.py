"""What can be asked of a server, whatever network it comes over: steps of sequences, their states, what there is."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from treadle.errors import ModelFileError, StateError
from treadle.files.state_file import state_content, state_of_content
from treadle.serving.keeper import Keeper
from treadle.serving.live_model import LiveModel
from treadle.serving.meanings import Named
from treadle.serving.options import Options
from treadle.serving.rates import Rates
from treadle.serving.refusals import Kind, Refused
from treadle.serving.sequences import Act, Answer, Sequence, Steps
from treadle.serving.served import ServedModel
from treadle.serving.sessions import Sessions
from treadle.serving.stores import Store

logger = logging.getLogger("treadle.serving")

LONGEST_ID = 256
FEW_TURNS = 4
"""So many turns' worth of requests may always wait, however long turns take."""
LONG_WAIT = 0.01
"""Seconds: where more wait than that, a request is refused that would be answered later than this."""


class Request(NamedTuple):
    """A request for steps.

    Attributes:
        tensors: what they read, by name.
        sequence: whose steps they are; None for rows that begin at the initial state and leave nothing.
        start: whether the sequence begins.
        end: whether it ends afterwards.
        step: the position at which the client expects it; None if it does not count.
        timeout: seconds that the client waits for a step to begin.
        called: the sequence as the client wrote it.
        last: how many of the steps are those of the last message, where they come in several; None for all.
        messages: in how many messages they came.
    """

    tensors: Mapping[str, NDArray[Any]]
    sequence: str | None = None
    start: bool = False
    end: bool = False
    step: int | None = None
    timeout: float | None = None
    called: str | int = ""
    last: int | None = None
    messages: int = 1


class Outcome(NamedTuple):
    """What a request gave.

    Attributes:
        live: the version that answered.
        outputs: the tensors, by name.
        parameters: what else there is to know: the sequence, and the step that it expects next.
    """

    live: LiveModel
    outputs: Named
    parameters: dict[str, Any]


def sequence_id(value: Any) -> str | None:
    """The id of a sequence: a text, or a whole number (``5`` and ``"5"`` are one); None for 0 and the empty text.

    Raises:
        Refused: it is something else, or too long.

    Example:
        >>> from treadle.serving.dataplane import sequence_id
        >>> sequence_id(5), sequence_id("anna"), sequence_id(0)
        ('5', 'anna', None)
    """
    if value == "" or (type(value) is int and value == 0):
        return None
    if type(value) is int and 0 < value < 2**64:
        return str(value)
    if isinstance(value, str) and len(value) <= LONGEST_ID:
        return value
    raise Refused(
        Kind.MALFORMED,
        f"sequence_id is a whole number below 2**64, or a text of at most {LONGEST_ID} characters, not {value!r:.40}",
    )


class Dataplane:
    """Models by name, and what can be asked of them.

    Everything but the making of it happens on one event loop.

    Args:
        models: by name, what `read_network` takes.
        options: schedule and limits.
        store: where states are kept; None for nowhere.
    """

    def __init__(self, models: Mapping[str, Any], options: Options | None = None, store: Store | None = None):
        self.options = options or Options()
        self.keeper = None if store is None else Keeper(store, lambda name: self.models[name].latest.sessions.initial)
        self.models = {name: ServedModel(name, source, self.options, self.keeper) for name, source in models.items()}
        self.rates = Rates(self.options.rate)
        self.rejected: dict[str, int] = {}
        self.started = self.ending = False
        self.ends = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._reading = 0

    # The life of the server.

    def start(self) -> None:
        """Begin, on the event loop that runs; once."""
        if self.started:
            return
        self.started = True
        self._loop = asyncio.get_running_loop()
        for served in self.models.values():
            served.start()
        self._tasks = [asyncio.create_task(self._grow_old()), asyncio.create_task(self._look_for_new_versions())]

    async def stop(self) -> None:
        """Refuse what comes from now on, finish what is under way, keep all states."""
        if self.ending or not self.started:
            return
        self.ending = True
        self.ends.set()
        for task in self._tasks:
            task.cancel()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._close)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    while any(live.busy for live in self.versions()):
                        await asyncio.sleep(0.005)
            for served in self.models.values():
                await served.flush()

    def _close(self) -> None:
        for live in self.versions():
            live.close()
        if self.keeper is not None:
            self.keeper.close()

    async def _grow_old(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self.options.idle / 4))
            for served in self.models.values():
                served.expire(perf_counter())

    async def _look_for_new_versions(self) -> None:
        while True:
            await asyncio.sleep(2.0)
            await self.reload()

    async def reload(self) -> None:
        """Serve the files that are others than they were."""
        for served in self.models.values():
            await served.reload_if_changed()

    @property
    def ready(self) -> bool:
        """Whether it answers requests."""
        return not self.ending

    def reject(self, refused: Refused) -> None:
        """Count a refusal, where a client is told of it."""
        kind = refused.kind.name.lower()
        self.rejected[kind] = self.rejected.get(kind, 0) + 1

    def versions(self) -> list[LiveModel]:
        """All versions of all models."""
        return [live for served in self.models.values() for live in served.versions.values()]

    # Models.

    def model(self, name: str) -> ServedModel:
        """A model.

        Raises:
            Refused: there is no such model.
        """
        found = self.models.get(name)
        if found is None:
            raise Refused(Kind.NOT_FOUND, f"there is no model {name!r:.80}, but {', '.join(self.models)}")
        return found

    # Steps.

    async def infer(self, name: str, version: str | None, owner: str, request: Request) -> Outcome:
        """Take steps.

        Args:
            name: of the model.
            version: of the model; None for the sequence's own, or the latest.
            owner: whose token it is.
            request: which steps.

        Raises:
            Refused: with the kind and the reason.
        """
        served = self.model(name)
        live = served.version(version)
        xs, block = live.meaning.rows(request.tensors)
        if xs.shape[0] * xs.shape[1] > self.options.steps:
            raise Refused(Kind.TOO_LARGE, f"{xs.shape[0]} x {xs.shape[1]} steps, more than {self.options.steps}")
        if request.sequence is None:
            if request.start or request.end or request.step is not None:
                raise Refused(Kind.MALFORMED, "sequence_start, sequence_end and step need a sequence_id")
            self.rates.take(owner, perf_counter())
            ys = await self._rows_alone(live, xs, request)
            return Outcome(live, live.meaning.answers(ys, block), {})
        if xs.shape[0] != 1:
            raise Refused(
                Kind.MALFORMED, f"{xs.shape[0]} rows, but a step of a sequence has 1; [1, T, ...] are T steps"
            )
        reply = Reply()
        live = self.submit(served, version, owner, request, xs[0], reply, reply.gone)
        answer = reply.result if reply.is_there else await reply.later()
        if isinstance(answer, Exception):
            raise answer
        parameters: dict[str, Any] = {
            "sequence_id": request.called or request.sequence,
            "step": answer.step + len(answer.ys),
        }
        if answer.reset:
            parameters["sequence_reset"] = True
        return Outcome(live, live.meaning.answers(answer.ys[None], block), parameters)

    def submit(
        self,
        served: ServedModel,
        version: str | None,
        owner: str,
        request: Request,
        xs: NDArray[Any],
        answered: Callable[[Any], None],
        gone: Callable[[], bool] | None = None,
        waits_in_line: bool = False,
    ) -> LiveModel:
        """Ask for steps of a sequence, [T, ...]; ``answered`` is called with an `Answer` or a `Refused`.

        With ``waits_in_line``, a full queue is no reason to refuse: the caller asks for little more until then. Where a
        step takes microseconds and nobody waits, it is answered before this returns.

        Returns:
            The version that takes them.

        Raises:
            Refused: they are not even queued.
        """
        assert request.sequence is not None
        now = perf_counter()
        if self.rates.rate is not None:
            self.rates.take(owner, now, request.messages)
        key = (owner, request.sequence)
        sequence = served.sequences.get(key)
        live = served.latest if sequence is None or len(served.versions) == 1 else served.owner(sequence)
        if not waits_in_line and (self.ending or live.scheduler.queued):
            self.admit(live)
        live.meaning.check_sequences(served.name)
        if version and live.number != version:
            if sequence is None or sequence.slot is None:
                raise Refused(Kind.NOT_FOUND, f"new sequences begin at version {live.number}, not {version!r:.40}")
            raise Refused(Kind.NOT_FOUND, f"{sequence} is at version {live.number}, not {version!r:.40}")
        at_once = live.scheduler.takes_at_once(waits_in_line)
        is_plain = request.step is None and request.timeout != 0 and not (request.start or request.end)
        if at_once and is_plain and sequence is not None:
            answer = live.step_at_once(sequence, xs, now)
            if answer is not None:
                answered(answer)
                return live
        sequence = sequence or served.sequence(key)
        if sequence.jobs and len(sequence.jobs) >= self._most_pending(live, waits_in_line):
            raise Refused(Kind.BUSY, f"{len(sequence.jobs)} requests of {sequence} wait already", 0.1)
        waits = self.options.deadline if request.timeout is None else min(request.timeout, self.options.deadline)
        steps = Steps(
            sequence,
            xs,
            answered,
            start=request.start,
            end=request.end,
            step=request.step,
            last=request.last,
            arrived=now,
            deadline=now + waits,
            gone=gone,
        )
        live.add(steps, at_once)
        return live

    def admit(self, live: LiveModel, count: int = 1) -> None:
        """Refuse more than can be done soon: what waits takes memory, and its clients' time.

        Raises:
            Refused: the queue is full, or the server is about to end.
        """
        if self.ending:
            raise Refused(Kind.UNAVAILABLE, "the server is about to end", 5.0)
        scheduler = live.scheduler
        waits, queued = scheduler.expected_wait(), scheduler.queued
        late = queued >= FEW_TURNS * self.options.rows and waits > LONG_WAIT
        if late or queued + count > max(self.options.queue, count * (not queued)):
            raise Refused(Kind.BUSY, f"{queued} requests of {live.name} wait already", waits)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """While a request of a model is read that has come as a whole: no more are read than the queue has room for.

        To read one takes several times as long as to refuse it, of which those who were admitted have the less.

        Raises:
            Refused: the queue has no room for another one, or the server is about to end.
        """
        served = self.models.get(name)
        if served is not None and len(served.versions) == 1:  # else whose queue it is depends on the sequence
            self.admit(served.latest, self._reading + 1)
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    def _most_pending(self, live: LiveModel, waits_in_line: bool) -> int:
        """Requests of one sequence that may wait: one alone where the queue is short of room for all."""
        has_room = waits_in_line or 2 * live.scheduler.queued < self.options.queue
        return self.options.pending if has_room else 1

    async def _rows_alone(self, live: LiveModel, xs: NDArray[Any], request: Request) -> NDArray[Any]:
        """Rows that belong to no sequence: each begins at the initial state and ends with the request."""
        self.admit(live, len(xs))
        now = perf_counter()
        waits = self.options.deadline if request.timeout is None else min(request.timeout, self.options.deadline)
        futures = [self._loop.create_future() for _ in xs]
        for row, future in zip(xs, futures, strict=True):
            job = Steps(
                Sequence(None, now),
                row,
                _settling(future),
                start=True,
                end=True,
                arrived=now,
                deadline=now + waits,
                gone=future.cancelled,
            )
            live.add(job)
        answers: list[Answer] = await asyncio.gather(*futures)
        return np.stack([answer.ys for answer in answers])

    # States.

    async def state(self, name: str, owner: str, sequence: str) -> bytes:
        """The state of a sequence, as `treadle.save_state` writes it, with its position.

        Raises:
            Refused: there is no such sequence.
        """
        served = self.model(name)

        def read(sessions: Sessions, act: Act) -> tuple[Any, int, str]:
            if act.sequence.slot is None:
                raise served.endings.refusal(act.sequence.key)
            return sessions.state(act.sequence), act.sequence.position, sessions.version.fingerprint

        state, position, belongs_to = await self._act(served, owner, sequence, read)
        return state_content(state, belongs_to, position=str(position))

    async def set_state(self, name: str, owner: str, sequence: str, content: bytes, position: int | None) -> int:
        """Continue a sequence from a state, or begin it there; returns its position.

        Args:
            name: of the model.
            owner: whose token it is.
            sequence: the id.
            content: what `treadle.save_state` writes, or `state` gave.
            position: of the state; None for the one that the content names, or 0.

        Raises:
            Refused: the content is no state of this network.
        """
        served = self.model(name)
        self.admit(served.latest)

        def write(sessions: Sessions, act: Act) -> int:
            try:
                state, notes = state_of_content(content, "it", sessions.initial, sessions.version.fingerprint)
            except (StateError, ModelFileError) as error:
                raise Refused(Kind.NOT_NEXT, f"what was sent is no state of {name}: {error}") from None
            at = position if position is not None else int(notes.get("position", "0"))
            living = len(sessions.version.living)
            if act.sequence.slot is None and living >= self.options.sequences:
                raise Refused(Kind.BUSY, f"{living} sequences of {name} live, the most that may", 1.0)
            sessions.load(act.sequence, state, at)
            act.sequence.used, act.changed = perf_counter(), True
            return at

        return await self._act(served, owner, sequence, write)

    async def about(self, name: str, owner: str, sequence: str) -> dict[str, Any]:
        """Where a sequence is.

        Raises:
            Refused: there is no such sequence; with how it ended, if that is known.
        """
        served = self.model(name)

        def look(sessions: Sessions, act: Act) -> dict[str, Any]:
            if act.sequence.slot is None:
                raise served.endings.refusal(act.sequence.key)
            idle = max(0.0, perf_counter() - act.sequence.used)
            found: dict[str, Any] = {
                "model_name": name,
                "model_version": sessions.version.number,
                "sequence_id": sequence,
            }
            return found | {"step": act.sequence.position, "idle_seconds": round(idle, 3)}

        return await self._act(served, owner, sequence, look)

    async def delete(self, name: str, owner: str, sequence: str) -> None:
        """End a sequence after what was asked of it.

        Raises:
            Refused: there is no such sequence.
        """
        served = self.model(name)
        found = served.sequences.get((owner, sequence)) or served.sequence((owner, sequence))
        future = self._loop.create_future()
        served.owner(found).end(found, "deleted", _settling(future))
        if not await future:
            raise served.endings.refusal((owner, sequence))

    async def _act(self, served: ServedModel, owner: str, id: str, work: Callable[[Sessions, Act], Any]) -> Any:
        """Do something with a sequence in its turn."""
        self.rates.take(owner, perf_counter())
        if self.ending:
            raise Refused(Kind.UNAVAILABLE, "the server is about to end", 5.0)
        sequence = served.sequence((owner, id))
        live = served.owner(sequence)
        future = self._loop.create_future()
        live.add(Act(sequence, work, _settling(future)))
        return await future


class Reply:
    """Is called with an answer; whoever asked has it at once, or waits for it if it is not there yet.

    Attributes:
        is_there: whether it is there.
        result: an `Answer`, or the exception that is there in place of one.
    """

    __slots__ = ("_future", "is_there", "result")

    def __init__(self) -> None:
        self.is_there = False
        self.result: Any = None
        self._future: asyncio.Future[Any] | None = None

    def __call__(self, result: Any) -> None:
        self.is_there, self.result = True, result
        if self._future is not None and not self._future.done():
            self._future.set_result(result)

    def later(self) -> "asyncio.Future[Any]":
        """What to wait for."""
        self._future = asyncio.get_running_loop().create_future()
        return self._future

    def gone(self) -> bool:
        """Whether nobody waits any more."""
        return self._future is not None and self._future.cancelled()


def _settling(future: "asyncio.Future[Any]") -> Callable[[Any], None]:
    """What gives a future its result or its exception, if somebody still waits."""

    def settle(result: Any) -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    return settle
