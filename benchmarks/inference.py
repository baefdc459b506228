"""Predicting beside what people use: torchvision, timm, ONNX Runtime and transformers' pipeline, in one run.

    python benchmarks/inference.py                        # batches at 64 and 224 px, files to labels, start-up
    python benchmarks/inference.py --quick --tables files # a look at whether it runs; its figures mean little
    python benchmarks/inference.py --tables files --json-file speed.json

All have the weights of one checkpoint, and all take turns, so that what else the machine does meets all of them. A
figure is the median over the rounds, with the lowest and highest in parentheses. All compute on the CPU as they do by
default: the peers in fp32, with as many threads as they choose. Each table is made in a process of its own: what one
leaves in memory, or still waits in threads, would slow down the next.
"""

import functools
import importlib.util
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

# The script runs from a checkout, from any directory, without being installed.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import numpy as np
import onnxruntime
import timm
import torch
import torchvision
import transformers
import tyro
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import (
    MATRIX_SIDE,
    copy_gigabytes_per_second,
    describe,
    markdown,
    matrix_product_gflops,
    write_json,
)
from resnet_hub import Predictor, ResNetForImageClassification, drawn_signs
from resnet_hub.calibration import probabilities
from resnet_hub.engines import Engine, make_engine
from resnet_hub.explain import grad_cam
from resnet_hub.export import export_checkpoint

PACKAGES = ("torch", "torchvision", "timm", "transformers", "onnxruntime", "openvino", "numpy", "pillow")
OURS, INT8, READING = "resnet_hub", "in int8", "of which reading"
EAGER, PIPELINE = "torchvision", "transformers.pipeline"
Table = Literal["64", "224", "files", "grad-cam", "start"]
LIMITS = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Seconds of calls after which a turn is over: from three calls on, and sooner where three would take too long.
TURN_SECONDS, LONG_TURN_SECONDS = 0.3, 2.0
#: Files: what they are called in the table, width, height, format.
FILES = [
    ("64 px PNG", 64, 64, "PNG"),
    ("640 x 480 JPEG", 640, 480, "JPEG"),
    ("4000 x 3000 JPEG", 4000, 3000, "JPEG"),
]
START = """
import sys; sys.path.insert(0, {root!r})
from resnet_hub import Predictor
print(Predictor({model!r})({image!r}, top_k=1), flush=True)
"""


class Times(NamedTuple):
    """Milliseconds of one call."""

    median: float
    lowest: float
    highest: float


class Row(NamedTuple):
    """What was done by whom in which time. ``share`` is of the measured limit in our precision, 0..1."""

    task: str
    times: dict[str, Times]
    share: float | None = None


