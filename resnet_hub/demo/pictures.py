"""What pages share: a picture to read, a model to read it with, and a look into the network while it does."""

import html
import time

import gradio as gr
from PIL import Image

from resnet_hub.demo import answers
from resnet_hub.demo.models import ModelLibrary
from resnet_hub.explain import default_stage, grad_cam, overlay
from resnet_hub.predictor import Predictor


def picture_input() -> gr.Image:
    return gr.Image(
        label="Picture",
        sources=["upload", "webcam", "clipboard"],
        type="filepath",
        image_mode=None,
        buttons=[],
        alt_text="The picture to classify",
        elem_id="picture",
    )


def model_choice(library: ModelLibrary, elem_id: str) -> gr.Dropdown:
    """Hidden where there is no choice."""
    return gr.Dropdown(
        library.names,
        value=library.default,
        allow_custom_value=library.allow_hub,
        visible=len(library.names) > 1 or library.allow_hub,
        label="Model",
        info="Or type the id of a Hub model and press Enter." if library.allow_hub else None,
        elem_id=elem_id,
    )


def look_inside(predictor: Predictor, image: Image.Image, label: str, stage: str | None) -> tuple[str, str]:
    """What the network sees, and where it looks for a class, as HTML.

    Args:
        image: RGB, as decoded.
        label: One of the model's label names.
        stage: Of :data:`resnet_hub.explain.STAGES`; default: the last one that says where.
    """
    model = predictor.model
    start = time.perf_counter()
    seen = model.preprocessing.resize(image)
    stage = stage or default_stage(model.image_size)
    pixels = model.preprocessing([image]).to(predictor.device)
    heatmap = grad_cam(model, pixels, model.label_names.index(label), stage)
    seconds = time.perf_counter() - start
    # In large square pixels, as it is: smoothing would show detail that the network does not get.
    factor = max(1, answers.INLINE_SIDE // model.image_size)
    enlarged = seen.resize((seen.width * factor, seen.height * factor), Image.Resampling.NEAREST)
    caption = f"Speaks for {label}, {stage} ({heatmap.shape[1]} × {heatmap.shape[0]} places)"  # noqa: RUF001
    shown = image.copy()
    shown.thumbnail((answers.INLINE_SIDE, answers.INLINE_SIDE))
    return (
        _figure(enlarged, f"What the network sees: {model.image_size} × {model.image_size} px"),  # noqa: RUF001
        _figure(overlay(shown, heatmap), f"{caption}, {answers.milliseconds(seconds)}"),
    )


def _figure(image: Image.Image, caption: str) -> str:
    return f"<figure>{answers.inline(image, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"
