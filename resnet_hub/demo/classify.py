"""The Classify page: a picture in, the probability of each class out, and a look into the network."""

import io
import time
from typing import Any

import gradio as gr

from resnet_hub import drawn_signs
from resnet_hub.card import network_name, plain
from resnet_hub.demo import answers, help
from resnet_hub.demo.feedback import FeedbackStore
from resnet_hub.demo.fetch import fetch_image
from resnet_hub.demo.models import ModelLibrary
from resnet_hub.demo.pictures import look_inside, model_choice, picture_input
from resnet_hub.demo.queueing import LIGHT, LIVE, ONE_AT_A_TIME, TOGETHER
from resnet_hub.demo.samples import MAX_PER_CLASS, SampleLibrary
from resnet_hub.demo.uploads import keep_upload, open_upload, read_upload
from resnet_hub.errors import ImageError, ResNetHubError
from resnet_hub.explain import STAGES, default_stage
from resnet_hub.hub import ResNetForImageClassification
from resnet_hub.images import open_image
from resnet_hub.predictor import Predictor

#: Of each class, where all classes are shown, and as many more with each press of the button.
SAMPLES_PER_CLASS = 4
ALL = "All"

INVITATION = "Add a picture, or pick one below. The answer appears here at once."
#: On a phone the answer stands above the samples, out of sight; where it is in sight, this does nothing.
SHOW_WORKBENCH = "() => document.getElementById('workbench').scrollIntoView({block: 'nearest'})"
#: Longest side in px of pictures from addresses, as they are kept for as long as they are shown.
FETCHED_SIDE = 1024
#: Seconds between the pictures of a live camera.
FRAME_INTERVAL = 0.1
#: Of events that are for the page alone, and no endpoints.
PRIVATE = {"api_visibility": "private"}


def page(library: ModelLibrary, samples: SampleLibrary, feedback: FeedbackStore | None) -> None:
    """Lay out the page and wire it, inside a ``gr.Blocks``."""
    first = library.get(None)
    intro = gr.Markdown(introduction(first), elem_classes="intro")
    model = model_choice(library, "model")
    chosen = gr.State(library.default)  # the last model that could be loaded
    with gr.Row(elem_id="workbench", elem_classes="workbench"):
        with gr.Tabs(elem_id="sources") as sources:
            with gr.Tab("Picture", id="picture"):
                image = picture_input()
            with gr.Tab("Live camera", id="live"):
                live = gr.Image(
                    label="Live camera",
                    sources=["webcam"],
                    streaming=True,
                    type="filepath",
                    image_mode=None,
                    buttons=[],
                    elem_id="live",
                )
            with gr.Tab("Web address", id="address"):
                _address(image, sources)
        with gr.Column(elem_id="result", elem_classes="sheet"):
            label = gr.Label(label="Answer", container=False, elem_id="answer")
            verdict = gr.Markdown(INVITATION, elem_id="verdict")
    inside, of_class, stage = _inside(library, image, chosen, first)

    answer = _answer(library, image, chosen, [image, label, verdict, inside])
    # `change` comes with every way to set a picture: upload, paste, webcam, a sample, and taking it away.
    image.change(**answer, show_progress="minimal", show_progress_on=label)
    # A heatmap is of the class that this picture is taken for, until another class is asked for.
    image.change(lambda: None, None, of_class, queue=False, **PRIVATE)
    _live(library, live, chosen, [label, verdict])
    switched = _switch(library, model, chosen, [intro, of_class, stage])
    switched.then(**answer)
    _samples(library, samples, image, chosen, switched)
    with gr.Accordion("What do these numbers mean?", open=False):
        gr.Markdown("\n\n".join([help.CONFIDENCE, help.UNFAMILIAR, help.TOP_K]), elem_classes="help")
    if feedback is not None:
        _feedback(library, feedback, image, chosen, first)
    facts = gr.Markdown(model_facts(first.model), elem_id="model-facts")
    switched.then(lambda name: model_facts(library.get(name).model), chosen, facts, **PRIVATE, **LIGHT)


