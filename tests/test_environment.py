"""What a run finds out about the machine that it runs on."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from train import environment


@pytest.mark.parametrize(
    ("requested", "launcher", "fast", "chosen"),
    [
        ("auto", None, True, "bf16"),
        ("auto", None, False, "no"),
        ("auto", "no", True, "bf16"),  # what accelerate launch says when it was told nothing
        ("auto", "fp16", True, "fp16"),
        ("no", "bf16", True, "no"),
    ],
)
def test_precision_is_what_was_asked_for_or_else_what_is_fast(monkeypatch, requested, launcher, fast, chosen):
    monkeypatch.setattr(environment, "computes_bf16_fast", lambda: fast)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launcher is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert environment.choose_mixed_precision(requested) == chosen


STEPS = """
import resource, sys
import torch
from train import environment
accelerator = environment.make_accelerator("no")
if sys.argv[1] == "keep":
    environment.keep_memory(accelerator)
def step():
    torch.ones(2**24).add(1)  # 64 MB each
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this system's memory is not given out by glibc")
def test_a_step_gets_its_memory_from_the_step_before_and_not_from_the_system():
    command = [sys.executable, "-c", STEPS]
    root = Path(__file__).parents[1]
    faults = {
        told: int(subprocess.check_output([*command, told], cwd=root, timeout=120)) for told in ("keep", "as it is")
    }
    assert faults["keep"] < faults["as it is"] / 4  # some are asked for in the first steps
