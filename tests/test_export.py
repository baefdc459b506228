"""Exported networks compute what the checkpoint computes, and say how to use them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_hub import ConfigurationError, ResNetForImageClassification
from resnet_hub.calibration import Calibration
from resnet_hub.engines.openvino_engine import import_openvino
from resnet_hub.export import TOLERANCE, export_checkpoint
from resnet_hub.graph import fold_batch_norm


@pytest.fixture(scope="module", params=["torchvision", "keras"])
def model(request) -> ResNetForImageClassification:
    """With every tensor at random: a BatchNorm that was folded wrongly would show."""
    torch.manual_seed(0)
    model = ResNetForImageClassification(
        layers=(1, 2, 1, 1),
        channels=(8, 16, 16, 32),
        label_names=["a", "b", "ç", "d", "e"],
        image_size=64 if request.param == "torchvision" else 80,  # where the course's last pool leaves places out
        variant=request.param,
    )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, -1.5, 1.5)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            torch.nn.init.normal_(module.bias)
    model.calibration = Calibration(0.8, 1.0, "signs", "validation", 4)
    return model.eval()


@pytest.fixture(scope="module", params=[1, 3])
def pixels(request, model) -> torch.Tensor:
    side = model.image_size
    return torch.randn(request.param, 3, side, side, generator=torch.Generator().manual_seed(request.param))


def check(found: np.ndarray, model: ResNetForImageClassification, pixels: torch.Tensor) -> None:
    with torch.inference_mode():
        expected = model(pixels).numpy()
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def check_metadata(found: dict[str, str], model: ResNetForImageClassification) -> None:
    assert json.loads(found["label_names"]) == model.label_names
    assert json.loads(found["image_size"]) == model.image_size
    assert json.loads(found["mean"]) == list(model.preprocessing.mean)
    assert json.loads(found["std"]) == list(model.preprocessing.std)
    assert json.loads(found["temperature"]) == 0.8
    assert f"{model.image_size} x {model.image_size} px" in found["preprocessing"]


def test_folding_batch_norm_changes_nothing_but_rounding(model, pixels):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_batch_norm(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        check(folded(pixels).numpy(), model, pixels)
    folded.half()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_onnx_runtime_gives_the_checkpoints_logits(model, pixels, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(export_checkpoint(model, "onnx", tmp_path / "new" / "hands.onnx"))
    [found] = session.run(["logits"], {"pixels": pixels.numpy()})
    check(found, model, pixels)
    check_metadata(session.get_modelmeta().custom_metadata_map, model)


def test_openvino_gives_the_checkpoints_logits(model, pixels, tmp_path):
    openvino = pytest.importorskip("openvino")
    file = export_checkpoint(model, "openvino", tmp_path / "hands.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hands.bin", "hands.xml"]
    network = openvino.Core().read_model(file)
    compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    check(compiled({"pixels": pixels.numpy()})["logits"], model, pixels)
    names = ("label_names", "image_size", "mean", "std", "temperature", "preprocessing")
    check_metadata({name: network.get_rt_info(["model_info", name]).astype(str) for name in names}, model)


def test_int8_is_smaller_and_says_so(tiny_checkpoint, tmp_path, capfd):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    model = ResNetForImageClassification.from_pretrained(tiny_checkpoint)
    images = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    exact = export_checkpoint(model, "openvino", tmp_path / "exact.xml")
    rounded = export_checkpoint(model, "openvino", tmp_path / "rounded.xml", training_images=images)
    assert rounded.with_suffix(".bin").stat().st_size < exact.with_suffix(".bin").stat().st_size / 2
    networks = [openvino.Core().read_model(file) for file in (exact, rounded)]
    assert [n.get_rt_info(["model_info", "precision"]).astype(str) for n in networks] == ["fp32", "int8"]
    pixels = model.preprocessing([model.preprocessing.load(image) for image in images]).contiguous().numpy()
    logits = [openvino.compile_model(network, "CPU")({"pixels": pixels})["logits"] for network in networks]
    assert 0 < np.abs(logits[1] - logits[0]).max() < 0.2 * np.abs(logits[0]).max()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("format", "count", "reason"), [("onnx", 3, "written as OpenVINO IR"), ("openvino", 0, "there is none: give some")]
)
def test_int8_without_what_it_needs_is_refused(model, format, count, reason):
    images = [np.zeros((8, 8, 3), np.uint8)] * count
    with pytest.raises(ConfigurationError, match=reason):
        export_checkpoint(model, format, training_images=images)


def test_the_command_writes_a_file_and_says_which(tiny_checkpoint, tmp_path):
    pytest.importorskip("onnx")
    command = [sys.executable, "-m", "resnet_hub", "export", str(tiny_checkpoint), "--format", "onnx"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "model.onnx\n", "")
    assert (tmp_path / "model.onnx").stat().st_size > 10_000


def test_without_the_package_the_next_step_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigurationError, match="pip install onnx"):
        export_checkpoint(model, "onnx", tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "name", "reason"),
    [
        ("tflite", "x.tflite", "format must be one of onnx, openvino"),
        ("onnx", "x.pt", "must end in .onnx"),
        ("openvino", "x.onnx", "must end in .xml"),
    ],
)
def test_what_cannot_be_written_is_refused(model, tmp_path, format, name, reason):
    with pytest.raises(ConfigurationError, match=reason):
        export_checkpoint(model, format, tmp_path / name)


def test_a_place_that_cannot_be_written_is_named(model, tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        export_checkpoint(model, "onnx", tmp_path / "file" / "x.onnx")


def test_openvino_reports_nothing_to_its_makers():
    pytest.importorskip("openvino")
    code = (
        "import sys; from resnet_hub.engines.openvino_engine import import_openvino; import_openvino().Core();"
        "assert 'openvino' in sys.modules and 'openvino_telemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    assert import_openvino() is sys.modules["openvino"]
