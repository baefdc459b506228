"""The benchmarks run, on next to nothing; their figures are for whoever runs them in earnest."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import machine, scaling, training
from resnet_hub.data import load_image_dataset

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def four_hands():
    return load_image_dataset("drawn-signs")["test"].select(range(4))


@pytest.mark.parametrize("name", training.CONTESTANTS)
def test_every_way_to_train_trains(four_hands, name):
    AcceleratorState._reset_state(reset_partial_state=True)
    turn = training.CONTESTANTS[name](four_hands, 32, 2)
    assert turn() >= 0
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_report_has_every_contestant_and_the_machines_limit(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MATRIX_SIDE", 64)
    speeds = {name: [10.0 * i, 10.0 * i, 20.0 * i] for i, name in enumerate(training.CONTESTANTS, start=1)}
    training.report(64, 32, speeds, [0.01, 0.02, 0.03], tmp_path / "figures.json")
    told = capsys.readouterr().out
    assert "| plain loop | 20.0 (20.0 to 40.0) | 0.50 |" in told
    assert "still for data for 2.0 %" in told
    content = json.loads((tmp_path / "figures.json").read_text())
    assert content["images_per_second"] == speeds
    assert content["machine"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert content["gflop_per_image"] == pytest.approx(2.0, abs=0.1)  # thrice 0.67, see He et al. scaled to 64 px


def test_start_and_memory_of_a_run_are_measured():
    program = "import time; time.sleep(1); print('3 steps an epoch'); data = bytearray(10**8); time.sleep(2)"
    begin = time.monotonic()
    seconds, memory, output = scaling.observe(["-c", program])
    assert 1 < seconds < time.monotonic() - begin - 1.5  # until the line came, not until the end
    assert 95 < memory < 200
    assert output == "3 steps an epoch\n"


def test_noise_is_a_dataset_to_train_on(tmp_path):
    scaling.write_noise(tmp_path / "noise", 64, seed=0)
    splits = load_image_dataset(str(tmp_path / "noise"))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 64, "validation": 100, "test": 100}
    assert len({image.tobytes() for rows in splits.values() for image in rows["image"]}) == 264


def test_inference_measures_ours_beside_its_peers(tiny_checkpoint, tmp_path):
    for package in ("onnx", "onnxruntime", "openvino", "timm", "transformers"):
        pytest.importorskip(package)
    file = tmp_path / "speed.json"
    command = [sys.executable, ROOT / "benchmarks" / "inference.py", "--quick", "--json-file", file]
    command += ["--tables", "64", "files", "grad-cam"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--model", tiny_checkpoint], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "| 1 x 4000 x 3000 JPEG |" in done.stdout
    assert "Grad-CAM" in done.stdout
    found = json.loads(file.read_text())
    assert found["machine"]["versions"]["openvino"]
    assert found["ceilings"]["GFLOP/s"]["fp32"] > 0
    [row, *_] = found["tables"]["Network, 64 px, ms a batch"]
    assert {"resnet_hub", "torchvision", "ONNX Runtime"} <= row["ms"].keys()
    assert all(times["median"] > 0 for times in row["ms"].values())
