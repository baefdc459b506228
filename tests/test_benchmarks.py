"""The benchmarks run, and write down what they found and on what."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_inference_measures_ours_beside_its_peers(tiny_checkpoint, tmp_path):
    for package in ("onnx", "onnxruntime", "openvino", "timm", "transformers"):
        pytest.importorskip(package)
    file = tmp_path / "speed.json"
    command = [sys.executable, ROOT / "benchmarks" / "inference.py", "--quick", "--json-file", file]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--model", tiny_checkpoint], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "| 1 x 4000 x 3000 JPEG |" in done.stdout
    found = json.loads(file.read_text())
    assert found["versions"]["openvino"]
    assert found["limits in GFLOP/s"]["fp32"] > 0
    [row, *_] = found["tables"]["Network, 64 px, ms a batch"]
    assert {"resnet_hub", "torchvision", "ONNX Runtime"} <= row["ms"].keys()
    assert all(times["median"] > 0 for times in row["ms"].values())