def _answer(library: ModelLibrary, image: gr.Image, chosen: gr.State, outputs: list[Any]) -> dict[str, Any]:
    """The event that classifies the picture. ``outputs``: picture, answer, verdict, and the accordion below."""

    def answer(upload: dict[str, Any] | None, name: str) -> tuple[Any, ...]:
        """For the page: an unreadable picture becomes a message, and goes, and with it the last answer."""
        closed = gr.Accordion(open=False)
        if upload is None:
            return gr.skip(), {}, INVITATION, closed
        try:
            return gr.skip(), *answer_to(library, upload, name), closed
        except ImageError as error:
            answers.warn(error)
            return None, {}, INVITATION, closed

    return {"fn": answer, "inputs": [image, chosen], "outputs": outputs, "preprocess": False, **PRIVATE, **TOGETHER}


def _live(library: ModelLibrary, live: gr.Image, chosen: gr.State, outputs: list[Any]) -> None:
    def answer_frame(frame: dict[str, Any] | None, name: str) -> tuple[Any, Any]:
        """Of a live camera: a frame that cannot be read is passed over."""
        if frame is None:
            return gr.skip(), gr.skip()
        try:
            return answer_to(library, frame, name)
        except ImageError:
            return gr.skip(), gr.skip()

    live.stream(
        answer_frame,
        [live, chosen],
        outputs,
        preprocess=False,
        show_progress="hidden",
        stream_every=FRAME_INTERVAL,
        **PRIVATE,
        **LIVE,
    )


def _address(image: gr.Image, sources: gr.Tabs) -> None:
    address = gr.Textbox(label="Address of a picture", placeholder="https://", max_length=2000, elem_id="address")
    fetch = gr.Button("Fetch", elem_id="fetch")

    def fetch_picture(url: str) -> tuple[Any, Any]:
        """The picture at an address becomes the picture on the page."""
        try:
            picture = open_image(fetch_image(url))
        except ImageError as error:
            answers.warn(error)
            return gr.skip(), gr.skip()
        picture.thumbnail((FETCHED_SIDE, FETCHED_SIDE))
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return keep_upload(stream.getvalue()), gr.Tabs(selected="picture")

    gr.on(
        [address.submit, fetch.click],
        fetch_picture,
        address,
        [image, sources],
        show_progress_on=address,
        **PRIVATE,
        **LIGHT,
    )


def _switch(library: ModelLibrary, model: gr.Dropdown, chosen: gr.State, outputs: list[Any]) -> Any:
    """Another model, chosen by the visitor. ``outputs``: introduction, the heatmap's class and stage."""

    def choose(name: str, last: str) -> tuple[Any, ...]:
        """A model that cannot be loaded becomes a message, and the last one stays."""
        try:
            predictor = library.get(name)
        except ResNetHubError as error:
            answers.warn(error)
            return last, last, gr.skip(), gr.skip(), gr.skip()
        return (
            gr.skip(),
            name,
            introduction(predictor),
            gr.Dropdown(predictor.label_names, value=None),
            default_stage(predictor.model.image_size),
        )

    inputs = [model, chosen]
    return model.input(choose, inputs, [*inputs, *outputs], show_progress_on=outputs[0], **PRIVATE, **LIGHT)


