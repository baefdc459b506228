"""What programs may ask of the page: ``gradio_client`` and ``/gradio_api`` list these endpoints with their types."""

from typing import Any

import gradio as gr
from PIL import Image

from resnet_hub.demo import answers
from resnet_hub.demo.models import ModelLibrary
from resnet_hub.demo.queueing import BULK, LIGHT, ONE_AT_A_TIME, TOGETHER
from resnet_hub.demo.uploads import read_upload
from resnet_hub.errors import ImageError, ResNetHubError
from resnet_hub.explain import STAGES, default_stage, grad_cam, overlay
from resnet_hub.images import open_image
from resnet_hub.predictor import Predictor

#: Pictures in one call of ``/classify_batch``.
MAX_BATCH = 64


def endpoints(library: ModelLibrary) -> None:
    """Declare them, inside a ``gr.Blocks``."""

    def checked(name: str | None) -> Predictor:
        return _told(library.get, name)

    def classify(image: dict[str, Any] | None, model: str | None = None) -> dict[str, float]:
        """The probability of each class, best first, of an image file."""
        predictor = checked(model)
        [answer] = _told(predictor.answer, [_told(_read, image)], len(predictor.label_names))
        return answers.as_probabilities(answer.predictions)

    def classify_batch(files: list[dict[str, Any]] | None, model: str | None = None) -> list[dict[str, Any]]:
        """The best classes of several image files, in their order; in place of a broken one its error."""
        if not files or len(files) > MAX_BATCH:
            raise gr.Error(f"Send 1 to {MAX_BATCH} files.", print_exception=False)
        predictor = checked(model)

        def load(file: dict[str, Any]) -> Any:
            try:
                return predictor.load(_read(file))
            except ImageError as error:
                return error

        loaded = list(predictor.readers.map(load, files))
        found = iter(predictor.answer([image for image in loaded if not isinstance(image, ImageError)]))
        return [
            {"error": str(image)}
            if isinstance(image, ImageError)
            else {"predictions": (answer := next(found)).predictions, "is_unfamiliar": answer.is_unfamiliar}
            for image in loaded
        ]

    def explain(
        image: dict[str, Any] | None, label: str | None = None, stage: str | None = None, model: str | None = None
    ) -> Any:
        """The image under a heatmap of what speaks for a class (default: the most probable one) in a stage."""
        predictor = checked(model)
        picture = _told(_open, image)
        label = label or predictor(picture, top_k=1)[0]["label"]
        if label not in predictor.label_names:
            raise gr.Error(f"The classes are {', '.join(predictor.label_names[:20])}.", print_exception=False)
        network = predictor.model
        pixels = network.preprocessing([picture]).to(predictor.device)
        stage = stage or default_stage(network.image_size)
        heatmap = _told(grad_cam, network, pixels, network.label_names.index(label), stage)
        picture.thumbnail((answers.INLINE_SIDE, answers.INLINE_SIDE))
        return overlay(picture, heatmap)

    def models() -> list[dict[str, Any]]:
        """The models that are served: name, architecture, classes, image size."""
        return [_describe(name, library.get(name)) for name in library.names]

    # Components that are only here to give the endpoints their types.
    image = gr.Image(visible=False, type="filepath", label="image")
    files = gr.File(visible=False, file_count="multiple", label="files")
    model = gr.Textbox(library.default, visible=False, label="model")
    label, stage = gr.Textbox("", visible=False, label="label"), gr.Textbox("", visible=False, label=", ".join(STAGES))
    probabilities, heatmap = gr.Label(visible=False), gr.Image(visible=False, format="png")
    rows = gr.JSON(visible=False)
    raw = {"preprocess": False}
    gr.on([], classify, [image, model], probabilities, api_name="classify", **raw, **TOGETHER)
    gr.on([], classify_batch, [files, model], rows, api_name="classify_batch", **raw, **BULK)
    gr.on([], explain, [image, label, stage, model], heatmap, api_name="explain", **raw, **ONE_AT_A_TIME)
    gr.on([], models, None, rows, api_name="models", **LIGHT)


def _read(upload: dict[str, Any] | None) -> bytes:
    if upload is None:
        raise ImageError("there is no picture in the request: send a file")
    return read_upload(upload)


def _open(upload: dict[str, Any] | None) -> Image.Image:
    return open_image(_read(upload))


def _told(function: Any, *arguments: Any) -> Any:
    """What the function gives; what users can mend is told to them."""
    try:
        return function(*arguments)
    except ResNetHubError as error:
        raise gr.Error(answers.sentence(error), duration=answers.TOAST_SECONDS, print_exception=False) from error


def _describe(name: str, predictor: Predictor) -> dict[str, Any]:
    network = predictor.model
    return {
        "name": name,
        "architecture": network.architecture,
        "label_names": network.label_names,
        "image_size": network.image_size,
        "is_calibrated": network.calibration is not None,
    }
