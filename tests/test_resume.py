"""A run that was interrupted, however and wherever, ends as one that was not: to the last bit."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training_runs
from safetensors.torch import load_file
from training_runs import SCRIPT, TORCHRUN, environment, launch, options_of, record_of

from resnet_hub.errors import CheckpointError, ConfigurationError, TrainingError
from train import engine, states


def result_of(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Everything that a run leaves, less what its clock said."""
    record = record_of(folder)
    for line in record["history"]:
        del line["seconds"], line["data_wait"]
    return (folder / "model.safetensors").read_bytes(), record


PLAIN = {}
#: An accumulation that does not divide the 15 batches, every other thing that has a state, and a stop before the end.
RICH = {
    "gradient_accumulation_steps": 4,
    "ema_decay": 0.9,
    "optim": "sgd",
    "learning_rate": 0.05,
    "mixup_alpha": 0.2,
    "save_top_k": 2,
    "num_train_epochs": 6,
    "early_stopping_patience": 2,
    "early_stopping_min_delta": 0.5,
}


@pytest.fixture(scope="module")
def uninterrupted(colors, tmp_path_factory) -> Callable[[dict[str, Any]], Path]:
    """The folder of a run with these options, which is made once."""
    folders: dict[str, Path] = {}

    def get(options: dict[str, Any]) -> Path:
        key = json.dumps(options, sort_keys=True)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("uninterrupted") / "run"
            everything = {"dataset_name": str(colors), "output_dir": folders[key]} | options
            assert training_runs.train_here(**everything) == 0
        return folders[key]

    return get


@pytest.mark.parametrize(
    ("options", "stop_at"),
    [
        (PLAIN, ("_update", 1)),
        (PLAIN, ("_update", 8)),  # in the middle of the first epoch
        (PLAIN, ("_update", 15)),  # in its last step
        (PLAIN, ("_update", 24)),
        (PLAIN, ("_validate", 2)),
        (PLAIN, ("_finish_epoch", 1)),
        (RICH, ("_update", 2)),
        (RICH, ("_update", 7)),
        (RICH, ("_validate", 3)),  # while the patience is being counted
    ],
)
def test_interrupted_equals_uninterrupted(train_here, uninterrupted, tmp_path, capsys, options, stop_at):
    folder = tmp_path / "run"
    assert train_here(folder, stop_at, **options) == 128 + signal.SIGTERM
    assert f"--resume_from_checkpoint {folder}" in capsys.readouterr().out
    assert train_here(folder, resume_from_checkpoint="auto", **options) == 0
    expected = uninterrupted(options)
    assert result_of(folder) == result_of(expected)
    for name in ("top_k", "states"):
        assert sorted(f.name for f in folder.glob(f"{name}/*")) == sorted(f.name for f in expected.glob(f"{name}/*"))
    assert not (folder / "states").exists()  # a finished run needs none


def test_early_stopping_was_part_of_the_comparison(uninterrupted):
    history = record_of(uninterrupted(RICH))["history"]
    assert len(history) == 3 < RICH["num_train_epochs"]