def _inside(
    library: ModelLibrary, image: gr.Image, chosen: gr.State, first: Predictor
) -> tuple[gr.Accordion, gr.Dropdown, gr.Radio]:
    """What the network sees, and where it looks: the accordion, the class and the stage that are asked for."""
    with gr.Accordion("Look inside: what the network sees, and where it looks", open=False, elem_id="inside") as inside:
        with gr.Row():
            of_class = gr.Dropdown(first.label_names, value=None, label="Heatmap for", elem_id="heatmap-class")
            stage = gr.Radio(
                STAGES, value=default_stage(first.model.image_size), label="Stage, early to late", elem_id="stage"
            )
        with gr.Row(elem_classes="figures"):
            seen, heatmap = gr.HTML(elem_id="seen"), gr.HTML(elem_id="heatmap")
        gr.Markdown("\n\n".join([help.SEEN, help.HEATMAP, help.RESIDUAL_BLOCK]), elem_classes="help")

    def look(upload: dict[str, Any] | None, name: str, of: str | None, stage_name: str) -> tuple[Any, ...]:
        """Of the class that was asked for, else of the most probable one."""
        if upload is None:
            return "<p class='hint'>Add a picture first.</p>", "", gr.skip()
        predictor = library.get(name)
        try:
            picture = open_upload(upload)
        except ImageError:
            return "", "", gr.skip()
        if of not in predictor.label_names:
            of = predictor(picture, top_k=1)[0]["label"]
        return *look_inside(predictor, picture, of, stage_name), of

    gr.on(
        [inside.expand, of_class.input, stage.input],
        look,
        [image, chosen, of_class, stage],
        [seen, heatmap, of_class],
        preprocess=False,
        show_progress="minimal",
        **PRIVATE,
        **ONE_AT_A_TIME,
    )
    return inside, of_class, stage


def answer_to(library: ModelLibrary, upload: dict[str, Any], name: str) -> tuple[dict[str, float], str]:
    """The probabilities and what they mean. Raises ``ImageError``."""
    predictor = library.get(name)
    start = time.perf_counter()
    [answer] = predictor.answer([read_upload(upload)], top_k=len(predictor.label_names))
    return answers.as_probabilities(answer.predictions), answers.verdict(answer, time.perf_counter() - start)


def _samples(library: ModelLibrary, samples: SampleLibrary, image: gr.Image, chosen: gr.State, switched: Any) -> None:
    """A gallery, filtered by class and, where there is a choice, by origin; a click puts a sample into ``image``."""

    def shown(title: str | None, class_name: str, per_class: int, model_name: str) -> list[tuple[str, str]]:
        """File and caption (which is the alternative text, too) of each sample."""
        if title is None:
            return []
        if class_name == ALL:
            found = samples.files(title, library.get(model_name).label_names, per_class)
        else:
            found = samples.files(title, [class_name], 2 * per_class)
        return [(str(file), name) for file, name in found]

    def refill(title: str | None, class_name: str, per_class: int, model_name: str) -> tuple[Any, Any]:
        gallery = gr.Gallery(shown(title, class_name, per_class, model_name), selected_index=None)
        factor = 1 if class_name == ALL else 2
        return gallery, gr.Button(visible=factor * per_class < MAX_PER_CLASS)

    def start_again(title: str | None, class_name: str, model_name: str) -> tuple[Any, ...]:
        return SAMPLES_PER_CLASS, *refill(title, class_name, SAMPLES_PER_CLASS, model_name)

    def show_more(title: str | None, class_name: str, per_class: int, model_name: str) -> tuple[Any, ...]:
        return per_class + SAMPLES_PER_CLASS, *refill(title, class_name, per_class + SAMPLES_PER_CLASS, model_name)

    def fit_to_model(model_name: str) -> tuple[Any, ...]:
        """Other classes, other samples; a model that none fit has none."""
        label_names = library.get(model_name).label_names
        titles = samples.titles(label_names)
        return (
            gr.Column(visible=bool(titles)),
            gr.Radio([ALL, *label_names], value=ALL),
            gr.Radio(titles, value=titles[0] if titles else None, visible=len(titles) > 1),
            *start_again(titles[0] if titles else None, ALL, model_name),
        )

    def pick(title: str, class_name: str, per_class: int, model_name: str, event: gr.SelectData) -> str:
        # By place, not by the file that the browser names: that could be any file.
        return shown(title, class_name, per_class, model_name)[event.index][0]

    label_names = library.get(None).label_names
    titles = samples.titles(label_names)
    first = titles[0] if titles else None
    per_class = gr.State(SAMPLES_PER_CLASS)
    with gr.Column(elem_id="samples", visible=bool(titles)) as block:
        gr.Markdown("## Try one of these")
        with gr.Row(elem_id="filters"):
            class_name = gr.Radio([ALL, *label_names], value=ALL, label="Class", elem_id="class-filter")
            title = gr.Radio(titles, value=first, label="Origin", visible=len(titles) > 1, elem_id="origin-filter")
        gallery = gr.Gallery(
            shown(first, ALL, SAMPLES_PER_CLASS, library.default),
            show_label=False,
            container=False,
            allow_preview=False,
            interactive=False,
            buttons=[],
            height="auto",
            elem_id="gallery",
        )
        more = gr.Button("More", size="sm", elem_id="more")

    quiet = {"show_progress": "hidden", "api_visibility": "private", **LIGHT}
    listed = [per_class, gallery, more]
    gr.on([title.input, class_name.input], start_again, [title, class_name, chosen], listed, **quiet)
    more.click(show_more, [title, class_name, per_class, chosen], listed, **quiet)
    switched.then(fit_to_model, chosen, [block, class_name, title, *listed], **quiet)
    picked = gallery.select(pick, [title, class_name, per_class, chosen], image, **quiet)
    picked.then(js=SHOW_WORKBENCH)


