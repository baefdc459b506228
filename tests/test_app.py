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

import app
from resnet_hub.explain import grad_cam, overlay
from resnet_hub.images import open_image
from resnet_hub.predictor import Predictor

APP = Path(__file__).parents[1] / "app.py"


@pytest.fixture(scope="module")
def client(running_app) -> Client:
    return Client(running_app.url, verbose=False)


@pytest.fixture(scope="module")
def predictor(hands_and_animals) -> Predictor:
    return Predictor(hands_and_animals[0])


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
    """On an idle machine; beside other tests it may wait for a core, but for nothing else, such as a network."""
    assert running_app.cpu_seconds_to_start < 10
    assert running_app.seconds_to_start < 40


def test_endpoint_gives_every_class_with_its_probability(client, photo, tmp_path, predictor):
    photo.save(tmp_path / "photo.png")
    answer = client.predict(handle_file(tmp_path / "photo.png"), api_name="/classify")
    expected = predictor(photo, top_k=6)
    assert answer["label"] == expected[0]["label"]
    assert [row["label"] for row in answer["confidences"]] == [row["label"] for row in expected]
    assert sum(row["confidence"] for row in answer["confidences"]) == pytest.approx(1, abs=1e-5)


def test_every_endpoint_on_offer_is_documented(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/classify", "/classify_batch", "/explain", "/models"]
    assert all(endpoint["description"] for endpoint in endpoints.values())
    assert not client.view_api(return_format="dict")["unnamed_endpoints"]


def test_the_model_is_chosen_by_name_and_only_among_those_on_offer(client, photo, tmp_path, hands_and_animals):
    photo.save(tmp_path / "photo.png")
    picture = handle_file(tmp_path / "photo.png")
    answer = client.predict(picture, "animals", api_name="/classify")
    expected = Predictor(hands_and_animals[1])(photo, top_k=3)
    assert [row["label"] for row in answer["confidences"]] == [row["label"] for row in expected]
    for name in ("user/model", str(hands_and_animals[1]), "../animals"):
        with pytest.raises(AppError, match=r"There is no model .* here: choose one of hands, animals") as error:
            client.predict(picture, name, api_name="/classify")
        assert "Traceback" not in str(error.value)


def test_models_are_described(client):
    hands, animals = client.predict(api_name="/models")
    assert hands == {
        "name": "hands",
        "architecture": "resnet50",
        "label_names": list("012345"),
        "image_size": 64,
        "is_calibrated": True,
    }
    assert (animals["name"], animals["image_size"]) == ("animals", 96)


def test_a_batch_has_an_answer_or_an_error_for_each_file_in_order(client, photo, tmp_path, predictor):
    (tmp_path / "text.png").write_text("these are words, not pixels")
    photo.save(tmp_path / "photo.png")
    photo.rotate(90, expand=True).save(tmp_path / "turned.png")
    files = [handle_file(tmp_path / name) for name in ("photo.png", "text.png", "turned.png")]
    first, second, third = client.predict(files, api_name="/classify_batch")
    assert [p["label"] for p in first["predictions"]] == [p["label"] for p in predictor(photo)]
    assert first["is_unfamiliar"] is False
    assert "no image" in second["error"]
    assert "/" not in second["error"]
    assert third["predictions"][0]["score"] == pytest.approx(predictor(photo.rotate(90, expand=True))[0]["score"])
    with pytest.raises(AppError, match="Send 1 to 64 files"):
        client.predict([], api_name="/classify_batch")


def test_explain_gives_the_picture_under_the_heatmap(client, photo, tmp_path, predictor):
    photo.save(tmp_path / "photo.png")
    picture = handle_file(tmp_path / "photo.png")
    drawn = open_image(client.predict(picture, "3", "layer3", api_name="/explain"))
    pixels = predictor.model.preprocessing([photo])
    expected = overlay(photo, grad_cam(predictor.model, pixels, 3, "layer3"))
    assert drawn.size == photo.size
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(expected)).mean() < 1
    for label, stage, reason in [("9", "layer3", "The classes are 0, 1"), ("3", "fc", "There is no stage")]:
        with pytest.raises(AppError, match=reason):
            client.predict(picture, label, stage, api_name="/explain")


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
    event = httpx.post(call, json={"data": [upload, "hands"]}).json()["event_id"]
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


def test_unknown_model_is_an_error_with_a_next_step():
    done = run_app("--models", "no/such/folder")
    assert done.returncode == 2
    assert "no/such/folder" in done.stderr
    assert "check the path" in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_is_an_error_with_a_next_step(tiny_checkpoint):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_app("--models", str(tiny_checkpoint), "--port", str(port))
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_options_that_cannot_work_are_refused_by_name(tiny_checkpoint):
    for arguments, reason in [
        (("--auth", "nobody"), "--auth must be USER:PASSWORD"),
        (("--feedback-repo", "me/corrections"), "--feedback-repo needs --feedback FOLDER"),
    ]:
        done = run_app("--models", str(tiny_checkpoint), *arguments)
        assert done.returncode == 2
        assert reason in done.stderr


def test_a_password_keeps_others_out(start_app, tiny_checkpoint):
    served = start_app("--models", str(tiny_checkpoint), environment={"RESNET_HUB_AUTH": "me:secret: with colon"})
    assert httpx.get(f"{served.url}gradio_api/info").status_code == 401
    client = Client(served.url, auth=("me", "secret: with colon"), verbose=False)
    assert [model["name"] for model in client.predict(api_name="/models")] == ["checkpoint"]


def test_the_models_that_ship_are_served_hands_first(monkeypatch, tmp_path):
    for name in ("cifar10-resnet50", "signs-resnet50", "notes"):
        (tmp_path / name).mkdir()
    for name in ("cifar10-resnet50", "signs-resnet50"):
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.setattr(app, "MODELS", tmp_path)
    assert app.shipped_models() == [str(tmp_path / "signs-resnet50"), str(tmp_path / "cifar10-resnet50")]
    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setenv("RESNET_HUB_MODELS", "runs/mine me/model")
    assert app.parse_arguments().models == ["runs/mine", "me/model"]


def test_stops_when_told_and_leaves_no_uploads(start_app, tiny_checkpoint, tmp_path):
    served = start_app("--models", str(tiny_checkpoint), environment={"TMPDIR": str(tmp_path)})
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    Client(served.url, verbose=False).predict(handle_file(tmp_path / "black.png"), api_name="/classify")
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(10) == 0
    assert not list(tmp_path.glob("resnet-hub-*"))


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="only Linux lists its open ports in /proc")
def test_space_listens_on_every_address(start_app, tiny_checkpoint):
    served = start_app("--models", str(tiny_checkpoint), environment={"SPACE_ID": "user/space"})
    with open(f"/proc/{served.process.pid}/net/tcp") as table:
        addresses = [line.split()[1] for line in table]
    assert f"00000000:{served.port:04X}" in addresses


def run_app(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, APP, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"HF_HUB_OFFLINE": "1"})
