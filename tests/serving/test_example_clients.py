"""The clients in examples/serving, against a server that listens."""

import asyncio
import functools
import http.server
import json
import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import treadle as td
from tests.serving.clients import listening

CLIENTS = Path(__file__).parents[2] / "examples" / "serving"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def rnn():
    torch.manual_seed(3)
    return td.Recurrent(td.LSTMCell(3, 2))


def alone(rnn, xs):
    """What a session gives for these rows."""
    session = rnn.session()
    return np.array([session.step(np.array(x, np.float32)).copy() for x in xs])


def beside(rnn, *command):
    """What a client prints."""

    async def work(server):
        model = f"{server.addresses['http']}/v2/models/net"
        pipe = asyncio.subprocess.PIPE
        client = await asyncio.create_subprocess_exec(*command, model, stdout=pipe, stderr=pipe)
        out, err = await client.communicate()
        assert client.returncode == 0, err.decode()
        return out.decode()

    return listening({"net": rnn}, work)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_with_curl_a_retry_is_answered_and_takes_no_step(rnn):
    answers = [json.loads(line) for line in beside(rnn, "bash", CLIENTS / "client.sh").splitlines()]
    assert [answer["parameters"]["step"] for answer in answers] == [1, 2, 2, 3]
    expected = alone(rnn, [(0.1, 0.2, 0.3), (0.2, 0.3, 0.4), (0.3, 0.4, 0.5)])[[0, 1, 1, 2]]
    np.testing.assert_array_equal(np.array([a["outputs"][0]["data"] for a in answers], np.float32), expected)


def test_in_python(rnn):
    out = beside(rnn, sys.executable, CLIENTS / "client.py")
    steps = [line.split(": ") for line in out.splitlines()]
    assert [step for step, _ in steps] == [f"step {t}" for t in range(1, 6)]
    t = np.arange(5)
    expected = alone(rnn, np.stack([np.sin(t / 3), np.cos(t / 3), np.ones(5)], 1))
    np.testing.assert_allclose([[float(y) for y in row.split()] for _, row in steps], expected, atol=5e-5)


@pytest.fixture
def page_server():
    """Serves the folder, as the page says to: Chromium lets pages of this machine alone talk to this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=CLIENTS)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_in_a_browser(rnn, page_server):
    api = pytest.importorskip("playwright.async_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")

    async def work(server):
        where = server.addresses["http"].removeprefix("http://")
        async with api.async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = await browser.new_page()
            await page.goto(f"{page_server}/client.html?server={where}")
            await page.wait_for_function("greeting")
            for x, y in ((30, 20), (60, 100)):
                await page.locator("#box").hover(position={"x": x, "y": y})
            await page.wait_for_function("steps >= 2")
            said = await page.text_content("#out")
            await browser.close()
            return said

    said = listening({"net": rnn}, work, origins=(page_server,))
    step, *ys = re.findall(r"-?\d+(?:\.\d+)?", said)
    assert int(step) >= 2
    expected = alone(rnn, [(0.1, 0.1, 1.0), (0.2, 0.5, 1.0)])[1]
    np.testing.assert_allclose([float(y) for y in ys], expected, atol=5e-3)
