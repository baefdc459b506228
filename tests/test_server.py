"""What stands around the page: limits, headers, other sites, plain routes, and a folder of uploads that stays small."""

import asyncio
import base64
import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from starlette.testclient import TestClient

from resnet_hub import Predictor
from resnet_hub.demo import build_demo, server
from resnet_hub.demo.janitor import Janitor
from resnet_hub.demo.models import ModelLibrary
from resnet_hub.demo.samples import SampleLibrary


@pytest.fixture(scope="module")
def url(running_app) -> str:
    return running_app.url


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "tan").save(stream, "PNG")
    return stream.getvalue()


# -- headers and closed doors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "compare", "config", "healthz", "no/such/page", "gradio_api/info"])
def test_every_response_tells_browsers_what_the_page_may_do(url, path):
    headers = httpx.get(url + path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'self' https://huggingface.co" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path", ["pwa_icon", "pwa_icon/8000", "monitoring", "gradio_api/monitoring", "docs", "openapi.json"]
)
def test_what_nobody_needs_is_closed(url, path):
    assert httpx.get(url + path).status_code in (404, 405)


def test_other_sites_may_not_use_the_page_unless_they_are_named(url, start_app, tiny_checkpoint):
    evil, friend = "https://evil.example", "https://friend.example"
    for host in ("127.0.0.1", "hands.example"):
        answer = httpx.get(f"{url}config", headers={"Origin": evil, "Host": host})
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-credentials" not in answer.headers
    asked = {"Origin": evil, "Access-Control-Request-Method": "POST"}
    assert httpx.options(f"{url}predict", headers=asked).status_code == 400
    app = start_app("--models", str(tiny_checkpoint), "--allow-origin", friend)
    for origin, expected in [(evil, None), (friend, friend)]:
        answer = httpx.get(f"{app.url}healthz", headers={"Origin": origin, "Host": "hands.example"})
        assert answer.headers.get("access-control-allow-origin") == expected


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["gradio_api/call/classify", "gradio_api/queue/join", "predict"])
@pytest.mark.parametrize("declares_length", [True, False])
def test_a_body_that_is_too_large_is_refused_and_not_kept(url, path, declares_length):
    size = server.MAX_BODY_BYTES + 1
    chunks = (bytes(2**20) for _ in range(size // 2**20 + 1))
    content = bytes(size) if declares_length else chunks
    try:
        answer = httpx.post(url + path, content=content, headers={"Content-Type": "application/json"})
    except httpx.WriteError:
        return  # it hung up on us, which is as good
    assert answer.status_code == 413
    assert "make it smaller" in answer.json()["error"]


def test_a_picture_within_the_limit_passes_inline(url):
    picture = png((900, 900))
    inline = "data:image/png;base64," + base64.b64encode(picture).decode()
    event = httpx.post(f"{url}gradio_api/call/classify", json={"data": [{"url": inline}, "hands"]}).json()["event_id"]
    assert "event: complete" in httpx.get(f"{url}gradio_api/call/classify/{event}").text


# -- plain routes ------------------------------------------------------------------------------------------------------


def test_healthz_says_what_is_served(url):
    assert httpx.get(f"{url}healthz").json() == {"status": "ok", "models": ["hands", "animals"]}


def test_responses_do_not_wait_for_acknowledgements(url):
    """Those of a connection that stays open, as browsers keep theirs; on Linux each waited 40 ms."""
    with httpx.Client() as client:
        seconds = [client.get(f"{url}healthz").elapsed.total_seconds() for _ in range(20)]
    assert sorted(seconds)[5] < 0.03


def test_predict_takes_an_image_as_body_or_in_a_form(url, hands_and_animals):
    expected = Predictor(hands_and_animals[0])(Image.new("RGB", (40, 30), "tan"), top_k=2)
    as_body = httpx.post(f"{url}predict?top_k=2", content=png()).json()
    in_form = httpx.post(f"{url}predict?top_k=2", files={"file": ("hand.png", png(), "image/png")}).json()
    for answer in (as_body, in_form):
        assert [p["label"] for p in answer["predictions"]] == [p["label"] for p in expected]
        assert answer["predictions"][0]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)
        assert answer["is_unfamiliar"] is False
        assert answer["milliseconds"] > 0
    animals = httpx.post(f"{url}predict?model=animals", content=png()).json()
    assert {p["label"] for p in animals["predictions"]} == {"cat", "<b>dog</b>", "emu"}


@pytest.mark.parametrize(
    ("query", "options", "status", "reason"),
    [
        ("", {"content": b""}, 400, "empty"),
        ("", {"content": b"these are words"}, 400, "no image"),
        ("?top_k=0", {"content": png()}, 400, "top_k must be"),
        ("?top_k=1e9", {"content": png()}, 400, "top_k must be"),
        ("?model=../secret", {"content": png()}, 404, "there is no model"),
        ("", {"files": {"other": ("x.png", png())}}, 400, "the form has no file"),
        ("", {"data": {"file": "text"}, "files": {"x": ("x", b"")}}, 400, "the form has no file"),
    ],
)
def test_what_predict_cannot_answer_gets_a_reason(url, query, options, status, reason):
    answer = httpx.post(f"{url}predict{query}", **options)
    assert answer.status_code == status
    assert reason in answer.json()["error"]
    assert "/" not in answer.json()["error"].replace("../secret", "")


def test_many_at_once_are_all_answered(url):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(httpx.post(f"{url}predict", content=png(), timeout=60)))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 20


