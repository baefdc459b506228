"""When the Hub is away, slow, broken or lying: an answer in seconds that says what to do, and nothing half in use."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from loopback_hub import Computer, Fault, File, LoopbackHub

from resnet_hub import CheckpointError, PushError, ResNetForSigns
from resnet_hub.checkpoint import locate_checkpoint
from resnet_hub.upload import prepare_repo, push_checkpoint
from train.prepare_dataset import PreparationConfig, main

#: "Within 5 s", and some for a machine that does other things too.
SECONDS = 6.0

# -- what clients do ---------------------------------------------------------------------------------------------------


def push(repo_id: str, seed: int = 0, channels: tuple[int, ...] = (8, 8, 8, 8), **kwargs) -> list[float]:
    torch.manual_seed(seed)
    model = ResNetForSigns(layers=(1, 1, 1, 1), channels=channels)
    model.push_to_hub(repo_id, **kwargs)
    return model.fc.weight[0].tolist()


def load(repo_id: str, **kwargs) -> list[float]:
    return ResNetForSigns.from_pretrained(repo_id, **kwargs).fc.weight[0].tolist()


def seconds_to_fail(function, *args, **kwargs) -> tuple[float, str]:
    start = time.perf_counter()
    try:
        function(*args, **kwargs)
    except (CheckpointError, PushError) as error:
        return time.perf_counter() - start, str(error)
    raise AssertionError("it did not fail")


def prepare_and_push(source: str, repo_id: str) -> None:
    main(PreparationConfig(source, push_to_hub=repo_id))


def make_tag(repo_id: str, tag: str) -> None:
    HfApi().create_tag(repo_id, tag=tag)


def make_branch(repo_id: str, branch: str) -> None:
    HfApi().create_branch(repo_id, branch=branch)


@pytest.fixture(scope="module")
def me(hub_server, tmp_path_factory) -> Iterator[Computer]:
    computer = Computer(hub_server.url, "hf_me", tmp_path_factory.mktemp("me"))
    yield computer
    computer.stop()


# -- unreachable -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["refuses", "is silent", "is no Hub"])
def nowhere(request, tmp_path_factory) -> Iterator[tuple[str, Computer]]:
    """A computer whose Hub is not there, in each way in which it can be missing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if request.param == "refuses":
            listener.close()
        url = f"http://127.0.0.1:{port}"
        if request.param == "is no Hub":
            with LoopbackHub({}).running() as server:
                server.faults = [Fault(".*", status=200)]  # as a network does that wants a password first
                computer = Computer(server.url, "hf_me", tmp_path_factory.mktemp("nowhere"))
                yield request.param, computer
        else:
            computer = Computer(url, "hf_me", tmp_path_factory.mktemp("nowhere"))
            yield request.param, computer
        computer.stop()


REASONS = {
    "refuses": "the Hub cannot be reached",
    "is silent": "the Hub did not answer within 4 s",
    "is no Hub": "what answers is no Hub",
}


def test_a_hub_that_is_not_there_costs_seconds_and_says_what_to_do(nowhere):
    kind, computer = nowhere
    seconds, message = computer.run(seconds_to_fail, load, "me/hands")
    assert seconds < SECONDS
    assert f"'me/hands' is not in the cache, and {REASONS[kind]}" in message
    assert message.endswith("check the network and HF_ENDPOINT, or give a checkpoint folder")


def test_a_push_to_a_hub_that_is_not_there_costs_seconds_and_says_what_to_do(nowhere):
    _, computer = nowhere
    seconds, message = computer.run(seconds_to_fail, push, "me/hands")
    assert seconds < SECONDS
    assert message.startswith("me/hands could not be pushed to")
    assert message.endswith("check the network and HF_ENDPOINT, and push again")


def test_a_dataset_for_a_hub_that_is_not_there_is_not_prepared_at_all(nowhere):
    _, computer = nowhere
    seconds, message = computer.run(seconds_to_fail, prepare_and_push, "a dataset that there is not", "me/hands")
    assert seconds < SECONDS
    assert message.startswith("me/hands could not be pushed to")


@pytest.mark.parametrize("fault", [Fault(".*"), Fault(".*", status=500), Fault(".*", status=503)])
def test_what_the_cache_has_is_used_while_the_hub_is_out_of_order(hub, me, fault):
    expected = me.run(push, "me/hands")
    me.run(load, "me/hands")
    hub.faults = [fault]
    start = time.perf_counter()
    assert me.run(load, "me/hands") == expected
    assert time.perf_counter() - start < SECONDS


