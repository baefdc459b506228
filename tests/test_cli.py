"""``resnet-hub`` as a shell user meets it: what goes to stdout and stderr, and how it ends."""

import csv
import functools
import http.server
import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from other_libraries import NAMES, keras_file
from PIL import Image

import resnet_hub
from resnet_hub import Predictor, cli, drawn_signs


def run(*arguments: object, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "resnet_hub", *map(str, arguments)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def hands(tmp_path) -> Path:
    """A folder with three images, one of them below another folder, and one file that is none."""
    folder = tmp_path / "hands"
    (folder / "more").mkdir(parents=True)
    for name, label in [("a.png", 1), ("b.jpg", 4), ("more/c.png", 5)]:
        drawn_signs.draw_sign(label, 3, image_size=96).save(folder / name)
    (folder / "broken.png").write_text("no image")
    (folder / "notes.txt").write_text("not asked for")
    return folder


def test_a_folder_becomes_csv_and_a_broken_image_is_a_row_with_its_error(hands, tiny_checkpoint, tmp_path):
    table = tmp_path / "out" / "predictions.csv"
    options = ("--model", tiny_checkpoint, "--format", "csv", "--top-k", 2, "--output", table)
    done = run("predict", hands, *options, code=1)
    assert done.stdout == ""
    assert "1 of 4 images could not be read" in done.stderr
    rows = list(csv.DictReader(table.open()))
    assert list(rows[0]) == ["file", "label", "score", "label_2", "score_2", "is_unfamiliar", "error"]
    assert [Path(row["file"]).name for row in rows] == ["a.png", "b.jpg", "broken.png", "c.png"]
    predictor = Predictor(tiny_checkpoint)
    for row in rows:
        if row["error"]:
            assert "this is no image" in row["error"]
            continue
        first, second = predictor(row["file"], top_k=2)
        assert (row["label"], row["label_2"]) == (first["label"], second["label"])
        assert float(row["score"]) == pytest.approx(first["score"], abs=1e-3)


def test_int8_is_fitted_to_the_images_of_a_folder(hands, tiny_checkpoint, tmp_path):
    pytest.importorskip("nncf")
    (hands / "broken.png").unlink()
    options = ("--precision", "int8", "--training-images", hands, "--format", "jsonl")
    rows = run("predict", hands, "--model", tiny_checkpoint, *options).stdout.splitlines()
    predictor = Predictor(tiny_checkpoint, precision="fp32")
    assert len(rows) == 3
    for row in map(json.loads, rows):
        assert row["predictions"][0]["label"] == predictor(row["file"])[0]["label"]


def test_a_broken_training_image_is_named(hands, tiny_checkpoint):
    pytest.importorskip("nncf")
    options = ("--model", tiny_checkpoint, "--precision", "int8", "--training-images", hands)
    done = run("predict", hands / "a.png", *options, code=2)
    assert "error: --training-images: " in done.stderr
    assert "broken.png" in done.stderr


@pytest.mark.parametrize("options", [("--precision", "int8"), ("--training-images", "photos")])
@pytest.mark.parametrize("command", [("predict", "a.png"), ("export",)])
def test_int8_and_training_images_go_together(command, options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["resnet-hub", *command, *options])
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "--precision int8 and --training-images go together" in capsys.readouterr().err


def test_json_lines_go_to_stdout_and_nothing_else_does(hands, tiny_checkpoint):
    done = run("predict", hands / "a.png", hands / "gone.png", "-m", tiny_checkpoint, "--format", "jsonl", code=1)
    first, second = map(json.loads, done.stdout.splitlines())
    [best] = Predictor(tiny_checkpoint)(hands / "a.png", top_k=1)
    assert first["predictions"] == [{"label": best["label"], "score": pytest.approx(best["score"], abs=1e-5)}]
    assert first["is_unfamiliar"] is None
    assert second == {"file": str(hands / "gone.png"), "error": "there is no such file: check the path"}


def test_people_read_a_line_for_each_image(hands, tiny_checkpoint):
    done = run("predict", hands / "a.png", "--model", tiny_checkpoint, "--top-k", 99)
    assert done.stdout.startswith(f"{hands / 'a.png'}: ")
    assert done.stdout.count("%") == 6


def test_an_address_is_fetched(hands, tiny_checkpoint):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=hands)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = run("predict", f"{address}/a.png", f"{address}/gone.png", "-m", tiny_checkpoint, code=1)
        server.shutdown()
    assert done.stdout.startswith(f"{address}/a.png: ")
    assert f"{address}/gone.png: error: cannot be fetched (HTTP Error 404" in done.stderr


