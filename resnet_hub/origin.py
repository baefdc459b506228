"""Where converted weights come from, kept in ``config.json`` so that the card says it as long as they live."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from resnet_hub.errors import ConfigurationError

#: Far more than any conversion has to say.
MAX_NOTES = 10
MAX_LENGTH = 1000


@dataclass(frozen=True)
class Origin:
    """What a checkpoint was before it was one.

    Attributes:
        source: The Hub id, or the name of the folder or file.
        library: Whose format that was: ``"torchvision"``, ``"timm"``, ``"transformers"`` or ``"Keras"``.
        has_label_names: Whether it said what its classes are called; else they are ``"0"``, ``"1"``, ...
        notes: Sentences on what is not as it was there, such as how images are preprocessed.

    Raises:
        ConfigurationError: texts or notes without measure.
    """

    source: str
    library: str
    has_label_names: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.notes) > MAX_NOTES or any(
            len(text) > MAX_LENGTH for text in (self.source, self.library, *self.notes)
        ):
            raise ConfigurationError(
                f"origin has texts of more than {MAX_LENGTH} characters, or more than {MAX_NOTES} notes: shorten them"
            )

    def with_note(self, note: str) -> Self:
        return replace(self, notes=(*self.notes, note))

    def to_config(self) -> dict[str, Any]:
        return asdict(self) | {"notes": list(self.notes)}

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """From ``config.json``, whose every value is untrusted. Raises ``ConfigurationError``."""
        kinds = {"source": str, "library": str, "has_label_names": bool, "notes": list}
        if not (
            isinstance(config, dict)
            and config.keys() == kinds.keys()
            and all(isinstance(config[name], kind) for name, kind in kinds.items())
            and all(isinstance(note, str) for note in config["notes"])
        ):
            raise ConfigurationError(f"origin must have texts under the names {', '.join(kinds)}")
        return cls(**config | {"notes": tuple(config["notes"])})


def name_of(source: str | Path) -> str:
    """What records call it: of a file or folder its own name, for where it lies is nobody's business."""
    path = Path(source)
    return path.resolve().name if path.exists() else str(source)
