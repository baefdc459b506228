"""What a run finds out about the machine that it runs on."""

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