def test_calls_leave_nothing_behind(hands_and_animals):
    library = ModelLibrary(hands_and_animals)
    demo = build_demo(library, SampleLibrary([])).queue(api_open=False)
    app = server.build_server(demo, library, host="127.0.0.1", port=7860)
    inline = "data:image/png;base64," + base64.b64encode(png()).decode()
    with TestClient(app) as client:
        for _ in range(3):
            call = client.post("/gradio_api/call/classify", json={"data": [{"url": inline}, "hands"]})
            answer = client.get(f"/gradio_api/call/classify/{call.json()['event_id']}")
            assert "event: complete" in answer.text
    assert demo.state_holder.capacity == server.MAX_SESSIONS
    assert demo.state_holder.session_data == {}
    assert demo.state_holder.time_last_used == {}


def test_a_password_closes_the_plain_route(start_app, tiny_checkpoint):
    app = start_app("--models", str(tiny_checkpoint), environment={"RESNET_HUB_AUTH": "me:secret"})
    assert httpx.post(f"{app.url}predict", content=png()).status_code in (404, 405)
    assert httpx.get(f"{app.url}healthz").status_code == 200


# -- strange input -----------------------------------------------------------------------------------------------------


def malformed(number: int) -> bytes:
    """Broken in one of many ways: cut off, bytes changed, other formats, noise."""
    rng = np.random.default_rng(number)
    stream = io.BytesIO()
    pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"][number % 6])
    content = bytearray(stream.getvalue())
    kind = number // 6 % 4
    if kind == 0:
        content = content[: rng.integers(1, len(content))]
    elif kind == 1:
        for place in rng.integers(0, len(content), 8):
            content[place] = rng.integers(256)
    elif kind == 2:
        content = bytearray(rng.bytes(200))
    else:
        content[8:40] = rng.bytes(32)
    return bytes(content)


def by_plain_route(client: httpx.Client, url: str, content: bytes) -> str:
    answer = client.post(f"{url}predict", content=content)
    assert answer.status_code in (200, 400), answer.text
    return answer.text


def by_queue(client: httpx.Client, url: str, content: bytes) -> str:
    inline = "data:image/png;base64," + base64.b64encode(content).decode()
    call = client.post(f"{url}gradio_api/call/classify", json={"data": [{"url": inline}, "hands"]})
    assert call.status_code == 200, call.text
    events = client.get(f"{url}gradio_api/call/classify/{call.json()['event_id']}").text
    assert "event: complete" in events or '"error": "' in events, events  # a reason, in the page's own words
    return events.replace("see https://", "")


