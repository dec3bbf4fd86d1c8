"""Clients by protocol: each has a connection and a sequence of its own, and asks for a step whenever it is told to."""

import asyncio
import base64
import json
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

from benchmarks.serving import MODEL

Noted = Callable[[int, float, str], None]
"""Is told whose request was answered, when it was due, and how: ``"ok"``, or the refusal's code."""


class Client(Protocol):
    """One client."""

    async def connect(self) -> None:
        """Connect, and begin the sequence."""
        ...

    def ask(self, due: float) -> None:
        """Send a request that was due then, as soon as the protocol lets it."""
        ...

    def y(self) -> list[float]:
        """The numbers of the last answer."""
        ...


class Http(asyncio.Protocol):
    """HTTP/1.1 as JSON: a connection, on which one request is under way at a time.

    Args:
        number: which client it is.
        address: ``host:port``.
        x: [T, I], what each request asks for.
        noted: is told of answers.
    """

    ends = False
    """Whether requests end the sequence."""

    def __init__(self, number: int, address: str, x: np.ndarray, noted: Noted):
        self.number, self.address, self.x, self.noted = number, address, x, noted
        self.waiting: deque[float] = deque()
        self.due: float | None = None
        self.read = b""
        self.first, self.request = self.form(start=True), self.form(start=False)

    def form(self, start: bool) -> bytes:
        """A request."""
        body = json.dumps(self.said(start, {"data": self.x.reshape(-1).tolist()})).encode()
        return self.headed(body, "Content-Type: application/json\r\n")

    def said(self, start: bool, tensor: dict[str, Any]) -> dict[str, Any]:
        """The JSON object of a request."""
        shape = [1, *self.x.shape] if len(self.x) > 1 else [1, self.x.shape[1]]
        parameters = {"sequence_id": f"client-{self.number}", "sequence_start": start, "sequence_end": self.ends}
        return {
            "parameters": parameters,
            "inputs": [{"name": "x", "datatype": "FP32", "shape": shape, **tensor}],
        }

    def headed(self, body: bytes, headers: str) -> bytes:
        """A body behind its head."""
        head = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: {self.address}\r\n{headers}"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def connect(self) -> None:
        """Connect, and begin the sequence."""
        host, port = self.address.rsplit(":", 1)
        self.transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, host, int(port))
        request, self.request = self.request, self.first
        self.ask(0.0)
        while self.due is not None:
            await asyncio.sleep(0)
        self.request = request

    def ask(self, due: float) -> None:
        """Send a request, or let it wait for the one before it."""
        if self.due is not None:
            self.waiting.append(due)
            return
        self.due = due
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """More of an answer."""
        self.read += data
        head = self.read.find(b"\r\n\r\n")
        if head < 0:
            return
        place = self.read.lower().index(b"content-length:") + 15
        length = int(self.read[place : self.read.index(b"\r\n", place)])
        if len(self.read) < head + 4 + length:
            return
        self.answer, self.read = self.read, b""
        status, due, self.due = self.answer[9:12].decode(), self.due, None
        assert due is not None
        self.noted(self.number, due, "ok" if status == "200" else status)
        if self.waiting:
            self.ask(self.waiting.popleft())

    def y(self) -> list[float]:
        """The numbers of the last answer."""
        return json.loads(self.answer.partition(b"\r\n\r\n")[2])["outputs"][0]["data"]


