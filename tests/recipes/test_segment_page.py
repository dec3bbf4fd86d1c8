"""The page: what the server answers and refuses, and clicking in a real Chromium."""

import asyncio
import base64
import importlib
import io
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.requests import ClientDisconnect

from treadle.recipes.segment import Click, Segmenter, TwoStageNetwork, make_scene

page = importlib.import_module("treadle.recipes.segment.page.application")  # the name is also its function's
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SAFE = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ALONE = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return Segmenter(TwoStageNetwork(channels=(4, 4, 6, 6, 8), width=4), 48)


class Client:
    """Requests to an application in this process."""

    def __init__(self, answers, base_url):
        self.transport, self.base_url = httpx.ASGITransport(answers), base_url

    def ask(self, method, path, **options):
        async def asked():
            async with httpx.AsyncClient(transport=self.transport, base_url=self.base_url) as client:
                return await client.request(method, path, **options)

        return asyncio.run(asked())

    def get(self, path, **options):
        return self.ask("GET", path, **options)

    def post(self, path, **options):
        return self.ask("POST", path, **options)


@pytest.fixture
def client(segmenter):
    return Client(page.application(segmenter), base_url="http://127.0.0.1:8000")


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


SCENE = make_scene(0, 60).image[:, :40]


def opened(client):
    answer = client.post("/image", content=png(SCENE.movedim(0, 2).numpy()))
    assert answer.status_code == 200
    return answer.json()


def decoded(text):
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


def test_click_undo_and_save(client, segmenter):
    found = opened(client)
    assert (found["width"], found["height"]) == (60, 40)
    assert np.array_equal(decoded(found["image"]), SCENE.movedim(0, 2).numpy())
    name, session = found["session"], segmenter.session(SCENE)
    for click in (Click(20, 30), Click(3, 3, False)):
        answer = client.post("/click", json={"session": name, **click._asdict()}).json()
        mask = session.click(click)
        assert np.array_equal(decoded(answer["mask"])[..., 1] > 0, mask)
        assert answer["milliseconds"] > 0
    assert answer["clicks"] == [click._asdict() for click in session.clicks]
    saved = client.get("/mask.png", params={"session": name})
    assert saved.headers["content-type"] == "image/png"
    assert 'filename="mask.png"' in saved.headers["content-disposition"]
    assert np.array_equal(np.array(Image.open(io.BytesIO(saved.content))), mask * np.uint8(255))
    session.undo()
    answer = client.post("/undo", json={"session": name}).json()
    assert np.array_equal(decoded(answer["mask"])[..., 1] > 0, session.mask)
    assert client.post("/clear", json={"session": name}).json()["mask"] is None


def test_the_page_begins_with_the_image_of_the_command_line(segmenter):
    client = Client(page.application(segmenter, SCENE), base_url="http://localhost")
    assert client.post("/start", json={}).json()["width"] == 60
    assert client.post("/scene", json={}).json()["width"] == 384
    assert Client(page.application(segmenter), base_url="http://localhost").post("/start").json() == {"session": None}


def test_files_are_those_of_the_page_and_no_others(client):
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        answer = client.get(path)
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", client.get("/").text)
    for path in ("/app.py", "/../app.py", "/%2e%2e/app.py", "/page.html", "/etc/passwd", "/image"):
        assert client.get(path).status_code in (404, 405)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"row": 40, "column": 0, "positive": True}, "outside the image, which has rows 0 to 39 and columns 0 to 59"),
        ({"row": -1, "column": 0, "positive": True}, "outside the image"),
        ({"row": 1.5, "column": 0, "positive": True}, "whole numbers"),
        ({"row": 1, "column": True, "positive": True}, "whole numbers"),
        ({"row": 1, "column": 2}, "whole numbers"),
        ({"row": 1, "column": 2, "positive": True, "session": "/etc/passwd"}, "not open any more"),
        ({"row": 1, "column": 2, "positive": True, "session": ["x"]}, "not open any more"),
    ],
)
def test_bad_clicks_are_refused(client, values, message):
    answer = client.post("/click", json={"session": opened(client)["session"]} | values)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_bad_images_are_refused(client, monkeypatch):
    for content in (b"", b"no image", png(np.zeros((9, 9), np.uint8))[:40], png(np.zeros((9, 9), np.uint16))):
        answer = client.post("/image", content=content)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("the image")
    assert client.post("/click", content=b"[1]").json()["error"] == "the request is no JSON object"
    assert client.post("/click", content=b"[" * 9_999).json()["error"] == "the request is no JSON object"
    assert client.post("/click", content=b"{" * 20_000).status_code == 413


