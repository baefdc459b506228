"""``resnet-hub``: predict, look at checkpoints, convert, export and publish them from a shell.

Results go to stdout, everything else to stderr. Exit codes: 0 all went well, 1 some images could not be read, 2 nothing
was done and one line says why, 130 after Ctrl-C.
"""

import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TextIO
from urllib.request import Request, urlopen

import tyro
from tqdm import tqdm

from resnet_hub import __version__
from resnet_hub.command import run_command
from resnet_hub.errors import ConfigurationError, ImageError

Format = Literal["text", "jsonl", "csv"]
#: Those of ``resnet_hub.engines``, which takes a second to import, and ``--help`` should not.
Precision = Literal["auto", "fp32", "bf16", "int8"]
ModelName = Annotated[str, tyro.conf.arg(aliases=["-m"])]

SHIPPED = Path(__file__).resolve().parents[1] / "models" / "signs-resnet50"
#: Of an image from an address, in bytes.
MAX_URL_BYTES = 50 * 2**20
#: Seconds that a server may take to say something.
URL_SECONDS = 10
#: Images that are decoded before they go through the network together.
BATCH_SIZE = 32


def main() -> None:
    """The command line, to its end."""
    if sys.argv[1:] == ["--version"]:
        print(f"resnet-hub {__version__}")
        return
    commands = {
        "predict": predict,
        "info": info,
        "summary": summary,
        "convert": convert,
        "export": export,
        "push": push,
    }
    run_command(lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="resnet-hub", description=__doc__))


# ---------------------------------------------------------------------------------------------------------------------
# predict


class Row(NamedTuple):
    """One image: its answer, or why there is none. ``predictions`` are best first."""

    file: str
    predictions: list[dict[str, Any]]
    is_unfamiliar: bool | None
    error: str | None


def predict(
    images: Annotated[list[str], tyro.conf.Positional],
    model: ModelName = str(SHIPPED),
    top_k: int = 1,
    format: Format | None = None,
    output: Path | None = None,
    precision: Precision = "auto",
    training_images: tuple[str, ...] = (),
) -> int:
    """Classify images, folders of images (with all below them) and addresses.

    Args:
        images: Files, folders, or http(s) addresses.
        model: Checkpoint folder or Hub id, or anything else that `resnet-hub convert` takes.
        top_k: Classes per image, best first.
        format: text for people; jsonl and csv for programs, a line per image. Default: csv or jsonl where the output
            file is called so, else text.
        output: Write to this file rather than to stdout.
        precision: auto: bf16 where the processor has it. int8: fastest, and needs --training-images. What these cannot
            decide is computed in fp32.
        training_images: Files or folders of images like those of the training, of which int8 is fitted to 300.
    """
    if not images:
        raise ConfigurationError("say which images: files, folders or addresses")
    if top_k < 1:
        raise ConfigurationError(f"--top-k must be at least 1, got {top_k}")
    format = format or ({".csv": "csv", ".jsonl": "jsonl"}.get(output.suffix.lower(), "text") if output else "text")
    fitted_to = _training_images(precision, training_images)
    sources = list(_find_images(images))
    from resnet_hub.predictor import Predictor  # takes seconds, and a wrong path should not

    with _of_training_images():
        predictor = Predictor(_checked_model(model), precision=precision, training_images=fitted_to)
    top_k = min(top_k, len(predictor.label_names))
    rows = _answers(predictor, sources, top_k)
    failed = 0
    with _opened(output) as stream:
        write = {"text": _write_text, "jsonl": _write_jsonl, "csv": _write_csv}[format](stream, top_k)
        for row in _with_progress(rows, len(sources)):
            failed += row.error is not None
            write(row)
    if failed:
        print(f"{failed:,} of {len(sources):,} images could not be read", file=sys.stderr)
    return 1 if failed else 0


def _checked_model(model: str) -> str:
    if model == str(SHIPPED) and not SHIPPED.is_dir():
        raise ConfigurationError("say which model: --model with a checkpoint folder or a Hub id")
    return model


def _training_images(precision: str, names: Sequence[str]) -> list[str] | None:
    """What int8 is fitted to. Raises ``ConfigurationError`` where precision and images do not go together."""
    if (precision == "int8") != bool(names):
        raise ConfigurationError("--precision int8 and --training-images go together: give both, or none")
    return list(_find_images(names)) or None


@contextlib.contextmanager
def _of_training_images() -> Iterator[None]:
    """An image that cannot be read is one of them: those to classify are read later, and are rows when they fail."""
    try:
        yield
    except ImageError as error:
        raise ConfigurationError(f"--training-images: {error}; or take it out") from error