def _feedback(library: ModelLibrary, store: FeedbackStore, image: gr.Image, chosen: gr.State, first: Predictor) -> None:
    """A correction, with the picture, for the operator; only where the operator asked for it."""

    def send(upload: dict[str, Any] | None, name: str, label: str | None) -> Any:
        if upload is None or not label:
            answers.warn("Add a picture and choose what it is.")
            return gr.skip()
        predictor = library.get(name)
        if label not in predictor.label_names:
            answers.warn("Choose one of the classes.")
            return gr.skip()
        try:
            picture = open_upload(upload)
        except ImageError as error:
            answers.warn(error)
            return gr.skip()
        best = predictor(picture, top_k=1)[0]
        if store.add(picture, model=name, predicted=best["label"], score=best["score"], label=label):
            gr.Info("Thank you: the picture and your answer were kept.", duration=answers.TOAST_SECONDS)
        else:
            answers.warn("No more corrections are taken at the moment.")
        return None

    with gr.Accordion("Is the answer wrong?", open=False, elem_id="feedback"):
        gr.Markdown(
            "Say what it is, and the operator of this page **keeps the picture and your answer** to improve the "
            "network. Pictures that you do not send are not kept."
        )
        with gr.Row():
            label = gr.Dropdown(first.label_names, value=None, label="It is", elem_id="correction")
            button = gr.Button("Send the picture and this answer", elem_id="send-correction")
    button.click(send, [image, chosen, label], label, preprocess=False, api_visibility="private", **TOGETHER)
    chosen.change(
        lambda name: gr.Dropdown(library.get(name).label_names, value=None),
        chosen,
        label,
        api_visibility="private",
        **LIGHT,
    )


def title(predictor: Predictor) -> str:
    return "How many fingers?" if _knows_signs(predictor) else "What is in the picture?"


def introduction(predictor: Predictor) -> str:
    """The page's heading and what it does, as Markdown."""
    network = network_name(predictor.model.to_config())
    if _knows_signs(predictor):
        text = f"Show a hand with none to five fingers raised, and a {network} reads the number."
    else:
        names = predictor.label_names
        listed = ", ".join(map(plain, names[:10]))
        text = f"A {network} tells {len(names)} classes apart: {listed}{' …' if len(names) > 10 else ''}."
    return f"# {title(predictor)}\n{text}"


def model_facts(model: ResNetForImageClassification) -> str:
    """What the page's last line says of the model, as Markdown: what it is and, where that is known, how good."""
    facts = [
        network_name(model.to_config()),
        f"{model.num_classes} classes",
        f"images of {model.image_size} × {model.image_size} px",  # noqa: RUF001
    ]
    results = model.training_record["results"] if model.training_record else []
    for result in (r for r in results if r["split"] == "test" and "variant" not in r):
        facts.append(
            f"**{result['accuracy']:.1%}** accuracy and {result['macro_f1']:.3f} macro-F1 "
            f"on the {result['num_images']:,} images of {plain(result['dataset'])} ({plain(result['split'])})"
        )
    return " · ".join(facts)


def _knows_signs(predictor: Predictor) -> bool:
    return tuple(predictor.label_names) == drawn_signs.LABEL_NAMES