@pytest.mark.parametrize("fault", [Fault(".*/resolve/.*"), Fault(".*/resolve/.*", status=500), Fault(".*", status=500)])
def test_a_hub_that_answers_but_gives_no_files_costs_seconds_too(hub, me, tmp_path, fault):
    me.run(push, "me/hands")
    hub.faults = [fault]
    seconds, message = me.run(seconds_to_fail, load, "me/hands", cache_dir=tmp_path)
    assert seconds < SECONDS
    assert "is not in the cache" in message


# -- broken off --------------------------------------------------------------------------------------------------------


def test_a_download_that_breaks_off_is_an_error_and_leaves_the_older_copy_in_use(hub, me, tmp_path):
    older = me.run(push, "me/hands", seed=0)
    assert me.run(load, "me/hands", cache_dir=tmp_path) == older
    newer = me.run(push, "me/hands", seed=1)
    hub.faults = [Fault(r"GET /me/hands/resolve/\w+/model.safetensors", bytes=1000)]
    _, message = me.run(seconds_to_fail, load, "me/hands", cache_dir=tmp_path)
    assert "model.safetensors broke off" in message
    assert "nothing of it is used, try again later" in message
    assert list(tmp_path.rglob("*.incomplete")) == []
    assert me.run(load, "me/hands", cache_dir=tmp_path, local_files_only=True) == older
    hub.faults.clear()
    assert me.run(load, "me/hands", cache_dir=tmp_path) == newer


def test_a_push_that_is_killed_leaves_nothing_on_the_hub_and_can_be_repeated(hub, me, tmp_path):
    older = me.run(push, "me/hands")
    commit = hub.repos["me/hands"].branches["main"]
    hub.faults = [Fault("PUT /lfs/.*")]
    hub.requests.clear()
    victim = Computer(hub.url, "hf_me", tmp_path)
    future = victim.start(push, "me/hands", seed=1)
    deadline = time.monotonic() + 60
    while not any(request.startswith("PUT") for request in hub.requests):
        assert time.monotonic() < deadline
        assert not future.done(), future.exception()
        time.sleep(0.05)
    victim.kill()
    hub.faults.clear()
    assert hub.repos["me/hands"].branches["main"] == commit
    assert me.run(load, "me/hands") == older
    assert me.run(push, "me/hands", seed=1) == me.run(load, "me/hands") != older


def test_a_push_that_the_hub_fails_is_one_error_and_leaves_nothing(hub, me):
    me.run(push, "me/hands")
    commit = hub.repos["me/hands"].branches["main"]
    hub.faults = [Fault("POST /api/models/me/hands/commit/.*", status=500)]
    _, message = me.run(seconds_to_fail, push, "me/hands", seed=1)
    assert message.startswith("me/hands could not be pushed to, the Hub answers with error 500")
    assert hub.repos["me/hands"].branches["main"] == commit


# -- what is there, and for whom ---------------------------------------------------------------------------------------


def test_twelve_megabytes_travel_over_lfs_and_load_by_branch_tag_and_commit(hub, me, tmp_path):
    first = me.run(push, "me/hands", channels=(32, 64, 128, 400))
    files = hub.repos["me/hands"].branches["main"].files
    assert files["model.safetensors"].lfs
    assert len(files["model.safetensors"].content) > 12_000_000
    commit = hub.repos["me/hands"].branches["main"].sha
    me.run(make_tag, "me/hands", "v1")
    me.run(make_branch, "me/hands", "next")
    second = me.run(push, "me/hands", seed=1, branch="next")
    for i, (revision, expected) in enumerate(
        [(None, first), ("main", first), ("v1", first), (commit, first), ("next", second)]
    ):
        assert me.run(load, "me/hands", revision=revision, cache_dir=tmp_path / str(i)) == expected
        assert me.run(load, "me/hands", revision=revision, cache_dir=tmp_path / str(i), local_files_only=True)