def _find_images(names: Sequence[str]) -> Iterator[str]:
    """Files and addresses, folders replaced by the images below them in the order of their names."""
    from resnet_hub.data_sources import IMAGE_SUFFIXES

    if names and not any(Path(name).exists() or name.startswith(("http://", "https://")) for name in names):
        raise ConfigurationError(f"there is no {' and no '.join(names[:5])}: check the path")
    for name in names:
        if not Path(name).is_dir():
            yield name
            continue
        found = [
            os.path.join(directory, file)
            for directory, _, files in os.walk(name)
            for file in files
            if file.lower().endswith(IMAGE_SUFFIXES)
        ]
        if not found:
            raise ConfigurationError(f"there is no image below {name}: check the path")
        yield from sorted(found)


def _answers(predictor: Any, sources: Sequence[str], top_k: int) -> Iterator[Row]:
    """In order, a batch at a time; an image that cannot be read has its error."""
    remaining = iter(sources)
    while batch := list(islice(remaining, BATCH_SIZE)):
        opened = list(predictor.readers.map(_load, repeat(predictor), batch))
        found = iter(predictor.answer([image for image in opened if not isinstance(image, str)], top_k, BATCH_SIZE))
        for source, image in zip(batch, opened, strict=True):
            if isinstance(image, str):
                yield Row(source, [], None, image)
            else:
                answer = next(found)
                yield Row(source, list(answer.predictions), answer.is_unfamiliar, None)


