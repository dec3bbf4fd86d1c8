"""Clients of a server that runs in the test's own process."""

import asyncio
import contextlib
import json

import httpx
import numpy as np

import treadle as td
from treadle.serving import Options
from treadle.serving.addresses import Address
from treadle.serving.dataplane import Dataplane
from treadle.serving.gate import Gate
from treadle.serving.refusals import Kind
from treadle.serving.server import Server
from treadle.serving.tokens import Tokens

LONGEST = 100.0
"""Seconds that a test waits for its clients."""


class Client:
    """Speaks the protocol over HTTP, without a network."""

    def __init__(self, http, token=None):
        self.http = http
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    async def post(self, model, x, name="x", datatype="FP32", id=None, parameters=(), **sequence):
        x = np.asarray(x)
        said = {name: value for name, value in sequence.items() if value is not None}
        said = {f"sequence_{name}" if name in ("start", "end") else name: value for name, value in said.items()}
        said |= {} if id is None else {"sequence_id": id}
        tensor = {"name": name, "shape": list(x.shape), "datatype": datatype, "data": x.reshape(-1).tolist()}
        body = {"inputs": [tensor], "parameters": said | dict(parameters)}
        return await self.http.post(f"/v2/models/{model}/infer", json=body, headers=self.headers)

    async def step(self, model, x, **options):
        """The first output, once the answer is known to be one."""
        response = await self.post(model, np.asarray(x)[None], **options)
        assert response.status_code == 200, response.text
        return numbers(response)[0]


def numbers(response, place=0):
    """One of the tensors of an answer in JSON."""
    tensor = response.json()["outputs"][place]
    dtype = {"FP32": np.float32, "FP64": np.float64, "BYTES": object}[tensor["datatype"]]
    return np.array(tensor["data"], dtype).reshape(tensor["shape"])


def served(models, work, options=None, token=None, **more):
    """Run ``await work(client, plane)`` beside a server of some models."""

    async def main():
        app = td.serving.application(models, options, **more)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http:
            try:
                app.plane.start()
                async with asyncio.timeout(LONGEST):
                    return await work(Client(http, token), app.plane)
            finally:
                await app.plane.stop()

    return asyncio.run(main())


def listening(models, work, options=None, tokens=None, origins=(), **more):
    """Run ``await work(server)`` beside a server that listens on ports of its own."""

    async def main():
        nobody = Address("127.0.0.1", 0)
        plane = Dataplane(models, options)
        server = Server(plane, Gate(Tokens(tokens), origins, local=tokens is None), nobody, nobody, **more)
        ready = asyncio.Event()
        serving = asyncio.create_task(server.serve(ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        try:
            if not serving.done():
                async with asyncio.timeout(LONGEST):
                    return await work(server)
        finally:
            if not serving.done():
                server.stop()
            await serving

    return asyncio.run(main())


@contextlib.contextmanager
def refused(how, *words):
    """A response that is a refusal with these words, and with this status, or of this kind."""
    found = []
    yield found.append
    (response,) = found
    status = how.status if isinstance(how, Kind) else how
    answer = json.loads(response.content)
    said = answer["error"]
    assert response.status_code == status, response.text
    assert isinstance(how, int) or answer["kind"] == how.name.lower()
    assert all(word in said for word in words), said


OVER = Kind.OVER

__all__ = ["OVER", "Client", "Options", "listening", "numbers", "refused", "served"]
