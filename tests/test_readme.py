"""What the README shows can be pasted."""

import re
import subprocess
import sys
from pathlib import Path

import gradio
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
#: What a machine without the Hub, or without the page running, cannot do.
NEEDS_A_SERVER = ("me/", "Client(")


@pytest.mark.parametrize("code", [c for c in PYTHON if not any(word in c.split("#")[0] for word in NEEDS_A_SERVER)])
def test_python_examples_run(code, tmp_path):
    (tmp_path / "models").symlink_to(ROOT / "models")
    environment_path = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    result = subprocess.run(
        [sys.executable, "-c", environment_path + code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("code", PYTHON)
def test_python_examples_compile(code):
    compile(code, "README.md", "exec")


def test_files_and_pictures_that_it_names_exist():
    table = README[README.index("## What is where") :]
    named = re.findall(r"`((?:resnet_hub|train|models)/[\w./-]*|app\.py)`", table) + re.findall(
        r"\]\((docs/.*?)\)", README
    )
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_two_commands_stand_in_it_and_ci_runs_the_second():
    assert "\npip install -r requirements.txt && python app.py\n" in README
    assert "\npip install -r requirements-dev.txt && python -m pytest\n" in README
    assert "python -m pytest\n" in (ROOT / ".ci" / "run").read_text()


def test_the_space_pins_the_gradio_that_is_tested():
    front_matter = yaml.safe_load(README.split("---")[1])
    assert front_matter["sdk"] == "gradio"
    assert (ROOT / front_matter["app_file"]).is_file()
    major_minor = gradio.__version__.split(".")[:2]
    assert front_matter["sdk_version"].split(".")[0] == major_minor[0]