def main(
    model: Path = ROOT / "models" / "signs-resnet50",
    rounds: int = 5,
    tables: tuple[Table, ...] = ("64", "224", "files", "grad-cam", "start"),
    quick: bool = False,
    json_file: Path | None = None,
) -> None:
    """Measure.

    Args:
        model: Checkpoint folder.
        rounds: How often each takes its turn, at least 5 for figures to show.
        tables: Which to make: the network at 64 or 224 px, from files to labels, heatmaps, starting Python.
        quick: One round of a few calls with one image, and all in one process: whether it runs, and no more.
        json_file: Write figures, versions and hardware there too.
    """
    rounds, part = (1, at_once) if quick else (rounds, apart)
    batches = (1,) if quick else (1, 8, 32, 128)
    products = 3 if quick else 30
    limits = {name: part(matrix_product_gflops, dtype, "cpu", products) for name, dtype in LIMITS.items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = {}
        for side in (64, 224):
            if str(side) in tables:
                checks, rows = part(networks, model, side, batches, rounds, limits, folder)
                made[f"Network, {side} px, ms a batch"] = rows
                print("\n".join(checks))
        if "files" in tables:
            made["From file to label, ms"] = part(files, model, rounds, folder)
        if "grad-cam" in tables:
            made["Grad-CAM, ms"] = [part(heatmap, model, rounds)]
        if "start" in tables:
            made["From starting Python to the first label, ms"] = starts(model, folder)
    if quick:
        print("\nA quick look: these figures mean little.")
    print(f"\nLimits, as products of {MATRIX_SIDE} x {MATRIX_SIDE} matrices: ", end="")
    bandwidth = part(copy_gigabytes_per_second)
    print(", ".join(f"{name} {limit:,.0f} GFLOP/s" for name, limit in limits.items()), end="")
    print(f"; copying memory: {bandwidth:.0f} GB/s")
    for title, rows in made.items():
        print(f"\n{title}\n\n{as_table(rows)}")
    if json_file is not None:
        content = {
            title: [
                {"task": row.task, "share of limit": row.share, "ms": {k: v._asdict() for k, v in row.times.items()}}
                for row in rows
            ]
            for title, rows in made.items()
        }
        ceilings = {"GFLOP/s": limits, "copying, GB/s": bandwidth}
        write_json(
            json_file, {"rounds": rounds, "machine": describe(PACKAGES), "ceilings": ceilings, "tables": content}
        )


def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
    return work(*arguments)


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` gives back, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


# ---------------------------------------------------------------------------------------------------------------------
# What is measured


def networks(
    model: Path, side: int, batches: tuple[int, ...], rounds: int, limits: dict[str, float], folder: Path
) -> tuple[list[str], list[Row]]:
    """From normalised pixels to logits. Also one line for each peer, which says whether the answers are the same."""
    network = ResNetForImageClassification.from_pretrained(model)
    if side != network.image_size:  # as if it had been trained for this size: weights do not change the speed
        preprocessing = network.preprocessing
        network.preprocessing = type(preprocessing)(side, preprocessing.mean, preprocessing.std)
        network.calibration = None
    hands, _ = drawn_signs.draw_signs(max(batches), 5, image_size=side)
    pixels = network.preprocessing(hands)
    engine = make_engine(network)
    peers: dict[str, Callable[[Tensor], Tensor]] = {
        OURS: engine,
        INT8: int8_engine(network, pixels),
        EAGER: torchvision_network(network),
        "timm": timm_network(network),
        "ONNX Runtime": onnx_session(network, folder / f"{side}.onnx"),
    }
    peers = {name: peer for name, peer in peers.items() if peer is not None}
    expected = probabilities(run(peers[EAGER], pixels), network.calibration)
    checks = [agreement(name, side, run(peer, pixels), expected, network) for name, peer in peers.items()]
    with FlopCounterMode(display=False) as counter:
        run(network, pixels[:1])
    rows = []
    for batch in batches:
        part = pixels[:batch].contiguous()
        times = alternate({name: lambda peer=peer, part=part: run(peer, part) for name, peer in peers.items()}, rounds)
        share = batch * counter.get_total_flops() / (1e6 * times[OURS].median) / limits[engine.precision]
        rows.append(Row(f"batch of {batch}, ours {engine.name} {engine.precision}", times, share))
    return checks, rows


def int8_engine(network: ResNetForImageClassification, pixels: Tensor) -> Engine | None:
    """None without calibration, as at sizes that it was not trained for: nearly all would be computed again in fp32."""
    if network.calibration is None or not importlib.util.find_spec("nncf"):
        return None
    return make_engine(network, precision="int8", training_pixels=pixels)


def run(network: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(pixels)


def torchvision_network(network: ResNetForImageClassification) -> Any:
    """Ours where it has no such network (tiny ones, for tests): the same layers, eagerly."""
    build = getattr(torchvision.models, network.architecture)
    peer = build(num_classes=network.num_classes)
    return _with_weights(peer, network) or network


def timm_network(network: ResNetForImageClassification) -> Any | None:
    return _with_weights(timm.create_model(network.architecture, num_classes=network.num_classes), network)


def _with_weights(peer: torch.nn.Module, network: ResNetForImageClassification) -> torch.nn.Module | None:
    weights = network.state_dict()
    if {name: tensor.shape for name, tensor in weights.items()} != {k: v.shape for k, v in peer.state_dict().items()}:
        return None
    peer.load_state_dict(weights)
    return peer.eval()


def onnx_session(network: ResNetForImageClassification, file: Path) -> Callable[[Tensor], Tensor]:
    session = onnxruntime.InferenceSession(export_checkpoint(network, "onnx", file))
    return lambda pixels: torch.from_numpy(session.run(["logits"], {"pixels": pixels.contiguous().numpy()})[0])


def agreement(name: str, side: int, logits: Tensor, expected: Tensor, network: ResNetForImageClassification) -> str:
    found = probabilities(logits, network.calibration)
    same = (found.argmax(1) == expected.argmax(1)).sum().item()
    difference = (found - expected).abs().max().item()
    return f"{side} px, {name}: best class of {same} of {len(found)} as torchvision's, scores within {difference:.6f}"


def files(model: Path, rounds: int, folder: Path) -> list[Row]:
    """From a file to the best label: decoding, resizing, the network; reading alone (ours) beside it."""
    predictor = Predictor(model, device="cpu")
    peers = {OURS: lambda names: predictor(names, top_k=1)}
    if importlib.util.find_spec("nncf"):
        hands = drawn_signs.draw_signs(60, 5)[0]
        rounded = Predictor(model, device="cpu", precision="int8", training_images=hands)
        peers[INT8] = lambda names: rounded(names, top_k=1)
    if "model_args" not in predictor.model.to_config():  # which transformers cannot build
        # In fp32 as all others: left to itself it computes in what the weights are stored in, and fp16 is slow on CPUs.
        options = {"device": "cpu", "dtype": torch.float32}
        pipeline = transformers.pipeline("image-classification", model=str(model), **options)
        peers[PIPELINE] = lambda names: pipeline(names, top_k=1, batch_size=len(names))
    rows = []
    for count, (kind, width, height, file_format) in [*((1, file) for file in FILES), (32, FILES[1])]:
        names = [str(photo(folder, number, width, height, file_format)) for number in range(count)]
        tasks = {name: lambda peer=peer, names=names: peer(names) for name, peer in peers.items()}
        tasks[READING] = lambda names=names: predictor.pixels(names)
        rows.append(Row(f"{count} x {kind}", alternate(tasks, rounds)))
    return rows


@functools.cache
def draw_hand(label: int, image_size: int) -> Image.Image:
    return drawn_signs.draw_sign(label, label, image_size=image_size)


def photo(folder: Path, number: int, width: int, height: int, file_format: str) -> Path:
    """A drawn hand as a camera would store it: with noise, which takes decoders as long as real pictures do."""
    file = folder / f"{number}-{width}.{file_format.lower()}"
    if not file.exists():
        hand = draw_hand(number % 6, min(480, width)).resize((width, height))
        noise = np.random.default_rng(number).normal(0, 4, (height, width, 3)).astype(np.float32)
        Image.fromarray((np.asarray(hand) + noise).clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return file


def heatmap(model: Path, rounds: int) -> Row:
    predictor = Predictor(model, device="cpu")
    network, pixels = predictor.model, predictor.pixels([drawn_signs.draw_sign(3, 1)])
    return Row(f"{network.image_size} px", alternate({OURS: lambda: grad_cam(network, pixels, 0)}, rounds))


def starts(model: Path, folder: Path, times: int = 3) -> list[Row]:
    """Each in a process of its own; the first with an empty cache of compiled networks."""
    image = photo(folder, 0, *FILES[0][1:])
    code = START.format(root=str(ROOT), model=str(model), image=str(image))
    environment = os.environ | {"RESNET_HUB_CACHE": str(folder / "cache")}
    seconds = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            seconds.append(1000 * (time.perf_counter() - begin))
    return [Row("first", {OURS: summarize(seconds[:1])}), Row("later", {OURS: summarize(seconds[1:])})]


# ---------------------------------------------------------------------------------------------------------------------
# How it is measured and told


def alternate(tasks: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """Every task in every round, for a while each; the first call of a turn is not counted."""
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            task()
            turn: list[float] = []
            while sum(turn) < 1000 * (TURN_SECONDS if len(turn) >= 3 else LONG_TURN_SECONDS):
                begin = time.perf_counter()
                task()
                turn.append(1000 * (time.perf_counter() - begin))
            found[name].append(statistics.median(turn))
    return {name: summarize(times) for name, times in found.items()}


def summarize(times: list[float]) -> Times:
    return Times(statistics.median(times), min(times), max(times))


def as_table(rows: list[Row]) -> str:
    """Markdown. Behind each peer's time how many times ours it is."""
    names = list(rows[0].times)
    header = ["", *names, *(["of the limit"] if rows[0].share is not None else [])]
    lines = []
    for row in rows:
        cells = [row.task]
        for name in names:
            median, lowest, highest = row.times[name]
            ratio = f", **{median / row.times[OURS].median:.1f}x**" if name not in (OURS, INT8, READING) else ""
            cells.append(f"{median:.1f} ({lowest:.1f}-{highest:.1f}){ratio}")
        lines.append([*cells, *([f"{row.share:.0%}"] if row.share is not None else [])])
    return markdown(header, lines)


if __name__ == "__main__":
    tyro.cli(main)