class HttpPool:
    """HTTP/1.1 as JSON over a few connections, as clients have them that do not wait for their own last request.

    Over one connection alone, a request is sent only once the one before is answered, and a refusal would count what
    another request waited for its step.

    Args:
        number: which client it is.
        address: ``host:port``.
        x: [T, I], what each request asks for.
        noted: is told of answers.
    """

    connections = 4

    def __init__(self, number: int, address: str, x: np.ndarray, noted: Noted):
        self.noted, self.waiting = noted, deque[float]()
        self.all = [Http(number, address, x, partial(self._noted, place)) for place in range(self.connections)]
        self.idle: deque[Http] = deque()

    async def connect(self) -> None:
        """Connect, and begin the sequence."""
        for one in self.all:
            await one.connect()

    def ask(self, due: float) -> None:
        """Send a request over a connection on which none is under way, or let it wait for one."""
        if self.idle:
            self.last = self.idle.popleft()  # the one that has been silent longest, or the server would close it
            self.last.ask(due)
        else:
            self.waiting.append(due)

    def _noted(self, place: int, number: int, due: float, how: str) -> None:
        self.idle.append(self.all[place])
        self.noted(number, due, how)
        if self.waiting:
            self.ask(self.waiting.popleft())

    def y(self) -> list[float]:
        """The numbers of the last answer."""
        return self.last.y()


class HttpBinary(Http):
    """HTTP/1.1 with the tensors as bytes behind the JSON object."""

    def form(self, start: bool) -> bytes:
        """A request."""
        said = self.said(start, {"parameters": {"binary_data_size": self.x.nbytes}})
        said["parameters"]["binary_data_output"] = True
        text = json.dumps(said).encode()
        return self.headed(text + self.x.tobytes(), f"Inference-Header-Content-Length: {len(text)}\r\n")

    def y(self) -> list[float]:
        """The numbers of the last answer."""
        return np.frombuffer(self.answer[-self.x.nbytes :], np.float32).tolist()


class WebSocket(asyncio.Protocol):
    """A WebSocket, on which requests follow each other without waiting for answers.

    Args:
        number: which client it is.
        address: ``host:port``.
        x: [T, I], what each message holds.
        noted: is told of answers.
    """

    def __init__(self, number: int, address: str, x: np.ndarray, noted: Noted):
        self.number, self.address, self.x, self.noted = number, address, x, noted
        payload, size = x.tobytes(), len(x.tobytes())
        length = bytes([128 + size]) if size < 126 else bytes([128 + 126]) + size.to_bytes(2, "big")
        self.message = b"\x82" + length + bytes(4) + payload  # a mask of zeros changes nothing
        self.waiting: deque[float] = deque()
        self.read, self.greeted = b"", asyncio.Event()

    async def connect(self) -> None:
        """Connect, wait for the greeting, and take the first step."""
        host, port = self.address.rsplit(":", 1)
        self.transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, host, int(port))
        path = f"/v2/models/{MODEL}/sequences/client-{self.number}/stream?start=true"
        key = base64.b64encode(bytes(16)).decode()
        headers = {"Host": self.address, "Upgrade": "websocket", "Connection": "Upgrade"}
        headers |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        await self.greeted.wait()
        self.ask(0.0)
        while self.waiting:
            await asyncio.sleep(0)

    def ask(self, due: float) -> None:
        """Send a message."""
        self.waiting.append(due)
        self.transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        """Some frames, and perhaps a part of another."""
        read, place = self.read + data, 0
        if not self.greeted.is_set() and read.startswith(b"HTTP"):
            end = read.find(b"\r\n\r\n")
            place = len(read) if end < 0 else end + 4
            if end < 0:
                self.read = read
                return
        while len(read) - place >= 4:
            size, head = read[place + 1] & 127, 2
            if size == 126:
                size, head = int.from_bytes(read[place + 2 : place + 4], "big"), 4
            if len(read) - place < head + size:
                break
            self.frame(read[place] & 15, read[place + head : place + head + size])
            place += head + size
        self.read = read[place:]

    def frame(self, kind: int, payload: bytes) -> None:
        """One frame."""
        if kind == 2:
            self.answer = payload
            self.noted(self.number, self.waiting.popleft(), "ok")
        elif kind == 1:
            self.greeted.set()
        elif kind == 9:  # a ping, which a server sends to connections that it holds for long
            self.transport.write(bytes([0x8A, 128 + len(payload)]) + bytes(4) + payload)
        elif kind == 8:
            code = str(int.from_bytes(payload[:2], "big"))
            while self.waiting:
                self.noted(self.number, self.waiting.popleft(), code)

    def y(self) -> list[float]:
        """The numbers of the last answer."""
        return np.frombuffer(self.answer, np.float32).tolist()


