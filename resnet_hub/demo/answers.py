"""Answers in words, bars and pictures: what the pages show of a prediction."""

import base64
import html
import io

import gradio as gr
from PIL import Image

from resnet_hub.card import plain
from resnet_hub.errors import ResNetHubError
from resnet_hub.predictor import Answer, Prediction

#: Below this probability the answer is given as a doubt.
SURE_FROM = 0.7
TOAST_SECONDS = 5
#: Longest side in px of pictures in the page's text: sharp on a phone's screen, and some 30 kB.
INLINE_SIDE = 384


def as_probabilities(predictions: list[Prediction]) -> dict[str, float]:
    return {prediction["label"]: prediction["score"] for prediction in predictions}


def verdict(answer: Answer, seconds: float) -> str:
    """What the answer means and what to do with it, and how long it took, as Markdown."""
    best, *others = answer.predictions
    label = plain(best["label"])
    if answer.is_unfamiliar:
        meaning = (
            f"This picture is **unlike those that the network learned from**, so **{label}** is a guess. Try one with "
            "the subject alone, large and in good light."
        )
    elif best["score"] >= SURE_FROM or not others:
        meaning = f"The network reads **{label}** and is {best['score']:.0%} sure."
    else:
        meaning = (
            f"The network wavers between **{label}** and **{plain(others[0]['label'])}**. "
            "Try again with the subject alone, large and in front of a plain background."
        )
    return f"{meaning} <small>{milliseconds(seconds)}</small>"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


def bars(answer: Answer, top_k: int = 5) -> str:
    """The best classes with their probabilities, as HTML."""
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(p['label'])}</th><td><meter value='{p['score']:.4f}'></meter></td>"
        f"<td>{p['score']:.0%}</td></tr>"
        for p in answer.predictions[:top_k]
    )
    return f"<table class='bars'><tbody>{rows}</tbody></table>"


def inline(image: Image.Image, alt: str) -> str:
    """The picture as an HTML element that carries its own bytes, so that no file of a visitor's picture is left."""
    image.thumbnail((INLINE_SIDE, INLINE_SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode()
    return f"<img alt='{html.escape(alt, quote=True)}' src='data:image/jpeg;base64,{data}'>"


def sentence(error: ResNetHubError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def warn(what: ResNetHubError | str) -> None:
    """A message that goes by itself. Toasts show HTML, and errors may quote a stranger's words."""
    text = what if isinstance(what, str) else sentence(what)
    gr.Warning(html.escape(text), duration=TOAST_SECONDS)
