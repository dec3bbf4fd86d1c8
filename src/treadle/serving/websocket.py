"""A WebSocket for a sequence: rows of numbers in, rows out, without a request around each."""

import asyncio
import json
import logging
import math
from collections import deque
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from treadle.serving.bodies import Receive, Scope
from treadle.serving.dataplane import Dataplane, Request, sequence_id
from treadle.serving.gate import Gate
from treadle.serving.refusals import Kind, Refused
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


class Stream:
    """``/v2/models/M/sequences/ID/stream``: an ASGI application for WebSockets."""

    def __init__(self, plane: Dataplane, gate: Gate):
        self.plane, self.gate = plane, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        self.plane.start()
        await receive()  # that somebody connects
        offered = scope.get("subprotocols") or []
        accept: dict[str, Any] = {"type": "websocket.accept"}
        if SUBPROTOCOL in offered:
            accept["subprotocol"] = SUBPROTOCOL
        await send(accept)
        try:
            try:
                await Connection(self.plane, scope, self.gate.owner(scope, offered), receive, send).run()
            except Refused as refused:
                await close(self.plane, send, refused)
        except (OSError, RuntimeError) as error:  # what servers raise where nobody listens any more
            logger.debug("a WebSocket was lost: %s", error)


async def close(plane: Dataplane, send: Send, refused: Refused) -> None:
    """End a connection with the reason."""
    plane.reject(refused)
    reason = str(refused).encode()[:LONGEST_REASON].decode(errors="ignore")
    await send({"type": "websocket.close", "code": refused.kind.close_code, "reason": reason})


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
        self.refused = False
        self.may_be_retry = self.step is not None  # the first message, which then has an answer already
        self.answers: deque[Any] = deque()
        self.changed = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Answer until one side closes."""
        self.plane.admit(self.live)
        if self.live.meaning.window is not None:
            raise Refused(Kind.MALFORMED, f"{self.served.name} forecasts from windows: send them as requests")
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
            if not (writer.done() or self.refused):
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
        if not messages:
            return
        if self.may_be_retry and len(messages) > 1:
            messages, self.messages = messages[:1], messages[1:]
            self.loop.call_soon(self._submit)
        self.may_be_retry = False
        try:
            self._ask_for(messages)
        except Refused as refused:
            if len(messages) == 1:
                self.refused = True  # what comes behind it would be steps after a gap
                self._answered(messages, refused)
                return
            for message in messages:  # those before the one that is refused are taken
                if not self.refused:
                    self.messages = [message]
                    self._submit()

    def _ask_for(self, messages: list[bytes]) -> None:
        values = np.frombuffer(messages[0] if len(messages) == 1 else b"".join(messages), self.dtype)
        xs, _ = self.live.meaning.numbers(values.reshape(1, -1, *self.row))
        last = len(messages[-1]) // self.row_bytes
        request = Request({}, self.name, self.starts, step=self.step, last=last, messages=len(messages))
        self.plane.submit(
            self.served, None, self.owner, request, xs[0], partial(self._answered, messages), waits_in_line=True
        )
        self.starts = False
        self.step = None if self.step is None else self.step + len(xs[0])

    def _answered(self, messages: list[bytes], result: Any) -> None:
        self.answers.append((result, messages))
        self.changed.set()

    async def _write(self) -> None:
        """Send answers as they come; the first that is none ends the connection."""
        try:
            await self._write_answers()
        except Refused as refused:
            await close(self.plane, self.send, refused)
        finally:
            self.changed.set()

    async def _write_answers(self) -> None:
        meaning = self.live.meaning
        while True:
            while self.answers:
                result, messages = self.answers.popleft()
                if isinstance(result, Exception):
                    raise result
                answer: Answer = result
                ys = meaning.answers(answer.ys[None], True)[-1][1][0]
                place = 0
                for message in messages:
                    steps = len(message) // self.row_bytes
                    await self.send({"type": "websocket.send", "bytes": ys[place : place + steps].tobytes()})
                    place += steps
                    self.under_way -= 1
                    self.bytes_under_way -= len(message)
                self.changed.set()
            await self._next_change()