@pytest.mark.parametrize("send", [by_plain_route, by_queue])
def test_two_hundred_malformed_pictures_end_in_no_crash_and_tell_no_path(url, running_app, send):
    with httpx.Client(timeout=60) as client:
        for number in range(200):
            told = send(client, url, malformed(number))
            assert "/" not in told
            assert "Traceback" not in told
        assert running_app.process.poll() is None
        assert '"label"' in send(client, url, png())


FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("queue/join", b"\xff\x00{"),
        ("queue/join", {}),
        ("queue/join", {"data": None, "session_hash": "a"}),
        ("queue/join", {"data": [], "session_hash": "a"}),
        ("queue/join", {"fn_index": 99_999, "data": [], "session_hash": "a"}),
        ("queue/join", {"fn_index": -1, "data": [], "session_hash": "a"}),
        ("queue/join", {"fn_index": 0, "data": "x", "session_hash": "a"}),
        ("call/nothing", {"data": []}),
        ("call/classify", {"data": []}),
        ("call/classify", {"data": [1, 2, 3, 4]}),
        ("call/classify", {"data": [[], {}]}),
        ("call/classify", {"data": [FILE, "hands"]}),
        ("call/classify", {"data": [{"path": "../../etc/passwd"}, "hands"]}),
        ("call/classify", {"data": [{"url": "file:///etc/passwd"}, "hands"]}),
        ("call/classify_batch", {"data": ["words", None]}),
        ("call/classify_batch", {"data": [[FILE], None]}),
        ("call/explain", {"data": [None, "0", "layer9", None]}),
        ("run/classify", {"data": [None, None]}),  # past the queue
        ("api/classify", {"data": [None, None]}),
        ("upload", {}),
        ("cancel", {}),
        ("component_server", {}),
    ],
)
def test_requests_that_make_no_sense_are_refused_and_tell_nothing(url, path, body):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(f"{url}gradio_api/{path}", content=content, headers={"Content-Type": "application/json"})
    told = answer.text
    if answer.status_code == 200:
        told = httpx.get(f"{url}gradio_api/{path}/{answer.json()['event_id']}").text
        assert told.startswith("event: error")
    else:
        assert 400 <= answer.status_code < 500
    for word in ("root:", "site-packages", "Traceback", "resnet_hub"):
        assert word not in told


def test_more_visitors_than_may_wait_are_told_that_the_page_is_busy(start_app, tiny_checkpoint):
    """Gradio's page says of this status that the application is busy, and to try again."""
    app = start_app("--models", str(tiny_checkpoint), "--queue-size", "2")
    body = {"data": [{"url": "data:image/png;base64," + base64.b64encode(png((3000, 3000))).decode()}, None]}

    def join(_number: int) -> int:
        return httpx.post(f"{app.url}gradio_api/call/classify", json=body, timeout=60).status_code

    with ThreadPoolExecutor(24) as pool:
        statuses = list(pool.map(join, range(48)))
    assert set(statuses) == {200, 503}


# -- where else it runs ------------------------------------------------------------------------------------------------