def test_a_branch_that_does_not_exist_is_named(hub, me):
    me.run(push, "me/hands")
    _, message = me.run(seconds_to_fail, push, "me/hands", branch="typo")
    assert message == "me/hands has no branch 'typo': make it first, or leave it out"


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        (None, "me/hands", "nobody is logged in here: run `hf auth login`, or set HF_TOKEN"),
        ("hf_expired", "me/hands", "refuses the access token.*run `hf auth login`, or correct or unset HF_TOKEN"),
        ("hf_other", "me/hands", "me/hands may not be written to with this access token: give an id of your own"),
        ("hf_other", "me/nothing", "me/nothing may not be written to with this access token"),
        ("hf_me", "no id/at/all", "is no Hub id: give one such as 'me/my-model'"),
        (None, "no id!", "is no Hub id: give one such as 'me/my-model'"),
    ],
)
def test_who_may_not_push_learns_it_before_anything_is_uploaded(hub, me, tmp_path, token, repo_id, message):
    me.run(push, "me/hands")
    hub.requests.clear()
    computer = Computer(hub.url, token, tmp_path)
    try:
        with pytest.raises(PushError, match=message):
            computer.run(prepare_repo, repo_id)
    finally:
        computer.stop()
    assert len(hub.requests) <= 3
    assert "me/nothing" not in hub.repos


class Huge(bytes):
    """As a file of the Hub, far more than anybody wants to download."""

    def __len__(self) -> int:
        return 40 * 10**9


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, r"only as a pickle \(pytorch_model.bin\).*never loaded"),
        ({"pytorch_model.bin": b"x"}, r"only as a pickle \(pytorch_model.bin\).*never loaded"),
        ({"config.json": b"{}"}, "has no model.safetensors, it is no checkpoint.*check the id"),
        ({"model.safetensors": b"x"}, "has no config.json, it is no checkpoint.*check the id"),
        (
            {"config.json": b"{}", "model.safetensors": Huge()},
            r"model.safetensors has 40.0 GB, more than any",
        ),
    ],
)
def test_a_repo_without_weights_to_trust_is_refused_without_a_download(hub, me, tmp_path, files, message):
    me.run(push, "me/odd")
    hub.repos["me/odd"].commit("main", "odd", {name: File(content) for name, content in files.items()})
    hub.requests.clear()
    with pytest.raises(CheckpointError, match=message):
        me.run(load, "me/odd", cache_dir=tmp_path)
    assert hub.requests == ["GET /api/models/me/odd"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the Hub refuses the access token for Hub model 'me/hands': run `hf auth login`"),
        (403, "'me/hands' may not be read with this access token: ask its owner for access"),
    ],
)
def test_no_access_is_told_from_no_such_repo(hub, me, tmp_path, status, message):
    hub.faults = [Fault("GET /api/models/me/hands", status=status)]
    with pytest.raises(CheckpointError, match=message):
        me.run(load, "me/hands", cache_dir=tmp_path)


def test_a_folder_that_may_hide_a_hub_model_says_so_without_asking_the_hub(
    tiny_checkpoint, tmp_path, monkeypatch, caplog
):
    for name in ("me/hands", "runs/hands"):
        folder = tmp_path / name
        folder.parent.mkdir()
        folder.symlink_to(tiny_checkpoint)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate_checkpoint("me/hands") == Path("me/hands")
    assert f"me/hands is loaded from the folder {tiny_checkpoint}, and not from the Hub" in caplog.text
    caplog.clear()
    for plain in (Path("me/hands"), "./me/hands", str(tmp_path / "me/hands"), "runs/hands"):
        locate_checkpoint(plain)
    assert caplog.text == ""


# -- one folder, as it is ----------------------------------------------------------------------------------------------


def test_a_folder_is_pushed_as_it_is_and_not_changed(hub, me, tiny_checkpoint):
    before = {file.name: file.read_bytes() for file in tiny_checkpoint.iterdir()}
    me.run(push_checkpoint, tiny_checkpoint, "me/folder")
    files = hub.repos["me/folder"].branches["main"].files
    assert files["model.safetensors"].content == before["model.safetensors"]
    assert b'"me/folder"' in files["README.md"].content
    assert {file.name: file.read_bytes() for file in tiny_checkpoint.iterdir()} == before


def test_whoever_commits_during_a_push_is_not_overwritten(hub, me):
    me.run(push, "me/hands")
    repo = hub.repos["me/hands"]
    original, raced = repo.at, []

    def at(revision: str):
        """The card is edited just after the push has read it."""
        commit = original(revision)
        if any(request.startswith("POST /api/models/me/hands/preupload") for request in hub.requests) and not raced:
            raced.append(True)
            card = commit.files["README.md"].content + b"\nA word by hand.\n"
            repo.commit("main", "edit", commit.files | {"README.md": File(card)})
        return commit

    repo.at = at
    hub.requests.clear()
    me.run(push, "me/hands", seed=1)
    assert raced
    assert b"A word by hand." in repo.branches["main"].files["README.md"].content
