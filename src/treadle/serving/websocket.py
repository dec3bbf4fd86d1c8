"""A WebSocket for a sequence: rows of numbers in, rows out, without a request around each."""

import asyncio
import contextlib
import itertools
import json
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from treadle.serving.bodies import Receive, Scope
from treadle.serving.dataplane import Dataplane, Request, sequence_id
from treadle.serving.gate import Gate
from treadle.serving.refusals import Kind, Refused, as_refused
from treadle.serving.rest import Send, step_asked
from treadle.serving.sequences import Answer
from treadle.serving.tensors import DATATYPES

logger = logging.getLogger("treadle.serving")

WINDOW = 16
"""Messages of one connection that are under way; more of them are not read, which its sender notices."""
WINDOW_BYTES = 1 << 20
SUBPROTOCOL = "treadle"
LONGEST_REASON = 120
"""Bytes of a reason with which a WebSocket is closed."""


class Lost(Exception):
    """The other side of a WebSocket is not there any more."""


class Stream:
    """``/v2/models/M/sequences/ID/stream``: an ASGI application for WebSockets."""

    def __init__(self, plane: Dataplane, gate: Gate):
        self.plane, self.gate = plane, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        self.plane.start()
        receive, send = _losing(receive), _losing(send)
        offered = scope.get("subprotocols") or []
        accept: dict[str, Any] = {"type": "websocket.accept"}
        if SUBPROTOCOL in offered:
            accept["subprotocol"] = SUBPROTOCOL
        try:
            await receive()  # that somebody connects
            await send(accept)
            await Connection(self.plane, scope, self.gate.owner(scope, offered), receive, send).run()
        except Exception as error:
            await close(self.plane, send, error)


async def close(plane: Dataplane, send: Send, error: Exception) -> None:
    """End a connection with the reason, if somebody still listens."""
    if isinstance(error, Lost):
        logger.debug("a WebSocket was lost: %s", error)
        return
    refused = as_refused(error, "a WebSocket")
    plane.reject(refused)
    reason = str(refused).encode()[:LONGEST_REASON].decode(errors="ignore")
    with contextlib.suppress(Lost):
        await send({"type": "websocket.close", "code": refused.kind.close_code, "reason": reason})


