"""Several servers over one store: whoever is asked takes the next step, and no step is lost or doubled."""

import asyncio
import random
import threading

import httpx
import numpy as np
import pytest
import torch

import treadle as td
from tests.serving.clients import OVER, Client, Options, numbers, refused
from tests.serving.test_keeping import place, redis_address
from treadle.serving.stores import Write, open_store, stamp

torch.manual_seed(0)
RNN = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(5, 7)]))
XS = np.random.default_rng(0).standard_normal((120, 3)).astype(np.float32)
__all__ = ["place", "redis_address"]


def alone(xs):
    session = RNN.session()
    return np.stack([np.array(session.step(x)) for x in xs])


def beside_each_other(work, keep, servers=2, options=None):
    """Run ``await work(*clients)`` beside some servers over one store."""

    async def main():
        apps = [td.serving.application({"m": RNN}, options, keep=keep) for _ in range(servers)]
        clients = []
        for app in apps:
            app.plane.start()
            http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")
            clients.append(Client(http))
            clients[-1].plane = app.plane
        try:
            return await work(*clients)
        finally:
            for client in clients:
                await client.http.aclose()
                await client.plane.stop()

    return asyncio.run(main())


@pytest.mark.share(2)
@pytest.mark.parametrize("counts", [True, False])
def test_steps_wander_among_servers(place, counts):
    """Each step may be asked of any server: those that have an old copy notice it before they answer."""
    draw, expected, name = random.Random(0), alone(XS), f"wander {counts} {place[-9:]}"

    async def work(*servers):
        for t, x in enumerate(XS):
            said = {"start": t == 0, "end": t == len(XS) - 1} | ({"step": t} if counts else {})
            y = await draw.choice(servers).step("m", x, id=name, **said)
            assert np.array_equal(y, expected[t])
            if counts and t % 10 == 3:  # once more, of anybody
                assert np.array_equal(await draw.choice(servers).step("m", x, id=name, **said), expected[t])
        for one in servers:
            with refused(OVER, "has ended", f"at step {len(XS)}") as found:
                found(await one.post("m", XS[:1], id=name))

    beside_each_other(work, place, servers=3)


def test_of_two_who_ask_at_one_time_both_are_served(place):
    name = f"both {place[-9:]}"

    async def work(one, other):
        await one.step("m", XS[0], id=name, start=True)
        await other.step("m", XS[0], id=name)
        answers = await asyncio.gather(*((one, other)[t % 2].post("m", XS[:1], id=name) for t in range(20)))
        steps = sorted(answer.json()["parameters"]["step"] for answer in answers)
        assert steps == list(range(3, 23))
        expected = alone(np.repeat(XS[:1], 22, 0))
        for answer in answers:
            assert np.array_equal(numbers(answer)[0], expected[answer.json()["parameters"]["step"] - 1])

    beside_each_other(work, place)


def test_a_server_that_has_lost_a_sequence_knows_what_became_of_it(tmp_path):
    async def work(one, other):
        await one.step("m", XS[0], id="a", start=True)
        for t in (1, 2):
            await other.step("m", XS[t], id="a", step=t)
        path = "/v2/models/m/sequences/a"
        assert (await one.http.get(path)).json()["step"] == 3
        state = (await one.http.get(f"{path}/state")).content
        await other.step("m", XS[3], id="a")
        with refused(409, "at step 4, but step 1 was sent") as found:
            found(await one.post("m", XS[1:2], id="a", step=1))
        assert (await one.http.put(f"{path}/state", content=state)).json()["step"] == 3
        assert np.array_equal(await other.step("m", XS[3], id="a", step=3), alone(XS[:4])[3])
        await one.http.delete(path)
        with refused(OVER, "was deleted", "at step 4") as found:
            found(await other.post("m", XS[:1], id="a", step=4))
        await other.step("m", XS[0], id="a", start=True)
        assert np.array_equal(await one.step("m", XS[1], id="a", step=1), alone(XS[:2])[1])

    beside_each_other(work, str(tmp_path / "kept"))


def test_a_copy_that_expires_takes_nothing_from_the_server_that_has_the_sequence(tmp_path):
    async def work(one, other):
        await one.step("m", XS[0], id="a", start=True)
        await other.step("m", XS[1], id="a")
        one.plane.model("m").expire(one.plane._loop.time() + 1000)
        while one.plane.model("m").latest.busy:
            await asyncio.sleep(0)
        assert not one.plane.model("m").latest.living
        for client, t in ((other, 2), (one, 3)):
            assert np.array_equal(await client.step("m", XS[t], id="a", step=t), alone(XS[: t + 1])[t])

    beside_each_other(work, str(tmp_path / "kept"))


def test_of_many_who_write_in_place_of_the_same_record_one_does(place):
    name = ("m", "", f"race {place[-9:]}")
    stores = [open_store(place) for _ in range(4)]
    stores[0].put([Write(name, b"0")])
    for turn in range(20):
        before, done = stamp(stores[0].get(name)), []

        def write(number, store, turn=turn, before=before, done=done):
            (written,) = store.put([Write(name, f"{turn} {number}".encode(), before)])
            done.append((written, number))

        threads = [threading.Thread(target=write, args=one) for one in enumerate(stores)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ((_, winner),) = [one for one in done if one[0]]
        assert stores[0].get(name) == f"{turn} {winner}".encode()
    assert stores[0].put([Write(name, b"any"), Write(("m", "", "new" + name[2]), b"1", "nothing")]) == [True, True]


def test_states_that_are_not_due_are_not_given_away(tmp_path):
    async def work(one):
        for t, x in enumerate(XS[:5]):
            await one.step("m", x, id="a", start=t == 0)
        assert (await one.http.get("/v2/models/m/sequences/a")).json()["step"] == 5

    beside_each_other(work, str(tmp_path / "kept"), servers=1, options=Options(keep_every=100))
