"""Training that pushes to a Hub: asked for first, beside the training, never at the run's expense.

The runs are processes of their own, with the real clients in them: only the Hub is a stand-in.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import Computer, Fault, LoopbackHub
from training_runs import SCRIPT, options_of, record_of

from resnet_hub import PushError
from resnet_hub.errors import ConfigurationError
from train import pushing
from train.config import TrainingConfig, parse_config, recipe_of
from train.pushing import Pusher


def train(hub: LoopbackHub, colors: Path, folder: Path, token: str | None = "hf_me", **options) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a run that pushes to ``me/colors``."""
    arguments = {"dataset_name": colors, "output_dir": folder, "hub_model_id": "me/colors"} | options
    result = subprocess.run(
        [sys.executable, SCRIPT, *options_of(**arguments), "--push_to_hub"],
        cwd=folder.parent,
        env=Computer(hub.url, token, folder.parent / "home").environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout, result.stderr


def test_at_the_end_the_folder_is_on_the_hub_as_it_is(hub, colors, tmp_path):
    code, out, err = train(hub, colors, tmp_path / "run", hub_private_repo=True, save_dtype="float16")
    assert code == 0, err
    repo = hub.repos["me/colors"]
    assert repo.private
    assert [commit.title for commit in repo.commits[1:]] == ["the finished model"]
    files = repo.branches["main"].files
    for name in ("model.safetensors", "config.json", "training.json", "curves.png", "confusion_matrix.png"):
        assert files[name].content == (tmp_path / "run" / name).read_bytes()
    assert b'"me/colors"' in files["README.md"].content
    assert "hub_model_id" not in record_of(tmp_path / "run")["recipe"]
    assert "pushed the finished model: http" in out
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["home", "run"]  # no copy is left


def test_every_save_is_pushed_and_the_finished_model_last(hub, colors, tmp_path):
    code, _, err = train(hub, colors, tmp_path / "run", hub_strategy="every_save", num_train_epochs=4)
    assert code == 0, err
    repo = hub.repos["me/colors"]
    titles = [commit.title for commit in repo.commits[1:]]
    assert titles[-1] == "the finished model"
    assert titles[:-1] == sorted(titles[:-1]) != []
    assert set(titles[:-1]) <= {f"epoch {i}" for i in range(1, 5)}
    first = json.loads(repo.commits[1].files["training.json"].content)
    assert [result["split"] for result in first["results"]] == ["validation"]
    assert repo.commits[1].title == f"epoch {first['best_epoch']}"


@pytest.mark.parametrize(
    ("token", "options", "message"),
    [
        (None, {}, "nobody is logged in here"),
        ("hf_other", {}, "me/colors may not be written to with this access token"),
        ("hf_expired", {}, "the Hub refuses the access token for me/colors"),
        ("hf_me", {"hub_model_id": "not/an/id"}, "'not/an/id' is no Hub id"),
    ],
)
def test_who_may_not_push_learns_it_before_any_work(hub, tmp_path, token, options, message):
    code, out, err = train(hub, Path("/no/such/dataset"), tmp_path / "run", token, **options)
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_a_push_that_fails_costs_the_exit_code_and_nothing_else(hub, colors, tmp_path):
    hub.faults = [Fault("POST /api/models/me/colors/commit/.*", status=500)]
    code, out, err = train(hub, colors, tmp_path / "run", hub_strategy="every_save")
    assert code == pushing.EXIT_CODE == 3
    assert "epoch 1 was not pushed: me/colors could not be pushed to, the Hub answers with error 500" in out
    assert f"{tmp_path / 'run'} is saved, but not pushed: push it with: resnet-hub push" in err
    assert any(result["split"] == "test" for result in record_of(tmp_path / "run")["results"])
    hub.faults.clear()
    code, out, err = train(hub, colors, tmp_path / "run", resume_from_checkpoint="auto")  # nothing to do but that
    assert code == 0, err
    assert "nothing to go on with" in out
    assert [commit.title for commit in hub.repos["me/colors"].commits[1:]] == ["the finished model"]


# -- in this process ---------------------------------------------------------------------------------------------------


@pytest.fixture
def uploads(monkeypatch) -> Iterator[list[tuple[str, bytes]]]:
    """What was uploaded: titles and weights. Each upload waits for ``gate``, an attribute of the fixture's list."""

    class Uploads(list):
        gate = threading.Event()

    uploads = Uploads()

    def upload(folder: Path, repo_id: str, commit_message: str) -> str:
        weights = (folder / "model.safetensors").read_bytes()
        assert uploads.gate.wait(10)
        if commit_message == "bad":
            raise PushError("no")
        uploads.append((commit_message, weights))
        return "url"

    uploads.gate = threading.Event()
    monkeypatch.setattr(pushing, "push_checkpoint", upload)
    yield uploads
    uploads.gate.set()


def write(folder: Path, content: bytes) -> None:
    """As a save does: a new file under the old name."""
    folder.mkdir(exist_ok=True)
    (folder / "new").write_bytes(content)
    os.replace(folder / "new", folder / "model.safetensors")


def test_training_never_waits_and_a_slow_line_skips_to_the_newest(uploads, tmp_path):
    pusher = Pusher("me/colors", print)
    start = time.monotonic()
    for i in range(5):
        write(tmp_path / "run", bytes([i]))
        pusher.push(tmp_path / "run", f"epoch {i}")
        if i == 0:
            time.sleep(0.2)  # until it is under way
    write(tmp_path / "run", b"later")
    assert time.monotonic() - start < 10  # not until the gate opens, which is below
    uploads.gate.set()
    assert pusher.finish()
    assert uploads == [("epoch 0", b"\0"), ("epoch 4", b"\4")]  # as they were when they were pushed
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_line_that_hangs_is_waited_for_so_long_and_no_longer(uploads, tmp_path):
    lines = []
    pusher = Pusher("me/colors", lines.append)
    write(tmp_path / "run", b"1")
    pusher.push(tmp_path / "run", "epoch 1")
    assert not pusher.finish(seconds=0.1)
    assert lines == ["the push to me/colors did not end within 0.1 s"]


def test_the_last_push_is_the_one_that_counts(uploads, tmp_path):
    pusher = Pusher("me/colors", print)
    uploads.gate.set()
    write(tmp_path / "run", b"1")
    for title, succeeds in [("bad", False), ("epoch 2", True), ("bad", False)]:
        pusher.push(tmp_path / "run", title)
        assert pusher.finish() == succeeds


def test_a_model_that_could_not_be_copied_is_not_taken_for_pushed(uploads, tmp_path):
    pusher = Pusher("me/colors", print)
    write(tmp_path / "run", b"1")
    pusher.push(tmp_path / "run", "epoch 1")
    pusher.push(tmp_path / "gone" / "run", "the finished model")
    uploads.gate.set()
    assert not pusher.finish()
    assert [title for title, _ in uploads] == ["epoch 1"]


def test_options_that_belong_together(tmp_path):
    for options in ({"push_to_hub": True}, {"hub_model_id": "me/x"}):
        with pytest.raises(ConfigurationError, match="--push_to_hub and --hub_model_id belong together"):
            TrainingConfig(**options)
    with pytest.raises(ConfigurationError, match="--hub_strategy must be one of end, every_save"):
        TrainingConfig(push_to_hub=True, hub_model_id="me/x", hub_strategy="always")
    config = parse_config(["--push_to_hub", "--hub_model_id", "me/x", "--hub_private_repo"])
    assert (config.push_to_hub, config.hub_model_id, config.hub_private_repo) == (True, "me/x", True)
    assert parse_config(["--torch_compile", "False", "--deterministic"]).deterministic
    assert not [name for name in recipe_of(config) if "hub" in name]