def _load(predictor: Any, source: str) -> Any:
    """The image as the network sees it, or why it cannot be read."""
    try:
        if not source.startswith(("http://", "https://")):
            return predictor.load(Path(source))
        request = Request(source, headers={"User-Agent": "resnet-hub"})
        with urlopen(request, timeout=URL_SECONDS) as response:
            content = response.read(MAX_URL_BYTES + 1)
        if len(content) > MAX_URL_BYTES:
            return f"more than {MAX_URL_BYTES // 2**20} MB"
        return predictor.load(content)
    except ImageError as error:
        return str(error).removeprefix(f"{source}: ")
    except (OSError, ValueError) as error:  # of the network, or an address that is none
        return f"cannot be fetched ({error})"


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    """stdout, or the file, which appears when all of it is written."""
    from resnet_hub.checkpoint import write_atomically

    if output is None:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    try:
        with write_atomically(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            yield stream
    except OSError as error:
        raise ConfigurationError(f"{output} cannot be written ({error}): choose another file") from error


def _with_progress(rows: Iterable[Row], total: int) -> Iterable[Row]:
    """With a bar where somebody looks on and has to wait."""
    hidden = not sys.stderr.isatty() or total <= BATCH_SIZE
    return tqdm(rows, total=total, unit="image", disable=hidden, file=sys.stderr)


def _write_text(stream: TextIO, top_k: int) -> Callable[[Row], None]:
    from resnet_hub.card import printable  # a stranger's label must not command the terminal

    def write(row: Row) -> None:
        if row.error is not None:
            print(f"{printable(row.file, 4096)}: error: {printable(row.error, 4096)}", file=sys.stderr)
            return
        answers = ", ".join(f"{printable(p['label'])} {p['score']:.1%}" for p in row.predictions)
        note = " (unlike the training images)" if row.is_unfamiliar else ""
        stream.write(f"{printable(row.file, 4096)}: {answers}{note}\n")

    return write


def _write_jsonl(stream: TextIO, top_k: int) -> Callable[[Row], None]:
    def write(row: Row) -> None:
        content = {"file": row.file, "predictions": row.predictions, "is_unfamiliar": row.is_unfamiliar}
        stream.write(json.dumps({"file": row.file, "error": row.error} if row.error else content) + "\n")

    return write


def _write_csv(stream: TextIO, top_k: int) -> Callable[[Row], None]:
    writer = csv.writer(stream, lineterminator="\n")
    columns = ["label", "score", *(f"{name}_{k}" for k in range(2, top_k + 1) for name in ("label", "score"))]
    writer.writerow(["file", *columns, "is_unfamiliar", "error"])

    def write(row: Row) -> None:
        cells = [cell for p in row.predictions for cell in (p["label"], f"{p['score']:.4f}")] or [""] * (2 * top_k)
        unfamiliar = "" if row.is_unfamiliar is None else str(row.is_unfamiliar).lower()
        writer.writerow([row.file, *cells, unfamiliar, row.error or ""])

    return write


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints


def info(model: Annotated[str, tyro.conf.Positional] = str(SHIPPED)) -> None:
    """What a checkpoint is, what it was trained on and what it measured.

    Args:
        model: Checkpoint folder or Hub id, or anything else that `resnet-hub convert` takes.
    """
    from resnet_hub.card import printable
    from resnet_hub.convert import read

    network = read(_checked_model(model))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    variant = "" if network.variant == "torchvision" else f" as {network.variant} has it"
    lines = [
        ("architecture", f"{network.architecture}{variant}, {parameters:,} parameters"),
        ("images", f"{network.image_size} x {network.image_size} px"),
        ("classes", f"{network.num_classes}: {printable(', '.join(network.label_names))}"),
    ]
    if network.origin is not None:
        lines.append(("converted from", f"{printable(network.origin.source)} of {printable(network.origin.library)}"))
        lines += [("note", printable(note, 1000)) for note in network.origin.notes]
    if network.calibration is not None:
        fitted = network.calibration
        lines.append(("temperature", f"{fitted.temperature:.3f}, of {fitted.num_images:,} images of {fitted.dataset}"))
    record = network.training_record
    if record is not None:
        lines += [
            ("trained on", f"{d['train']:,} images of {printable(d['name'])}, {printable(d['description'])}")
            for d in record["datasets"]
        ]
        lines.append(("epochs", f"{len(record['history'])}, kept is {record['best_epoch']}"))
        lines += [
            (
                f"{printable(r['dataset'])} {printable(r['split'])}",
                f"accuracy {r['accuracy']:.4f}, macro-F1 {r['macro_f1']:.4f} ({r['num_images']:,} images)",
            )
            for r in record["results"]
            if "variant" not in r
        ]
    width = max(len(name) for name, _ in lines)
    print("\n".join(f"{name:<{width}}  {text}" for name, text in lines))


def summary(model: Annotated[str, tyro.conf.Positional] = str(SHIPPED), image_size: int | None = None) -> None:
    """Every layer with output shape, parameters and what it reads.

    Args:
        model: Checkpoint folder or Hub id, or anything else that `resnet-hub convert` takes.
        image_size: Side of the input in px; default: the model's own.
    """
    from resnet_hub.convert import read

    print(read(_checked_model(model)).summary(image_size))


def convert(
    source: Annotated[str, tyro.conf.Positional],
    folder: Annotated[Path, tyro.conf.Positional],
    label_names: tuple[str, ...] | None = None,
    new_head: bool = False,
) -> None:
    """Make a checkpoint folder of a network from torchvision, timm, transformers or Keras.

    Args:
        source: Folder or Hub id of timm or transformers; a name such as resnet50.a1_in1k or
            ResNet50_Weights.IMAGENET1K_V2; torchvision's state dict as .safetensors; the course's network as .h5 or
            .keras.
        folder: The checkpoint folder to make.
        label_names: What the classes are called, where the source does not say.
        new_head: Replace the classifier by an untrained one for label_names.
    """
    from resnet_hub.convert import load

    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is there already: choose another folder")
    network = load(source, label_names=label_names, new_head=new_head)
    network.save_pretrained(folder)
    if network.origin is not None and not network.origin.has_label_names:
        known = ", ".join(network.label_names[:5])
        print(f"{source} does not name its classes, which are {known}, ... now: --label-names does", file=sys.stderr)
    print(folder)


def export(
    model: Annotated[str, tyro.conf.Positional] = str(SHIPPED),
    format: Literal["onnx", "openvino"] = "onnx",
    output: Path | None = None,
    precision: Literal["fp32", "int8"] = "fp32",
    training_images: tuple[str, ...] = (),
) -> None:
    """Write a checkpoint as ONNX or OpenVINO IR, for programs without PyTorch.

    Args:
        model: Checkpoint folder or Hub id, or anything else that `resnet-hub convert` takes.
        format: onnx: one .onnx file. openvino: an .xml file and its weights, .bin.
        output: The .onnx or .xml file; default: model.onnx or model.xml here.
        precision: int8 is faster, less exact, for OpenVINO only, and needs --training-images.
        training_images: Files or folders of images like those of the training, of which int8 is fitted to 300.
    """
    from resnet_hub.convert import read
    from resnet_hub.export import export_checkpoint

    fitted_to = _training_images(precision, training_images)
    with _of_training_images():
        print(export_checkpoint(read(_checked_model(model)), format, output, fitted_to))


def push(
    folder: Annotated[Path, tyro.conf.Positional], repo_id: Annotated[str, tyro.conf.Positional], private: bool = False
) -> None:
    """Publish a checkpoint folder on the Hub, after `hf auth login`.

    Args:
        folder: Checkpoint folder, as training or `resnet-hub convert` leaves it.
        repo_id: Such as me/my-model; made where it does not exist.
        private: Make it a private one, where it is made.
    """
    from resnet_hub.upload import push_checkpoint

    print(push_checkpoint(folder, repo_id, private=private or None))
