"""The Compare page: one picture, several models side by side."""

import html
import time
from typing import Any

import gradio as gr

from resnet_hub.card import network_name
from resnet_hub.demo import answers, help
from resnet_hub.demo.models import ModelLibrary
from resnet_hub.demo.pictures import look_inside, picture_input
from resnet_hub.demo.queueing import ONE_AT_A_TIME
from resnet_hub.demo.uploads import open_upload
from resnet_hub.errors import ResNetHubError

INVITATION = "<p class='hint'>Add a picture: the answers of all chosen models appear here.</p>"
MAX_MODELS = 4


def page(library: ModelLibrary) -> None:
    """Lay out the page and wire it, inside a page of a ``gr.Blocks``."""

    def compare(upload: dict[str, Any] | None, names: list[str] | None) -> str:
        """A card for each model; one that cannot be loaded says so in its place."""
        if upload is None:
            return INVITATION
        if not names:
            return "<p class='hint'>Choose at least one model.</p>"
        try:
            image = open_upload(upload)
        except ResNetHubError as error:
            answers.warn(error)
            return INVITATION
        return f"<div class='cards'>{''.join(card(library, name, image) for name in names[:MAX_MODELS])}</div>"

    gr.Markdown("# Compare\nOne picture, and what several models say of it.", elem_classes="intro")
    with gr.Row(elem_classes="workbench"):
        image = picture_input()
        with gr.Column(elem_classes="sheet"):
            names = gr.Dropdown(
                library.names,
                value=library.names[:MAX_MODELS],
                multiselect=True,
                max_choices=MAX_MODELS,
                allow_custom_value=library.allow_hub,
                label="Models",
                info=f"Up to {MAX_MODELS}." + (" Or type a Hub id." if library.allow_hub else ""),
                elem_id="models",
            )
            gr.Markdown(f"{help.TOP_K}\n\n{help.HEATMAP}", elem_classes="help")
    result = gr.HTML(INVITATION, apply_default_css=False, elem_id="comparison")
    gr.on(
        [image.change, names.change],
        compare,
        [image, names],
        result,
        preprocess=False,
        show_progress="minimal",
        api_visibility="private",
        **ONE_AT_A_TIME,
    )


def card(library: ModelLibrary, name: str, image: Any) -> str:
    """What one model says of the picture, as HTML."""
    title = f"<h2>{html.escape(name)}</h2>"
    try:
        predictor = library.get(name)
    except ResNetHubError as error:
        return f"<section class='card'>{title}<p>{html.escape(answers.sentence(error))}</p></section>"
    start = time.perf_counter()
    answer = predictor.answer([image])[0]
    seconds = time.perf_counter() - start
    best = answer.predictions[0]["label"]
    _, heatmap = look_inside(predictor, image, best, None)
    unfamiliar = "<p>Unlike its training pictures: a guess.</p>" if answer.is_unfamiliar else ""
    facts = f"{network_name(predictor.model.to_config())}, {predictor.model.image_size} px"
    return (
        f"<section class='card'>{title}<p class='answer'>{html.escape(best)}</p>{answers.bars(answer)}{unfamiliar}"
        f"{heatmap}<p><small>{facts}, {answers.milliseconds(seconds)}</small></p></section>"
    )
