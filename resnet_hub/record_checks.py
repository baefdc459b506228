"""Whether a ``training.json`` is one: its values are shown in cards and on the page, and may be a stranger's."""

from collections.abc import Callable
from typing import Any

from resnet_hub.errors import CheckpointError

MAX_TEXT = 2000
MAX_ENTRIES = 500
MAX_EPOCHS = 100_000
#: Images, seconds, losses: nothing that is measured here comes near it.
MAX_NUMBER = 1e15

MAX_DEPTH = 4

#: Takes a value and its name for messages, returns what is kept of the value.
Check = Callable[[Any, str], Any]


def checked_record(content: dict[str, Any], num_classes: int | None = None) -> dict[str, Any]:
    """``content`` as a training record (``checkpoint.TrainingRecord``) of a model with ``num_classes`` classes.

    Raises:
        CheckpointError: something is missing, of another type, or of a size that no training has; the message says
            what, but not in which file.
    """
    record = _RECORD(content, "")
    _require(len(record["history"]) > 0, "history", "a list of at least one epoch")
    _require(record["best_epoch"] in [epoch["epoch"] for epoch in record["history"]], "best_epoch", "one of history's")
    for i, result in enumerate(record["results"]):
        if "variant" in result:
            continue
        sides = len(result.get("confusion_matrix", []))
        _require(
            sides > 0 and num_classes in (None, sides),
            f"results[{i}].confusion_matrix",
            "there, with a row for each class",
        )
    return record


def _require(condition: bool, name: str, should: str) -> None:
    if not condition:
        raise CheckpointError(f"{name} must be {should}")


def _text(value: Any, name: str) -> str:
    _require(isinstance(value, str) and len(value) <= MAX_TEXT, name, f"text of at most {MAX_TEXT} characters")
    return value


def _count(value: Any, name: str) -> int:
    _require(type(value) is int and 0 <= value <= MAX_NUMBER, name, "a whole number from 0")
    return value


def _amount(value: Any, name: str) -> float:
    _require(type(value) in (int, float) and 0 <= value <= MAX_NUMBER, name, "a number from 0")
    return value


def _fraction(value: Any, name: str) -> float:
    _require(type(value) in (int, float) and 0 <= value <= 1, name, "a number from 0 to 1")
    return value


def _plain_value(value: Any, name: str, depth: int = MAX_DEPTH) -> Any:
    """Any JSON that is neither deep nor long: an option's value, or what another version records."""
    if isinstance(value, (list, dict)):
        _require(depth > 0 and len(value) <= MAX_ENTRIES, name, f"of at most {MAX_ENTRIES} entries, {MAX_DEPTH} deep")
        if isinstance(value, list):
            return [_plain_value(v, name, depth - 1) for v in value]
        return {_text(key, f"{name}, each name,"): _plain_value(v, name, depth - 1) for key, v in value.items()}
    if isinstance(value, str):
        return _text(value, name)
    is_number = type(value) in (int, float) and abs(value) <= MAX_NUMBER
    _require(value is None or isinstance(value, bool) or is_number, name, "text, a truth value or a number")
    return value


def _matrix(value: Any, name: str) -> list[list[int]]:
    _require(isinstance(value, list) and all(isinstance(row, list) for row in value), name, "a list of rows")
    for row in value:
        _require(len(row) == len(value), name, "square")
        for count in row:
            _count(count, f"{name}, each number,")
    return value


def _table(of: Check) -> Check:
    """A mapping from names to values that ``of`` accepts."""

    def check(value: Any, name: str) -> dict[str, Any]:
        _require(isinstance(value, dict) and len(value) <= MAX_ENTRIES, name, f"a mapping of at most {MAX_ENTRIES}")
        return {_text(key, f"{name}, each name,"): of(v, f"{name}.{key[:40]}") for key, v in value.items()}

    return check


def _list(of: Check, maximum: int = MAX_ENTRIES) -> Check:
    def check(value: Any, name: str) -> list[Any]:
        _require(isinstance(value, list) and len(value) <= maximum, name, f"a list of at most {maximum}")
        return [of(v, f"{name}[{i}]") for i, v in enumerate(value)]

    return check


def _optional(of: Check) -> Check:
    return lambda value, name: None if value is None else of(value, name)


def _fields(required: dict[str, Check], optional: dict[str, Check] | None = None) -> Check:
    """A mapping with at least the ``required`` names."""

    def check(value: Any, name: str) -> dict[str, Any]:
        _require(isinstance(value, dict), name or "the record", "a mapping")
        prefix = f"{name}." if name else ""
        missing = [key for key in required if key not in value]
        _require(not missing, f"{prefix}{missing[0] if missing else ''}", "there")
        known = required | (optional or {})
        return {_text(key, name): known.get(key, _plain_value)(v, f"{prefix}{key[:40]}") for key, v in value.items()}

    return check


_METRICS: dict[str, Check] = {
    "loss": _amount,
    "accuracy": _fraction,
    "macro_f1": _fraction,
    "num_images": _count,
}
_PASS = _fields(_METRICS)
_RECORD = _fields(
    {
        "recipe": _table(_plain_value),
        "datasets": _list(
            _fields(
                {"name": _text, "description": _text, "train": _count, "validation": _count, "test": _count},
                {"test_in_train": _count},
            )
        ),
        "versions": _table(_text),
        "hardware": _table(_plain_value),
        "commit": _optional(_text),
        "history": _list(
            _fields(
                {
                    "epoch": _count,
                    "learning_rate": _amount,
                    "train": _PASS,
                    "validation": _optional(_PASS),
                    "seconds": _amount,
                },
                {"data_wait": _amount},
            ),
            MAX_EPOCHS,
        ),
        "best_epoch": _count,
        "results": _list(
            _fields(
                {"dataset": _text, "split": _text, **_METRICS},
                {
                    "variant": _text,
                    "confusion_matrix": _matrix,
                    "calibration_error": _fraction,
                    "unfamiliar": _fraction,
                },
            )
        ),
    }
)