def test_a_resumed_run_may_use_other_workers(train_here, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    train_here(folder, ("_update", 20))
    assert train_here(folder, resume_from_checkpoint="auto", dataloader_num_workers=2) == 0
    assert result_of(folder) == result_of(uninterrupted(PLAIN))


def test_an_interruption_of_the_test_repeats_nothing(train_here, uninterrupted, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        # The fourth pass over a split, after three of validation, is the test.
        patch.setattr("train.train.evaluate", _raising_sigterm_in_evaluate())
        assert train_here(folder) == 128 + signal.SIGTERM
    assert train_here(folder, resume_from_checkpoint="auto") == 0
    assert result_of(folder) == result_of(uninterrupted(PLAIN))


def _raising_sigterm_in_evaluate() -> Callable[..., engine.Predictions]:
    def wrapped(*arguments: Any, **options: Any) -> engine.Predictions:
        signal.raise_signal(signal.SIGTERM)
        return engine.evaluate(*arguments, **options)

    return wrapped


def test_states_are_saved_every_so_many_steps_and_the_newest_are_kept(train_here, tmp_path):
    folder = tmp_path / "run"
    train_here(folder, ("_update", 23), save_strategy="steps", save_steps=4, save_total_limit=2)
    names = [state.name for state in states.find_states(folder)]
    assert names == ["step-00000020", "step-00000023"] or names == ["step-00000020", "step-00000024"]


def test_a_damaged_state_is_passed_over(train_here, uninterrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    train_here(folder, ("_update", 20), save_total_limit=5)
    newest = states.find_states(folder)[-1]
    content = (newest / states.TENSORS_NAME).read_bytes()
    (newest / states.TENSORS_NAME).write_bytes(content[: len(content) // 2])
    assert train_here(folder, resume_from_checkpoint="auto") == 0
    assert f"{newest} cannot be read" in capsys.readouterr().out
    assert result_of(folder) == result_of(uninterrupted(PLAIN))


def test_half_written_folders_of_a_killed_process_go_away(train_here, tmp_path):
    folder = tmp_path / "run"
    train_here(folder, ("_update", 3))
    leftovers = [tmp_path / ".run-abc.tmp", folder / "states" / ".step-00000009-abc.tmp"]
    for leftover in leftovers:
        leftover.mkdir()
    train_here(folder, ("_update", 3), resume_from_checkpoint="auto")
    assert not any(leftover.exists() for leftover in leftovers)


def test_unfinished_runs_are_not_overwritten_and_finished_ones_not_resumed(train_here, uninterrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    train_here(folder, ("_update", 3))
    with pytest.raises(ConfigurationError, match="holds an unfinished run: go on with --resume_from_checkpoint auto"):
        train_here(folder)
    with pytest.raises(ConfigurationError, match=r"cannot go on with these: --seed was 42, is 7\. Choose another"):
        train_here(folder, resume_from_checkpoint="auto", seed=7)
    with pytest.raises(ConfigurationError, match="holds no state to go on from"):
        train_here(tmp_path / "none", resume_from_checkpoint=str(tmp_path / "none"))
    capsys.readouterr()
    assert train_here(uninterrupted(PLAIN), resume_from_checkpoint="auto") == 0
    assert "is a finished run: nothing to go on with" in capsys.readouterr().out
    # Named, it needs no dataset to say so.
    done = {"resume_from_checkpoint": str(uninterrupted(PLAIN)), "dataset_name": str(tmp_path / "gone")}
    assert train_here(folder, **done) == 0
    assert "is a finished run: nothing to go on with" in capsys.readouterr().out


def test_the_same_images_per_update_may_be_cut_otherwise(train_here, tmp_path):
    """What a machine with less memory needs; the statistics of smaller batches are not the same ones."""
    folder = tmp_path / "run"
    train_here(folder, ("_update", 20))
    with pytest.raises(ConfigurationError, match="images per update were 8, are 4 "):
        train_here(folder, resume_from_checkpoint="auto", per_device_train_batch_size=4)
    smaller = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    assert train_here(folder, resume_from_checkpoint="auto", **smaller) == 0
    assert [line["epoch"] for line in record_of(folder)["history"]] == [1, 2, 3]


def test_a_step_that_breaks_is_not_saved_though_somebody_asks_to_stop(train_here, tmp_path):
    """SIGTERM during the first step, whose huge rate breaks the second, after which the flag of the first is read."""
    options = {"learning_rate": 1e30, "max_grad_norm": 0, "warmup_ratio": 0}
    with pytest.raises(TrainingError, match="step 2 of 45"):
        train_here(tmp_path / "run", ("_update", 1), **options)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_named_and_earlier_states_stay(train_here, tmp_path):
    folder = tmp_path / "run"
    train_here(folder, ("_update", 20), save_total_limit=5)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))  # no file can grow beyond this
    try:
        with pytest.raises(CheckpointError, match=r"failed .* (make room|is unchanged)"):
            train_here(folder, resume_from_checkpoint="auto", save_total_limit=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


# ---------------------------------------------------------------------------------------------------------------------
# As users and machines do it: with processes that are signalled and killed


def start(*command: object, cwd: Path, cores: list[int] | None = None) -> subprocess.Popen:
    """On ``cores`` alone, where they are given."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=cores and (lambda: os.sched_setaffinity(0, cores)),
    )


def wait_for_line(process: subprocess.Popen, text: str) -> str:
    """Read what ``process`` prints until ``text`` comes; all that it printed."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def test_sigterm_is_answered_with_the_line_that_goes_on(colors, uninterrupted, tmp_path):
    process = start(sys.executable, SCRIPT, *options_of(dataset_name=colors, output_dir="run"), cwd=tmp_path)
    wait_for_line(process, "epoch 1:")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in output
    assert "SIGTERM in epoch" in output
    assert training_runs.resume_here(tmp_path / "run") == 0
    assert result_of(tmp_path / "run") == result_of(uninterrupted(PLAIN))


def test_ctrl_c_reaches_the_whole_group_and_workers_live_until_the_step_is_saved(colors, uninterrupted, tmp_path):
    options = options_of(dataset_name=colors, output_dir="run", dataloader_num_workers=2)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *options],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for_line(process, "epoch 1:")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in output
    assert training_runs.resume_here(tmp_path / "run") == 0
    assert result_of(tmp_path / "run") == result_of(uninterrupted(PLAIN))


#: Each training is a fork of one process, which has imported what takes several times as long as the training. The last
#: one may come to its end.
KILLER = f"""
import os, random, signal, sys, time
sys.path.insert(0, {str(SCRIPT.parents[1])!r})
sys.argv[0] = {str(SCRIPT)!r}
import torch._dynamo  # optimisers import it when they are made, which takes two seconds
import train.train as script
def start():
    end, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(begin, 1)
        os._exit(script.main(script.parse_config(sys.argv[1:])))
    os.close(begin)
    return child, os.fdopen(end)
rng = random.Random(0)
for _ in range(20):
    child, output = start()
    if not any("steps an epoch" in line for line in output):
        sys.exit("it ended before it began")
    time.sleep(rng.uniform(0, 0.35))
    os.kill(child, signal.SIGKILL)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        sys.exit("it ended before it was killed")
child, output = start()
output.read()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_killed_at_random_moments_equals_uninterrupted(colors, uninterrupted, tmp_path):
    """20 times ``kill -9``, with states saved so often that some hit a save."""
    options = options_of(
        dataset_name=colors, output_dir="run", num_train_epochs=40, save_strategy="steps", save_steps=1
    )
    launch(sys.executable, "-u", "-c", KILLER, *options, "--resume_from_checkpoint", "auto", cwd=tmp_path)
    assert result_of(tmp_path / "run") == result_of(uninterrupted({"num_train_epochs": 40}))


#: train.py that also has each process write its weights down, for rank 1 saves nothing.
BOTH = f"""
import sys; sys.path.insert(0, {str(SCRIPT.parents[1])!r}); sys.argv[0] = {str(SCRIPT)!r}
import train.train as script, train.trainer as trainer
from safetensors.torch import save_file
fit = trainer.Trainer.fit
def fit_and_save(self, watch):
    fit(self, watch)
    weights = {{name: value.contiguous() for name, value in self.model.state_dict().items()}}
    save_file(weights, f"rank{{self.accelerator.process_index}}.safetensors")
trainer.Trainer.fit = fit_and_save
script.main(script.parse_config(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def whole_on_two(colors, tmp_path_factory) -> Path:
    """The folder of a run on two processes that nothing interrupted; beside it the weights of both."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "both.py").write_text(BOTH)
    options = options_of(dataset_name=colors, output_dir="whole", num_train_epochs=12)
    launch(*TORCHRUN, "both.py", *options, cwd=folder)
    return folder / "whole"


def test_both_processes_end_with_equal_weights(whole_on_two):
    first, second = (load_file(whole_on_two.with_name(f"rank{rank}.safetensors")) for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_two_processes_stop_together_and_go_on_exactly(colors, whole_on_two, tmp_path):
    options = options_of(dataset_name=colors, output_dir="run", num_train_epochs=12)
    process = start(*TORCHRUN, SCRIPT, *options, cwd=tmp_path)
    wait_for_line(process, "epoch 2:")
    worker = int(subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()[-1])
    os.kill(worker, signal.SIGTERM)  # one of the two: the other must learn of it
    output, _ = process.communicate(timeout=120)
    assert "SIGTERM in epoch" in output
    launch(*TORCHRUN, SCRIPT, "--resume_from_checkpoint", "run", cwd=tmp_path)
    assert result_of(tmp_path / "run") == result_of(whole_on_two)


def start_machines(port: int, colors: Path, cwd: Path, **options: Any) -> list[subprocess.Popen]:
    """Two "machines" with one process and half of the cores each, which find each other at ``port``."""
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)  # as many threads as each of two processes on one machine
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1")
    meet = ("--master_addr", "127.0.0.1", "--master_port", port)
    arguments = options_of(dataset_name=colors, num_train_epochs=12, **options)
    return [
        start(
            *torchrun, *meet, "--node_rank", rank, SCRIPT, *arguments, cwd=cwd, cores=(cores * 2)[rank * half :][:half]
        )
        for rank in (0, 1)
    ]


def wait_for(machines: list[subprocess.Popen]) -> None:
    for machine in machines:
        output, _ = machine.communicate(timeout=120)
        assert machine.returncode == 0, output


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not give processes cores")
def test_a_machine_that_dies_ends_the_other_and_the_restarted_pair_goes_on_exactly(
    colors, whole_on_two, tmp_path, free_port
):
    first, second = start_machines(free_port, colors, tmp_path, output_dir="run")
    wait_for_line(first, "epoch 2:")
    worker = int(subprocess.check_output(["pgrep", "-P", str(second.pid)], text=True).split()[-1])
    for process in (second.pid, worker):
        os.kill(process, signal.SIGKILL)
    output, _ = first.communicate(timeout=60)
    assert first.returncode != 0
    assert "error: another of the 2 processes ended" in output
    assert "train/train.py --resume_from_checkpoint run" in output
    second.communicate()
    wait_for(start_machines(free_port, colors, tmp_path, output_dir="run", resume_from_checkpoint="auto"))
    assert result_of(tmp_path / "run") == result_of(whole_on_two)
