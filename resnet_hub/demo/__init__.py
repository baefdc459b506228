"""The web page: one file per page, all of them built here into one Gradio app."""

import gradio as gr

from resnet_hub.demo import classify
from resnet_hub.demo.theme import CSS, THEME
from resnet_hub.hub import ResNetForImageClassification
from resnet_hub.predictor import Predictor

__all__ = ["CSS", "THEME", "build_demo"]

#: Uploads older than an hour are looked for every ten minutes and deleted.
DELETE_CACHE = (600, 3600)


def build_demo(predictor: Predictor) -> gr.Blocks:
    """The app around one loaded model, ready to launch (with :data:`THEME` and :data:`CSS`)."""
    with gr.Blocks(title=f"{predictor.model.display_name} · resnet_hub", delete_cache=DELETE_CACHE) as demo:
        classify.page(predictor)
        gr.Markdown(model_facts(predictor.model), elem_id="model-facts")
    return demo
