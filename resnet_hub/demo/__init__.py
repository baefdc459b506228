"""The web page: one file per page, assembled here into one Gradio app."""

import gradio as gr

from resnet_hub.card import plain
from resnet_hub.demo import classify
from resnet_hub.hub import ResNetForImageClassification
from resnet_hub.predictor import Predictor

#: Seconds: every ten minutes, files that are older than an hour are deleted.
DELETE_CACHE = (600, 3600)


def build_demo(predictor: Predictor) -> gr.Blocks:
    """The app around one loaded model; launch it with the ``THEME`` and ``CSS`` of :mod:`resnet_hub.demo.theme`."""
    with gr.Blocks(title=classify.title(predictor), analytics_enabled=False, delete_cache=DELETE_CACHE) as demo:
        classify.page(predictor)
        gr.Markdown(model_facts(predictor.model), elem_id="model-facts")
    return demo


def model_facts(model: ResNetForImageClassification) -> str:
    """What the page's last line says of the model, as Markdown: what it is and, where that is known, how good."""
    facts = [
        model.architecture.replace("resnet", "ResNet-"),
        f"{model.num_classes} classes",
        f"images of {model.image_size} × {model.image_size} px",  # noqa: RUF001
    ]
    results = model.training_record["results"] if model.training_record else []
    for result in (r for r in results if r["split"] == "test"):
        facts.append(
            f"**{result['accuracy']:.1%}** accuracy and {result['macro_f1']:.3f} macro-F1 "
            f"on the {result['num_images']:,} images of {plain(result['dataset'])} ({result['split']})"
        )
    return " · ".join(facts)