def _losing(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """What receives or sends, so that a failure of the network is told from all others."""

    async def called(*message: Any) -> Any:
        try:
            return await call(*message)
        except (OSError, RuntimeError) as error:  # what servers raise where nobody listens any more
            raise Lost(str(error)) from error

    return called


class Connection:
    """One connection: what it sends are steps of one sequence, answered in order.

    Args:
        plane: what is asked.
        scope: of the connection.
        owner: whose token it is.
        receive: gives its next message.
        send: sends one.
    """

    def __init__(self, plane: Dataplane, scope: Scope, owner: str, receive: Receive, send: Send):
        self.plane, self.owner, self.receive, self.send = plane, owner, receive, send
        self.served = plane.model(scope["path_params"]["model"])
        self.live = self.served.latest
        name = sequence_id(scope["path_params"]["sequence"])
        if name is None:
            raise Refused(Kind.MALFORMED, "the id of the sequence is empty")
        self.name = name
        query = parse_qs(scope["query_string"].decode("latin-1"))
        self.starts = query.get("start", ["false"]) == ["true"]
        self.ends = query.get("end", ["false"]) == ["true"]
        self.step = step_asked(scope)
        kind = self.live.meaning.inputs[0]
        self.row, self.dtype = kind.shape, DATATYPES[kind.datatype]
        self.row_bytes = self.dtype.itemsize * math.prod(kind.shape)
        self.under_way = self.bytes_under_way = 0
        self.messages: list[bytes] = []
        self.asked = 0
        self.refused_at = math.inf
        """Which of what was asked is refused: what is behind it would be steps after a gap, and is not taken."""
        self.may_be_retry = self.step is not None  # the first message, which then has an answer already
        self.answers: dict[int, Any] = {}
        self.changed = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Answer until one side closes."""
        self.plane.admit(self.live)
        self.live.meaning.check_sequences(self.served.name)
        await self.send({"type": "websocket.send", "text": json.dumps(await self._greeting())})
        writer = asyncio.create_task(self._write())
        try:
            await self._read(writer)
        finally:
            writer.cancel()
            while self.messages:
                self._submit()
            if self.ends and (sequence := self.served.sequences.get((self.owner, self.name))) is not None:
                self.served.owner(sequence).end(sequence, "ended")

    async def _greeting(self) -> dict[str, Any]:
        """What a client has to know first."""
        meaning = self.live.meaning
        step = 0
        if not self.starts:
            step = (await self.plane.about(self.served.name, self.owner, self.name))["step"]
        return {
            "model_name": self.served.name,
            "model_version": self.live.number,
            "sequence_id": self.name,
            "step": step,
            "input": {"datatype": meaning.inputs[0].datatype, "shape": list(self.row)},
            "output": {"datatype": meaning.outputs[-1].datatype, "shape": list(meaning.outputs[-1].shape)},
        }

    async def _read(self, writer: "asyncio.Task[None]") -> None:
        """Take messages, as far as there is room for what they ask."""
        while True:
            while (self.under_way >= WINDOW or self.bytes_under_way > WINDOW_BYTES) and not writer.done():
                await self._next_change()
            message = await self.receive()
            if message["type"] != "websocket.receive":
                return
            data = message.get("bytes")
            if data is None:
                raise Refused(Kind.UNSUPPORTED, "a message is text, but rows are sent as binary messages")
            if not writer.done() and self.refused_at == math.inf:
                self._take(data)

    async def _next_change(self) -> None:
        self.changed.clear()
        await self.changed.wait()

    def _take(self, data: bytes) -> None:
        """Take a message; its steps are asked for together with those of others that have come as well."""
        steps, rest = divmod(len(data), self.row_bytes)
        if rest or not steps:
            raise Refused(
                Kind.MALFORMED, f"a message has {len(data)} bytes, but a row has {self.row_bytes}: send whole rows"
            )
        if steps > self.plane.options.steps:
            raise Refused(Kind.TOO_LARGE, f"{steps} steps, more than {self.plane.options.steps}")
        if not self.messages:
            self.loop.call_soon(self._submit)
        self.messages.append(data)
        self.under_way += 1
        self.bytes_under_way += len(data)

    def _submit(self) -> None:
        """Ask for the steps of the messages that have come."""
        messages, self.messages = self.messages, []
        if self.refused_at < math.inf or not messages:
            return
        if self.may_be_retry and len(messages) > 1:
            messages, self.messages = messages[:1], messages[1:]
            self.loop.call_soon(self._submit)
        self.may_be_retry = False
        try:
            self._ask_for(messages)
        except Exception as error:
            if len(messages) == 1 or not isinstance(error, Refused):
                self._answered(self.asked, messages, error)
                return
            for message in messages:  # those before the one that is refused are taken
                self.messages = [message]
                self._submit()

    def _ask_for(self, messages: list[bytes]) -> None:
        values = np.frombuffer(messages[0] if len(messages) == 1 else b"".join(messages), self.dtype)
        xs, _ = self.live.meaning.numbers(values.reshape(1, -1, *self.row))
        last = len(messages[-1]) // self.row_bytes
        request = Request({}, self.name, self.starts, step=self.step, last=last, messages=len(messages))
        number = self.asked
        answered = partial(self._answered, number, messages)
        gone = partial(self._is_behind_a_refusal, number)
        self.plane.submit(self.served, None, self.owner, request, xs[0], answered, gone, waits_in_line=True)
        self.asked, self.starts = number + 1, False
        self.step = None if self.step is None else self.step + len(xs[0])

    def _is_behind_a_refusal(self, number: int) -> bool:
        return number > self.refused_at

    def _answered(self, number: int, messages: list[bytes], result: Any) -> None:
        if isinstance(result, Exception):
            self.refused_at = min(self.refused_at, number)
        self.answers[number] = result, messages
        self.changed.set()

    async def _write(self) -> None:
        """Send answers in the order of what was asked; the first that is none ends the connection."""
        number = 0
        try:
            for number in itertools.count():
                while number not in self.answers:
                    await self._next_change()
                await self._write_answer(*self.answers.pop(number))
                self.changed.set()
        except Exception as error:
            if not isinstance(error, Lost):
                self.refused_at = min(self.refused_at, number)
            await close(self.plane, self.send, error)
        finally:
            self.changed.set()

    async def _write_answer(self, result: Any, messages: list[bytes]) -> None:
        if isinstance(result, Exception):
            raise result
        answer: Answer = result
        ys = self.live.meaning.answers(answer.ys[None], True)[-1][1][0]
        place = 0
        for message in messages:
            steps = len(message) // self.row_bytes
            await self.send({"type": "websocket.send", "bytes": ys[place : place + steps].tobytes()})
            place += steps
            self.under_way -= 1
            self.bytes_under_way -= len(message)