def test_thousands_of_images_stream(tiny_checkpoint, tmp_path, monkeypatch):
    """Answers are written while later images are still unread."""
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    read = []
    predictor = Predictor(tiny_checkpoint)
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or path.open("rb").read())
    answers = cli._answers(predictor, [str(tmp_path / "x.png")] * 1000, 1)
    next(answers)
    assert len(read) == cli.BATCH_SIZE


def test_a_reader_that_has_seen_enough_is_no_error(hands, tiny_checkpoint):
    command = f"{sys.executable} -m resnet_hub predict {' '.join([str(hands / 'a.png')] * 80)} -m {tiny_checkpoint}"
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -1"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("predict", "{empty}", "-m", "{model}"), "there is no image below"),
        (("predict", "gone.png", "lost.png", "-m", "{model}"), "there is no gone.png and no lost.png: check the path"),
        (("predict", "{image}", "-m", "no/such/folder"), "there is no folder no/such/folder"),
        (("predict", "{image}", "-m", "{model}", "--top-k", "0"), "--top-k must be at least 1"),
        (("predict", "{image}", "-m", "{model}", "--output", "{image}/x.csv"), "cannot be written"),
        (("summary", "{model}", "--image-size", "16"), "at least 32 px"),
        (("info", "{empty}"), "has no config.json"),
        (("push", "{empty}", "me/model"), "has no config.json"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(arguments, reason, hands, tiny_checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "image": hands / "a.png", "model": tiny_checkpoint}
    done = run(*(argument.format(**places) for argument in arguments), code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_unknown_options_and_commands_exit_with_2(tiny_checkpoint):
    run("predict", "x.png", "--modell", "y", code=2)
    run("prophesy", code=2)


def test_info_says_what_it_is_and_what_it_measured(hands_and_animals):
    text = run("info", hands_and_animals[0]).stdout
    assert "resnet50, " in text
    assert "accuracy 0.7500, macro-F1 0.7333 (4 images)" in text
    assert "temperature" in text


def test_convert_makes_a_checkpoint_folder_of_what_others_have(tmp_path):
    source, folder = keras_file(tmp_path / "ResNet50.h5", named=True).source, tmp_path / "runs" / "course"
    done = run("convert", source, folder, "--label-names", *NAMES)
    assert done.stdout == f"{folder}\n"
    assert "pixels are taken from 0 to 1" in done.stderr
    text = run("info", folder).stdout
    assert "resnet50 as keras has it" in text
    assert "ResNet50.h5 of Keras" in text
    assert "3: nil, one, two" in text
    done = run("convert", source, folder, code=2)
    assert done.stderr == f"error: {folder} is there already: choose another folder\n"


def test_summary_is_the_models_table(tiny_checkpoint):
    text = run("summary", tiny_checkpoint).stdout
    assert "layer1.0.conv1 (Conv2d)" in text


def test_an_output_file_is_of_the_format_that_its_name_says(hands, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_checked_model", lambda _: str(tiny_checkpoint))
    for name in ("answers.csv", "answers.jsonl", "answers.txt"):
        cli.predict([str(hands / "a.png")], output=tmp_path / name)
    assert len(list(csv.DictReader((tmp_path / "answers.csv").open()))) == 1
    assert json.loads((tmp_path / "answers.jsonl").read_text())["file"] == str(hands / "a.png")
    assert (tmp_path / "answers.txt").read_text().startswith(f"{hands / 'a.png'}: ")


def test_without_an_image_predict_asks_for_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["resnet-hub", "predict"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "say which images" in capsys.readouterr().err


def test_it_knows_its_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["resnet-hub", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"resnet-hub {resnet_hub.__version__}\n"


def test_labels_of_strangers_do_not_command_the_terminal():
    stream = io.StringIO()
    row = cli.Row("a\x1b[31m.png", [{"label": "\x1b]0;title\x07x", "score": 0.5}], None, None)
    cli._write_text(stream, 1)(row)
    assert "\x1b" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