def test_uploads_have_a_limit(client):
    most = page.MOST_BYTES
    answer = client.post("/image", content=b"x", headers={"content-length": str(most + 1)})
    assert answer.status_code == 413
    assert "larger than 30 MB" in answer.json()["error"]
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 2**20
            yield bytes(2**20)
            assert read < 2 * most

    class Request:
        def __init__(self):
            self.headers = {}

        async def stream(self):
            for part in endless():
                yield part

    with pytest.raises(page.TooLargeError):
        asyncio.run(page.body(Request(), most))
    assert read <= most + 2**20


def test_other_pages_and_names_are_not_answered(client):
    values = {"session": opened(client)["session"]}
    assert client.post("/undo", json=values, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/undo", json=values, headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    assert client.post("/undo", json=values, headers={"host": "evil.example"}).status_code == 400


def test_images_and_clicks_are_bounded(client, monkeypatch):
    monkeypatch.setattr(page, "MOST_SESSIONS", 2)
    monkeypatch.setattr(page, "MOST_CLICKS", 1)
    names = [opened(client)["session"] for _ in range(3)]
    values = {"row": 1, "column": 2, "positive": True}
    answers = [client.post("/click", json={"session": name, **values}).status_code for name in names]
    assert answers == [400, 200, 200]
    answer = client.post("/click", json={"session": names[2], **values})
    assert "has 1 clicks already" in answer.json()["error"]


@pytest.fixture
def served(segmenter, tmp_path):
    """The command, as people run it: the address that it prints."""
    segmenter.save(tmp_path / "m.safetensors")
    (tmp_path / "scene.png").write_bytes(png(SCENE.movedim(0, 2).numpy()))
    line = [sys.executable, "-m", "treadle", "segment", "click", "m.safetensors", "scene.png"]
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert found, said + process.stderr.read()
        yield found[0], int(found[1]), process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_it_listens_on_the_loopback_address_only(served):
    _, port, _ = served
    with socket.create_connection(("127.0.0.1", port), 10):
        pass
    # Every other address of this machine is refused: 127.0.0.2 is one that all Linux machines have.
    if sys.platform == "linux":
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 10)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_clicking_in_chromium(served, segmenter, tmp_path):
    api = pytest.importorskip("playwright.sync_api")
    address, _, process = served
    expected = segmenter.session(SCENE)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SAFE + ALONE)
        tab = browser.new_page(viewport={"width": 900, "height": 700})
        problems = []
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        tab.goto(address)
        tab.locator("#picture[data-clicks='0']").wait_for()
        canvas = tab.locator("#picture")
        assert tab.evaluate("[canvas.width, canvas.height]") == [60, 40]
        assert tab.locator("#undo").is_disabled()

        def pixels():
            return np.array(tab.evaluate("Array.from(context.getImageData(0, 0, 60, 40).data)")).reshape(40, 60, 4)

        bare = pixels()
        assert np.array_equal(bare[..., :3], SCENE.movedim(0, 2).numpy())
        box = canvas.bounding_box()
        for click in (Click(20, 30), Click(5, 50, False)):
            position = {"x": 1 + click.column + 0.5, "y": 1 + click.row + 0.5}  # the border is a pixel wide
            assert (round(box["width"]), round(box["height"])) == (62, 42)
            canvas.click(button="left" if click.positive else "right", position=position)
            tab.locator(f"#picture[data-clicks='{len(expected.clicks) + 1}']").wait_for()
            found = Click(**tab.evaluate("clicks")[-1])
            assert max(abs(found.row - click.row), abs(found.column - click.column)) <= 1  # the canvas lies anywhere
            assert found.positive == click.positive
            expected.click(found)
            assert re.fullmatch(
                r"\d+ ms from click to mask \(network: \d+ ms\)", tab.locator("#latency").text_content()
            )
        assert tab.evaluate("clicks") == [click._asdict() for click in expected.clicks]
        marks = np.zeros((40, 60), bool)  # the clicks themselves are drawn over the mask
        for click in expected.clicks:
            marks[max(0, click.row - 6) : click.row + 7, max(0, click.column - 6) : click.column + 7] = True
        changed = (pixels() != bare).any(2)
        assert np.array_equal(changed[~marks], expected.mask[~marks])
        with tab.expect_download() as download:
            tab.locator("#save").click()
        download.value.save_as(tmp_path / "saved.png")
        assert download.value.suggested_filename == "mask.png"
        assert np.array_equal(np.array(Image.open(tmp_path / "saved.png")), expected.mask * np.uint8(255))
        expected.undo()
        tab.locator("#undo").click()
        tab.locator("#picture[data-clicks='1']").wait_for()
        tab.keyboard.press("Control+z")
        tab.locator("#picture[data-clicks='0']").wait_for()
        assert np.array_equal(pixels(), bare)
        # A click that was made on an image that is not there any more, because another has come while it waited.
        tab.evaluate(
            "() => { const was = session; queue(async () => { session = null; });"
            " clicked({ preventDefault() {}, clientX: 200, clientY: 200 }, true);"
            " return queue(async () => { session = was; }); }"
        )
        assert tab.evaluate("[clicks.length, document.getElementById('message').className]") == [0, ""]
        (tmp_path / "bad.png").write_bytes(b"no image")
        tab.locator("#file").set_input_files(tmp_path / "bad.png")
        tab.locator("#message.error").wait_for()
        assert "is damaged" in tab.locator("#message").text_content()
        process.terminate()
        process.wait(60)
        tab.locator("#scene").click()
        tab.get_by_text("is treadle segment click still running").wait_for()
        browser.close()
    # What the server refuses, the browser notes by itself.
    assert [problem for problem in problems if "400" not in problem and "REFUSED" not in problem] == []


