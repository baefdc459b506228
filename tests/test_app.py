"""The page as other programs see it: the command line, the endpoint, and what comes of pictures that are none."""

import base64
import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from resnet_hub.images import open_image
from resnet_hub.predictor import Predictor

APP = Path(__file__).parents[1] / "app.py"


@pytest.fixture(scope="module")
def client(running_app) -> Client:
    return Client(running_app.url, verbose=False)


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint) -> Predictor:
    return Predictor(tiny_checkpoint)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Noise over a gradient: no two pictures that were turned, clipped or recoloured give the same answer."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 64, (48, 80, 3)) + np.linspace(0, 190, 80)[None, :, None]
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def odd_pictures(photo: Image.Image) -> dict[str, bytes]:
    gray = np.asarray(photo.convert("L"))
    faded = photo.copy()
    faded.putalpha(Image.fromarray(255 - gray))
    turned = Image.Exif()
    turned[0x0112] = 6  # "the camera was held upright": turn by 90 degrees before showing
    return {
        "gray-16-bit.png": encode(Image.fromarray(gray.astype(np.uint16) * 257), "PNG"),
        "print.jpg": encode(photo.convert("CMYK"), "JPEG"),
        "transparent.png": encode(faded, "PNG"),
        "turned.jpg": encode(photo, "JPEG", exif=turned),
        "moving.gif": encode(photo, "GIF", save_all=True, append_images=[Image.new("RGB", photo.size)] * 2),
        "misnamed.gif": encode(faded, "PNG"),
    }


def broken_pictures(photo: Image.Image) -> dict[str, tuple[bytes, str]]:
    return {
        "half.jpg": (encode(photo, "JPEG")[:1200], "damaged"),
        "empty.png": (b"", "empty"),
        "text.png": (b"these are words, not pixels", "PNG"),
        "bomb.png": (encode(Image.new("L", (13_000, 13_000)), "PNG"), "too large"),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "PNG"),
    }


def test_ready_within_ten_seconds(running_app):
    assert running_app.seconds_to_start < 10


def test_endpoint_gives_every_class_with_its_probability(client, photo, tmp_path, predictor):
    photo.save(tmp_path / "photo.png")
    answer = client.predict(handle_file(tmp_path / "photo.png"), api_name="/classify")
    expected = predictor(photo, top_k=6)
    assert answer["label"] == expected[0]["label"]
    assert [row["label"] for row in answer["confidences"]] == [row["label"] for row in expected]
    assert sum(row["confidence"] for row in answer["confidences"]) == pytest.approx(1, abs=1e-5)


def test_classify_is_the_only_endpoint_on_offer(client):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/classify"]
    assert not client.view_api(return_format="dict")["unnamed_endpoints"]


def test_odd_pictures_are_seen_as_the_library_sees_them(client, photo, tmp_path, predictor):
    for name, content in odd_pictures(photo).items():
        (tmp_path / name).write_bytes(content)
        answer = client.predict(handle_file(tmp_path / name), api_name="/classify")
        found = {row["label"]: row["confidence"] for row in answer["confidences"]}
        expected = {row["label"]: row["score"] for row in predictor(open_image(content), top_k=6)}
        assert found == pytest.approx(expected, abs=1e-5), name


def test_pictures_that_cannot_be_read_get_a_reason_without_a_path(client, photo, tmp_path):
    for name, (content, reason) in broken_pictures(photo).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AppError, match=reason) as error:
            client.predict(handle_file(tmp_path / name), api_name="/classify")
        assert "/" not in str(error.value), name
    with pytest.raises(AppError, match="no picture"):
        client.predict(None, api_name="/classify")


def call_without_client(url: str, upload: dict) -> str:
    """The endpoint's answer, as text, to a description of an upload that no honest client would send."""
    call = f"{url}gradio_api/call/classify"
    event = httpx.post(call, json={"data": [upload]}).json()["event_id"]
    return httpx.get(f"{call}/{event}").text


def test_inline_picture_is_answered(running_app, photo):
    url = "data:image/png;base64," + base64.b64encode(encode(photo, "PNG")).decode()
    assert "event: complete" in call_without_client(running_app.url, {"url": url})
    assert "not valid base64" in call_without_client(running_app.url, {"url": url + "@"})


@pytest.mark.parametrize("mark", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_files_outside_the_uploads_are_out_of_reach(running_app, photo, tmp_path, mark):
    photo.save(tmp_path / "private.png")
    answer = call_without_client(running_app.url, {"path": str(tmp_path / "private.png")} | mark)
    assert "event: error" in answer
    assert "private" not in answer


def test_photos_of_the_test_split_come_first_where_there_are_any(monkeypatch, tmp_path, photo):
    from resnet_hub import data
    from resnet_hub.demo.samples import sample_sets

    rows = [{"image": photo, "label": label} for label in range(6)]
    monkeypatch.setattr(data, "load_image_dataset", lambda name: {"signs": {"test": rows}}[name])
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("RESNET_HUB_DATA", str(tmp_path))
    photos, drawn = sample_sets(list("012345")).items()
    assert photos[0].startswith("Photos")
    assert [len(files) for files in photos[1].values()] == [1] * 6
    assert drawn[0].startswith("Drawn")
    assert sample_sets(["cat", "dog"]) == {}

    monkeypatch.setattr(data, "load_image_dataset", lambda name: data._resolve(name))
    monkeypatch.delenv("RESNET_HUB_SIGNS", raising=False)
    assert list(sample_sets(list("012345"))) == [drawn[0]]


def test_unknown_model_is_an_error_with_a_next_step():
    done = run_app("--model", "no/such/folder")
    assert done.returncode == 2
    assert "no/such/folder" in done.stderr
    assert "check the path" in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_is_an_error_with_a_next_step(tiny_checkpoint):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_app("--model", str(tiny_checkpoint), "--port", str(port))
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_stops_when_told_and_leaves_no_uploads(start_app, tiny_checkpoint, tmp_path):
    app = start_app("--model", str(tiny_checkpoint), environment={"TMPDIR": str(tmp_path)})
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    Client(app.url, verbose=False).predict(handle_file(tmp_path / "black.png"), api_name="/classify")
    app.process.send_signal(signal.SIGTERM)
    assert app.process.wait(10) == 0
    assert not list(tmp_path.glob("resnet-hub-*"))


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="only Linux lists its open ports in /proc")
def test_space_listens_on_every_address(start_app, tiny_checkpoint):
    app = start_app("--model", str(tiny_checkpoint), environment={"SPACE_ID": "user/space"})
    with open(f"/proc/{app.process.pid}/net/tcp") as table:
        addresses = [line.split()[1] for line in table]
    assert f"00000000:{app.port:04X}" in addresses


def run_app(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, APP, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"HF_HUB_OFFLINE": "1"})
