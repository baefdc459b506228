"""The Classify page: a picture in, the probability of each class out."""

import html
import time
from typing import Any

import gradio as gr

from resnet_hub import drawn_signs
from resnet_hub.card import plain
from resnet_hub.demo.samples import SampleSet, sample_sets
from resnet_hub.demo.uploads import open_upload
from resnet_hub.errors import ImageError
from resnet_hub.predictor import Prediction, Predictor

#: Below this probability the answer is given as a doubt.
SURE_FROM = 0.7
#: Of each class, where all classes are shown; one class alone shows all that there are.
SAMPLES_PER_CLASS = 4
ALL = "All"

INVITATION = "Add a picture, or pick one below. The answer appears here at once."
TOAST_SECONDS = 5
#: On a phone the answer stands above the samples, out of sight; where it is in sight, this does nothing.
SHOW_WORKBENCH = "() => document.getElementById('workbench').scrollIntoView({block: 'nearest'})"
#: Two passes through the network at a time take longer than one after the other, each using all cores.
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "inference"}


def page(predictor: Predictor) -> None:
    """Lay out the page and wire it, inside a ``gr.Blocks``."""

    def answer(upload: dict[str, Any] | None) -> tuple[Any, dict[str, float], str]:
        """For the page: an unreadable picture becomes a message, and goes, and with it the last answer."""
        if upload is None:
            return gr.skip(), {}, INVITATION
        start = time.perf_counter()
        try:
            predictions = predictor(open_upload(upload), top_k=len(predictor.label_names))
        except ImageError as error:
            gr.Warning(html.escape(_sentence(error)), duration=TOAST_SECONDS)
            return None, {}, INVITATION
        return gr.skip(), _probabilities(predictions), _verdict(predictions, time.perf_counter() - start)

    def classify_endpoint(image: dict[str, Any] | None) -> dict[str, float]:
        """The probability of each class, best first, of an image file."""
        try:
            if image is None:
                raise ImageError("there is no picture in the request: send a file")
            return _probabilities(predictor(open_upload(image), top_k=len(predictor.label_names)))
        except ImageError as error:
            raise gr.Error(_sentence(error), duration=TOAST_SECONDS, print_exception=False) from error

    gr.Markdown(f"# {title(predictor)}\n{_introduction(predictor)}", elem_id="intro")
    with gr.Row(elem_id="workbench", equal_height=True):
        image = gr.Image(
            label="Picture",
            sources=["upload", "webcam", "clipboard"],
            type="filepath",
            image_mode=None,
            buttons=[],
            alt_text="The picture to classify",
            elem_id="picture",
        )
        with gr.Column(elem_id="result"):
            label = gr.Label(label="Answer", container=False, elem_id="answer")
            verdict = gr.Markdown(INVITATION, elem_id="verdict")

    # `change` comes with every way to set a picture: upload, paste, webcam, a sample, and taking it away.
    image.change(
        answer,
        image,
        [image, label, verdict],
        preprocess=False,
        show_progress="minimal",
        show_progress_on=label,
        api_visibility="private",
        **ONE_AT_A_TIME,
    )
    gr.on([], classify_endpoint, image, label, preprocess=False, api_name="classify", **ONE_AT_A_TIME)

    if sets := sample_sets(predictor.label_names):
        _samples(sets, image)


def _samples(sets: dict[str, SampleSet], image: gr.Image) -> None:
    """A gallery, filtered by class and, where there is a choice, by origin; a click puts a sample into ``image``."""
    origins = list(sets)

    def shown(origin: str, class_name: str) -> list[tuple[str, str]]:
        """File and caption (which is the alternative text, too) of each sample."""
        if class_name != ALL:
            return [(str(file), class_name) for file in sets[origin][class_name]]
        return [(str(file), name) for name, files in sets[origin].items() for file in files[:SAMPLES_PER_CLASS]]

    def refill(origin: str, class_name: str) -> gr.Gallery:
        return gr.Gallery(shown(origin, class_name), selected_index=None)

    def pick(origin: str, class_name: str, event: gr.SelectData) -> str:
        # By place, not by the file that the browser names: that could be any file.
        return shown(origin, class_name)[event.index][0]

    with gr.Column(elem_id="samples"):
        gr.Markdown("## Try one of these")
        with gr.Row(elem_id="filters"):
            class_name = gr.Radio([ALL, *sets[origins[0]]], value=ALL, label="Fingers", elem_id="class-filter")
            origin = gr.Radio(
                origins, value=origins[0], label="Origin", visible=len(origins) > 1, elem_id="origin-filter"
            )
        gallery = gr.Gallery(
            shown(origins[0], ALL),
            show_label=False,
            container=False,
            allow_preview=False,
            interactive=False,
            buttons=[],
            height="auto",
            elem_id="gallery",
        )

    filters = [origin, class_name]
    gr.on([f.change for f in filters], refill, filters, gallery, show_progress="hidden", api_visibility="private")
    picked = gallery.select(pick, filters, image, show_progress="hidden", api_visibility="private")
    picked.then(js=SHOW_WORKBENCH)


def title(predictor: Predictor) -> str:
    return "How many fingers?" if _knows_signs(predictor) else "What is in the picture?"


def _introduction(predictor: Predictor) -> str:
    network = predictor.model.architecture.replace("resnet", "ResNet-")
    if _knows_signs(predictor):
        return f"Show a hand with none to five fingers raised, and a {network} reads the number."
    names = predictor.label_names
    shown = ", ".join(map(plain, names[:10])) + (" …" if len(names) > 10 else "")
    return f"A {network} tells {len(names)} classes apart: {shown}."


def _knows_signs(predictor: Predictor) -> bool:
    return tuple(predictor.label_names) == drawn_signs.LABEL_NAMES


def _probabilities(predictions: list[Prediction]) -> dict[str, float]:
    return {prediction["label"]: prediction["score"] for prediction in predictions}


def _verdict(predictions: list[Prediction], seconds: float) -> str:
    """What the answer means and what to do with it, and how long it took, as Markdown."""
    best, *others = predictions
    names = [plain(prediction["label"]) for prediction in predictions[:2]]
    if best["score"] >= SURE_FROM or not others:
        meaning = f"The network reads **{names[0]}** and is {best['score']:.0%} sure."
    else:
        meaning = (
            f"The network wavers between **{names[0]}** and **{names[1]}**. "
            "Try again with the subject alone, large and in front of a plain background."
        )
    return f"{meaning} <small>{1000 * seconds:.0f} ms</small>"


def _sentence(error: ImageError) -> str:
    text = str(error)
    return f"{text[0].upper()}{text[1:]}."
