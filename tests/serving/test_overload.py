"""More than a server can do: what is refused costs next to nothing, and does not hold up those who were admitted."""

import asyncio

import numpy as np
import torch

import treadle as td
from tests.serving.clients import Options, refused, served
from treadle.serving import rest
from treadle.serving.dataplane import Request
from treadle.serving.turnstile import Turnstile

torch.manual_seed(0)
RNN = td.Recurrent(td.LSTMCell(3, 5))
X = np.ones((1, 3), np.float32)


def test_a_full_queue_refuses_what_it_has_not_read():
    async def work(client, plane):
        scheduler = plane.model("m").latest.scheduler
        for queued, status in ((8, 429), (0, 400)):
            scheduler.queued = queued
            with refused(status) as found:
                found(await client.http.post("/v2/models/m/infer", content=b"no JSON"))
        scheduler.queued = 0

    served({"m": RNN}, work, Options(queue=8))


def test_no_more_is_read_than_the_queue_has_room_for(monkeypatch):
    """Requests that come together: those that are refused are not read, and those that are read are admitted."""
    read, parse = [], rest.parse_request
    monkeypatch.setattr(rest, "parse_request", lambda *said: read.append(0) or parse(*said))

    async def work(client, plane):
        scheduler = plane.model("m").latest.scheduler
        scheduler._running = True  # a turn that does not end
        block = np.ones((1, 400, 3), np.float32)
        asked = [asyncio.create_task(client.post("m", block, id=n + 1, start=True)) for n in range(40)]
        while plane.rejected.get("busy", 0) + scheduler.queued < 40:
            await asyncio.sleep(0.001)
        assert (len(read), scheduler.queued) == (8, 8)
        scheduler._running = False
        scheduler._wake()
        found = [one.status_code for one in await asyncio.gather(*asked)]
        assert (found.count(200), found.count(429)) == (8, 32)
        assert plane._reading == 0

    served({"m": RNN}, work, Options(queue=8))


def long_turns(plane):
    """Let the scheduler take turns for long ones, which leave the event loop."""
    scheduler = plane.model("m").latest.scheduler
    scheduler.seconds = 1.0
    return scheduler


def steps(plane, id, note=lambda: None):
    async def ask():
        await plane.infer("m", None, "", Request({"x": X}, sequence=id, start=True))
        note()

    return asyncio.create_task(ask())


def test_the_next_turn_does_not_wait_until_answers_are_written():
    async def work(client, plane):
        scheduler, said = long_turns(plane), []
        take = scheduler._take
        scheduler._take = lambda now: said.append("turn") or take(now)
        await asyncio.gather(*(steps(plane, id, lambda: said.append("answer")) for id in "abc"))
        assert said == ["turn", "turn", "answer", "turn", "answer", "answer"]

    served({"m": RNN}, work, Options(rows=1))


def test_one_piece_of_long_work_a_pass():
    async def main():
        turnstile, said = Turnstile(), []

        async def long(name):
            await turnstile.passed()
            said.append(name)

        tasks = [asyncio.create_task(long(name)) for name in "abcd"]
        await asyncio.sleep(0)
        tasks[1].cancel()  # who waits no more holds up nobody
        passes = []
        while len(said) < 3:
            passes.append(len(said))
            await asyncio.sleep(0)
        assert said == ["a", "c", "d"]
        assert all(after - before <= 1 for before, after in zip(passes, [*passes[1:], 3], strict=True))

    asyncio.run(main())