def test_the_endpoints_are_tools_of_the_model_context_protocol_where_asked_for(start_app, tiny_checkpoint, url):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    app = start_app("--models", str(tiny_checkpoint), "--mcp")

    async def ask() -> tuple[list[str], str]:
        async with (
            streamable_http_client(f"{app.url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = [tool.name for tool in (await session.list_tools()).tools]
            models = next(tool for tool in tools if tool.endswith("models"))
            return tools, (await session.call_tool(models, {})).content[0].text

    tools, models = asyncio.run(ask())
    assert {tool.rpartition("_")[2] for tool in tools} == {"classify", "batch", "explain", "models"}
    assert "resnet50" in models
    assert httpx.post(f"{url}gradio_api/mcp/", json={}).status_code in (404, 405)  # elsewhere closed


def test_a_space_on_zero_gpu_reports_its_start_and_answers_from_the_cpu(start_app, tiny_checkpoint):
    reports = []

    class ZeroGpu(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            reports.append(self.path)
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), ZeroGpu) as device_api:
        threading.Thread(target=device_api.serve_forever, daemon=True).start()
        app = start_app(
            *("--models", str(tiny_checkpoint)),
            environment={
                "SPACES_ZERO_GPU": "true",
                "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{device_api.server_port}",
            },
        )
        assert httpx.post(f"{app.url}predict", content=png()).status_code == 200
        device_api.shutdown()
    assert reports == ["/startup-report"]


def test_visitors_cannot_guess_each_others_files(url, tmp_path):
    """Uploads lie under the hash of their content or a random name: to name a file one must have it."""
    (tmp_path / "mine.png").write_bytes(png((33, 44)))
    uploaded = httpx.post(f"{url}gradio_api/upload", files={"files": ("mine.png", png((33, 44)))}).json()[0]
    secret = uploaded.split("/")[-2]
    assert len(secret) == 64
    assert httpx.get(f"{url}gradio_api/file={uploaded}").status_code == 200
    for guess in (uploaded.replace(secret, "0" * 64), uploaded.rsplit("/", 2)[0], uploaded.replace(secret, "..")):
        assert httpx.get(f"{url}gradio_api/file={guess}").status_code in (403, 404)
    Client(url, verbose=False).predict(handle_file(tmp_path / "mine.png"), api_name="/classify")


# -- the folder of uploads ---------------------------------------------------------------------------------------------


def write(file, size: int = 10, age: float = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(size))
    when = time.time() - age
    os.utime(file, (when, when))
    os.utime(file.parent, (when, when))


def test_old_uploads_go_with_their_folders_and_samples_stay(tmp_path):
    write(tmp_path / "a" / "old.png", age=100)
    write(tmp_path / "b" / "new.png")
    write(tmp_path / "c" / "empty", size=0, age=100)
    write(tmp_path / "samples-x" / "1.png", age=1000)
    (tmp_path / "d").mkdir()  # of an upload that begins just now
    janitor = Janitor(tmp_path, max_age=50)
    janitor.sweep(time.time())
    for folder in ("a", "c"):
        os.utime(tmp_path / folder, (0, 0)) if (tmp_path / folder).exists() else None
    janitor.sweep(time.time())
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")) == [
        "b",
        "b/new.png",
        "d",
        "samples-x",
        "samples-x/1.png",
    ]


def test_the_oldest_go_where_it_gets_too_much(tmp_path):
    for i in range(10):
        write(tmp_path / str(i) / "x.png", size=100, age=10 - i)
    Janitor(tmp_path, max_bytes=350).sweep(time.time())
    assert sorted(file.parent.name for file in tmp_path.rglob("x.png")) == ["7", "8", "9"]


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path):
    write(tmp_path / "outside" / "keep.png", age=100)
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "link").symlink_to(tmp_path / "outside")
    Janitor(tmp_path / "uploads", max_age=-1e9).sweep(time.time())
    assert not (tmp_path / "uploads" / "link").is_symlink()
    assert (tmp_path / "outside" / "keep.png").exists()


def test_a_day_of_ten_uploads_a_minute_stays_small(tmp_path):
    """Swept as it would be, each upload of 1 MB, with the clock run fast."""
    janitor = Janitor(tmp_path)
    now = time.time()
    largest = 0
    for minute in range(60):
        for number in range(10):
            file = tmp_path / f"{minute}-{number}" / "x.png"
            file.parent.mkdir()
            with file.open("wb") as stream:
                stream.truncate(2**20)
            os.utime(file, (now + 60 * minute, now + 60 * minute))
        janitor.sweep(now + 60 * minute)
        largest = max(largest, sum(file.stat().st_size for file in tmp_path.rglob("x.png")))
    assert 50 * 2**20 < largest < 200 * 2**20
