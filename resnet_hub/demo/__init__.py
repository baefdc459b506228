"""The web page: one file per page, assembled here into one Gradio app."""

import gradio as gr

from resnet_hub.demo import api, batch, classify, compare, inspection
from resnet_hub.demo.feedback import FeedbackStore
from resnet_hub.demo.models import ModelLibrary
from resnet_hub.demo.samples import SampleLibrary


def build_demo(library: ModelLibrary, samples: SampleLibrary, feedback: FeedbackStore | None = None) -> gr.Blocks:
    """The pages; :mod:`resnet_hub.demo.server` has what is around them."""
    with gr.Blocks(title=classify.title(library.get(None)), analytics_enabled=False) as demo:
        _navigation()
        classify.page(library, samples, feedback)
        api.endpoints(library)
    with demo.route("Compare", "compare"):
        _navigation()
        compare.page(library)
    with demo.route("Inspect", "inspect"):
        _navigation()
        inspection.page(demo, library, inspection.PicturesOfTests())
    with demo.route("Batch", "batch"):
        _navigation()
        batch.page(library)
    return demo


def _navigation() -> None:
    gr.Navbar(main_page_name="Classify")  # on every page, or the first one is called "Home" there