class Grpc:
    """gRPC, a call for each request.

    Args:
        number: which client it is.
        address: ``host:port``.
        x: [T, I], what each request asks for.
        noted: is told of answers.
    """

    method, streams = "ModelInfer", False

    def __init__(self, number: int, address: str, x: np.ndarray, noted: Noted):
        self.number, self.address, self.x, self.noted = number, address, x, noted
        self.first, self.request = self.form(start=True), self.form(start=False)
        self._under_way: set[Any] = set()

    def form(self, start: bool) -> bytes:
        """A request."""
        from treadle.serving.grpc_messages import protocol

        message = protocol().message("ModelInferRequest")(model_name=MODEL)
        shape = [1, *self.x.shape] if len(self.x) > 1 else [1, self.x.shape[1]]
        message.inputs.add(name="x", datatype="FP32", shape=shape)
        message.parameters["sequence_id"].string_param = f"client-{self.number}"
        message.parameters["sequence_start"].bool_param = start
        message.raw_input_contents.append(self.x.tobytes())
        return message.SerializeToString()

    def open(self) -> Any:
        """A way to call, over a connection of its own."""
        import grpc

        self.error = grpc.aio.AioRpcError
        channel = grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])
        kind = channel.stream_stream if self.streams else channel.unary_unary
        return kind(f"/inference.GRPCInferenceService/{self.method}")

    async def connect(self) -> None:
        """Connect, and begin the sequence."""
        self.call = self.open()
        self.answer = await self.call(self.first)

    def ask(self, due: float) -> None:
        """Call."""
        task = asyncio.ensure_future(self._one(due))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _one(self, due: float) -> None:
        try:
            self.answer, how = await self.call(self.request), "ok"
        except self.error as error:
            how = f"{error.code().name}: {error.details()}"
        self.noted(self.number, due, how)

    def y(self) -> list[float]:
        """The numbers of the last answer."""
        from treadle.serving.grpc_messages import protocol

        answer = protocol().message("ModelInferResponse").FromString(self.answer)
        return np.frombuffer(answer.raw_output_contents[0], np.float32).tolist()


class GrpcStream(Grpc):
    """gRPC, with one stream for all requests of a client."""

    method, streams = "ModelStreamInfer", True

    async def connect(self) -> None:
        """Connect, and begin the sequence."""
        self.stream = self.open()()
        self.waiting: deque[float] = deque()
        await self.stream.write(self.first)
        self.answer = await self.stream.read()
        self.to_write: asyncio.Queue[bytes] = asyncio.Queue()
        self.tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    def ask(self, due: float) -> None:
        """Write to the stream."""
        self.waiting.append(due)
        self.to_write.put_nowait(self.request)

    async def _write(self) -> None:
        while True:
            await self.stream.write(await self.to_write.get())

    async def _read(self) -> None:
        while True:
            self.answer = await self.stream.read()
            # The first field is that of an error, where there is one.
            self.noted(self.number, self.waiting.popleft(), "ok" if self.answer[0] == 0x12 else "refused")

    def y(self) -> list[float]:
        """The numbers of the last answer."""
        from treadle.serving.grpc_messages import protocol

        answer = protocol().message("ModelStreamInferResponse").FromString(self.answer).infer_response
        return np.frombuffer(answer.raw_output_contents[0], np.float32).tolist()


KINDS: dict[str, Callable[[int, str, np.ndarray, Noted], Client]] = {
    "REST, JSON": Http,
    "REST, JSON, some connections": HttpPool,
    "REST, binary": HttpBinary,
    "gRPC": Grpc,
    "gRPC stream": GrpcStream,
    "WebSocket": WebSocket,
}