class Unfinished:
    """A request whose body never ends, or whose sender goes away."""

    def __init__(self, gone=False):
        self.headers, self.gone = {}, gone

    async def stream(self):
        yield b"begin"
        if self.gone:
            raise ClientDisconnect
        await asyncio.Event().wait()


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(page, "SLOWEST", 0.01)
    with pytest.raises(TimeoutError):
        asyncio.run(page.body(Unfinished(), 100))


def exchange(answers, messages):
    """What an application answers to messages of a connection; the last one is repeated."""
    said = []

    async def receive():
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message):
        said.append(message)

    headers = [(b"host", b"127.0.0.1:8000"), (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": "/image", "headers": headers, "query_string": b""}
    asyncio.run(answers(scope, receive, send))
    return said


def test_an_upload_that_is_given_up_is_no_error(segmenter):
    messages = [{"type": "http.request", "body": b"begin", "more_body": True}, {"type": "http.disconnect"}]
    said = exchange(page.application(segmenter), messages)
    assert [message["type"] for message in said] == ["http.response.start", "http.response.body"]


def test_a_connection_on_which_nobody_asks_is_ended(segmenter, monkeypatch):
    monkeypatch.setattr(page, "SLOWEST", 0.05)
    uvicorn = pytest.importorskip("uvicorn")

    async def talked():
        config = uvicorn.Config(page.application(segmenter), http=page.hurried(), log_level="warning")
        config.load()
        state = uvicorn.server.ServerState()
        listening = await asyncio.get_running_loop().create_server(
            lambda: config.http_protocol_class(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /image HTTP/1.1\r\nHost: 127")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n123")
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 408")
        writer.close()
        listening.close()

    asyncio.run(talked())


def test_one_image_is_read_at_a_time(segmenter):
    sessions, inside, most = page.Sessions(segmenter), [], []

    def read():
        inside.append(1)
        most.append(len(inside))
        inside.pop()
        return SCENE

    threads = [threading.Thread(target=sessions.begin, args=(read,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


@pytest.mark.slow
def test_ctrl_c_ends_it_although_a_connection_is_slow(served):
    _, port, process = served
    with socket.create_connection(("127.0.0.1", port), 10) as slow:
        slow.sendall(b"POST /image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\nbegin")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_open_images_take_no_more_memory_than_they_may(client, monkeypatch):
    names = [opened(client)["session"] for _ in range(3)]
    values = {"row": 1, "column": 2, "positive": True}
    monkeypatch.setattr(page, "MOST_KEPT", 1)
    assert client.post("/click", json={"session": names[2], **values}).json()["error"].endswith("undo some of them")
    monkeypatch.setattr(page, "MOST_KEPT", 200_000)
    for _ in range(20):
        assert client.post("/click", json={"session": names[2], **values}).status_code in (200, 400)
    answers = [client.post("/undo", json={"session": name}).status_code for name in names]
    assert answers == [400, 400, 200]
