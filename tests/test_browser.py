"""The page as a visitor sees it, in Chromium."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")

QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
NO_NETWORK = "--disable-background-networking --disable-component-update"
FAKE_CAMERA = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
#: What Gradio 6.31 itself writes to the console on an upload and when a stream of events is closed.
HARMLESS = ("Method not implemented.", "ERR_ABORTED")


class Visit(NamedTuple):
    page: Page
    hosts: set[str]
    errors: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = f"{QUIET} {NO_NETWORK} {FAKE_CAMERA}".split()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, running_app) -> Iterator[Visit]:
    """The page, freshly opened; whatever a test does there, nothing may leave the machine or end as an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    visit = Visit(context.new_page(), set(), [])
    visit.page.set_default_timeout(15_000)
    visit.page.on("request", lambda request: visit.hosts.add(urlsplit(request.url).netloc))
    visit.page.on("console", lambda message: message.type == "error" and visit.errors.append(message.text))
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    visit.page.goto(running_app.url)
    expect(visit.page.get_by_role("heading", level=1)).to_be_visible()
    yield visit
    context.close()
    assert visit.hosts <= {f"127.0.0.1:{running_app.port}", ""}  # without a host: data: and blob:
    assert [error for error in visit.errors if not any(harmless in error for harmless in HARMLESS)] == []


@pytest.fixture
def page(visit) -> Page:
    return visit.page


def expect_answer(page: Page) -> None:
    """Every class with its share, the time it took, and a sentence."""
    expect(page.locator("#answer [data-testid$='-confidence-set']")).to_have_count(6)
    expect(page.locator("#verdict")).to_contain_text("The network")
    expect(page.locator("#verdict")).to_contain_text(" ms")


def upload(page: Page, file) -> None:
    page.locator("#picture input[type=file]").set_input_files(file)


def choose(page: Page, dropdown: str, name: str) -> None:
    page.locator(f"#{dropdown} input").click()
    page.get_by_role("option", name=name).click()


def go_to(page: Page, name: str) -> None:
    page.get_by_role("link", name=name).or_(page.get_by_role("button", name=name)).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def picture_of(folder, color: str = "tan"):
    file = folder / f"{color}.png"
    Image.new("RGB", (64, 64), color).save(file)
    return file


def test_uploaded_picture_is_answered_at_once(page, tmp_path):
    expect(page.locator("#verdict")).to_contain_text("Add a picture")
    upload(page, picture_of(tmp_path))
    expect_answer(page)


def test_clicked_sample_becomes_the_picture_and_is_answered(page):
    page.locator("#gallery button.thumbnail-item").nth(5).click()
    expect_answer(page)
    shown = page.locator("#picture img").get_attribute("src")
    assert shown == page.locator("#gallery img").nth(5).get_attribute("src")


def test_sample_can_be_picked_with_the_keyboard(page):
    page.locator("#gallery button.thumbnail-item").first.focus()
    page.keyboard.press("Enter")
    expect_answer(page)


def test_class_filter_shows_that_class_alone(page):
    captions = page.locator("#gallery .caption-label")
    expect(captions).to_have_text([name for name in "012345" for _ in range(4)])
    page.get_by_role("radio", name="3", exact=True).check()
    expect(captions).to_have_text(["3"] * 8)
    page.locator("#more").click()
    expect(captions).to_have_text(["3"] * 16)
    assert page.locator("#gallery img[alt='3']").count() == 16
    page.locator("#gallery button.thumbnail-item").last.click()
    expect_answer(page)
    shown = page.locator("#picture img").get_attribute("src")
    assert shown == page.locator("#gallery img").last.get_attribute("src")


def test_broken_file_gets_a_message_and_the_page_goes_on(page, tmp_path):
    page.locator("#gallery button.thumbnail-item").first.click()
    expect_answer(page)
    page.get_by_role("button", name="Remove Image").click()
    expect(page.locator("#verdict")).to_contain_text("Add a picture")

    (tmp_path / "text.png").write_text("these are words, not pixels")
    upload(page, tmp_path / "text.png")
    toast = page.locator("[data-testid=toast-body]")
    expect(toast).to_contain_text("image")
    assert "/" not in toast.inner_text()
    expect(page.locator("#answer [data-testid$='-confidence-set']")).to_have_count(0)
    expect(page.locator("#result")).not_to_contain_text("Error")
    expect(page.locator("#picture img")).to_have_count(0)

    page.locator("#gallery button.thumbnail-item").first.click()
    expect_answer(page)


def test_webcam_snapshot_is_answered(page):
    page.locator("#picture button[aria-label='Capture from camera']").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video')?.videoWidth > 0")
    page.locator("#picture button[aria-label='capture photo']").click()
    expect_answer(page)


def test_live_camera_is_answered_frame_by_frame(page):
    page.get_by_role("tab", name="Live camera").click()
    page.locator("#live").get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#live video')?.videoWidth > 0")
    page.locator("#live button[aria-label='capture photo']").click()
    expect_answer(page)
    answers = set()
    for _ in range(40):  # the fake camera's picture moves
        answers.add(page.locator("#verdict").inner_text())
        page.wait_for_timeout(100)
    assert len(answers) >= 5
    page.locator("#live button[aria-label='capture photo']").click()  # which now says "Stop"
    page.wait_for_timeout(500)
    last = page.locator("#verdict").inner_text()
    page.wait_for_timeout(500)
    assert page.locator("#verdict").inner_text() == last


def test_an_address_of_this_machine_is_refused_and_the_page_goes_on(page, tmp_path):
    page.get_by_role("tab", name="Web address").click()
    page.locator("#address textarea, #address input").fill("http://localhost/hand.png")
    page.locator("#fetch").click()
    expect(page.locator("[data-testid=toast-body]")).to_contain_text("not on the public internet")
    page.get_by_role("tab", name="Picture").click()
    upload(page, picture_of(tmp_path))
    expect_answer(page)


def test_a_look_inside_shows_what_the_network_sees_and_where_it_looks(page, tmp_path):
    upload(page, picture_of(tmp_path))
    expect_answer(page)
    page.get_by_role("button", name="Look inside").click()
    expect(page.locator("#seen figcaption")).to_have_text("What the network sees: 64 × 64 px")  # noqa: RUF001
    heatmap = page.locator("#heatmap figcaption")
    expect(heatmap).to_contain_text("layer2 (8 × 8 places)")  # noqa: RUF001
    page.locator("#stage").get_by_role("radio", name="layer4").check()
    expect(heatmap).to_contain_text("layer4 (2 × 2 places)")  # noqa: RUF001
    choose(page, "heatmap-class", "5")
    expect(heatmap).to_contain_text("Speaks for 5")


def test_another_model_answers_with_its_own_classes(page, tmp_path):
    upload(page, picture_of(tmp_path))
    expect_answer(page)
    choose(page, "model", "animals")
    expect(page.get_by_role("heading", level=1)).to_have_text("What is in the picture?")
    expect(page.locator("#answer [data-testid$='-confidence-set']")).to_have_count(3)
    expect(page.locator("#answer")).to_contain_text("<b>dog</b>")  # as text
    expect(page.locator("#verdict")).to_contain_text("unlike those that the network learned from")
    expect(page.locator("#samples")).to_be_hidden()
    expect(page.locator("#model-facts")).to_contain_text("3 classes")
    choose(page, "model", "hands")
    expect(page.locator("#answer [data-testid$='-confidence-set']")).to_have_count(6)
    expect(page.locator("#gallery button.thumbnail-item")).to_have_count(24)


def test_two_visitors_with_two_models_do_not_meet(browser, running_app, page, tmp_path):
    other = browser.new_page()
    other.goto(running_app.url)
    choose(other, "model", "animals")
    expect(other.get_by_role("heading", level=1)).to_have_text("What is in the picture?")
    file = picture_of(tmp_path)
    for visitor in (page, other):
        upload(visitor, file)
    expect(page.locator("#answer [data-testid$='-confidence-set']")).to_have_count(6)
    expect(other.locator("#answer [data-testid$='-confidence-set']")).to_have_count(3)
    other.close()


def test_compare_shows_what_each_model_says(page, tmp_path):
    go_to(page, "Compare")
    upload(page, picture_of(tmp_path))
    cards = page.locator("#comparison .card")
    expect(cards).to_have_count(2)
    expect(cards.locator("h2")).to_have_text(["hands", "animals"])
    expect(cards.locator("img")).to_have_count(2)
    expect(cards.nth(1)).to_contain_text("Unlike its training pictures")
    expect(cards.nth(0)).to_contain_text("ResNet-50, 64 px")
    expect(cards.nth(1)).to_contain_text("ResNet-101, 96 px")


def test_inspect_goes_from_a_cell_of_the_matrix_to_its_pictures(page):
    go_to(page, "Inspect")
    expect(page.locator("#facts")).to_contain_text("75.0% accuracy")
    expect(page.locator("#cell h3")).to_have_text("1 mistakes, the surest first")
    page.get_by_role("button", name="1 taken for 1: 2 pictures").press("Enter")
    expect(page.locator("#cell h3")).to_have_text("2 pictures of 1, taken for 1")
    expect(page.locator("#cell figcaption")).to_have_text(["1 (80%), is 1", "1 (70%), is 1"])
    page.get_by_role("tab", name="Classes").click()
    expect(page.locator("#per-class")).to_contain_text("0.6667")
    page.get_by_role("tab", name="Training").click()
    expect(page.locator("#curve-loss svg.marks")).to_be_visible()
    expect(page.locator("#recipe")).to_contain_text("learning_rate")
    page.get_by_role("tab", name="Network").click()
    expect(page.locator("#layers")).to_contain_text("layer1.0.conv1")
    choose(page, "inspected", "animals")
    expect(page.locator("#facts")).to_contain_text("ResNet-101 · 3 classes")


def test_batch_is_a_table_to_sort_and_to_take_along(page, tmp_path):
    go_to(page, "Batch")
    page.locator("#run").click()
    expect(page.locator("#status")).to_contain_text("Add pictures")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(picture_of(tmp_path, "navy"), "blue/navy.png")
    (tmp_path / "broken.png").write_text("these are words, not pixels")
    files = [picture_of(tmp_path), tmp_path / "broken.png", tmp_path / "more.zip"]
    page.locator("#files input[type=file]").set_input_files(files)
    expect(page.locator("#files")).to_contain_text("more")
    page.locator("#run").click()
    expect(page.locator("#status")).to_contain_text("3 pictures:")
    expect(page.locator("#status")).to_contain_text("1 could not be read")
    expect(page.locator("#table [data-row='1'][data-col='6']")).to_contain_text("This is no image")
    for row, shown in enumerate((1, 0, 1)):
        expect(page.locator(f"#table [data-row='{row}'][data-col='0'] img")).to_have_count(shown)
    with page.expect_download() as download:
        page.locator("#csv").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("file,label,score")
    assert [line.split(",")[0] for line in lines[1:]] == ["tan.png", "broken.png", "blue/navy.png"]


def test_corrections_are_kept_only_where_the_page_says_so(browser, start_app, hands_and_animals, page, tmp_path):
    expect(page.get_by_role("button", name="Is the answer wrong?")).to_have_count(0)
    app = start_app("--models", str(hands_and_animals[0]), "--feedback", str(tmp_path / "kept"))
    other = browser.new_page()
    other.goto(app.url)
    upload(other, picture_of(tmp_path))
    expect_answer(other)
    assert not list((tmp_path / "kept").iterdir())
    other.get_by_role("button", name="Is the answer wrong?").click()
    expect(other.locator("#feedback")).to_contain_text("keeps the picture and your answer")
    choose(other, "correction", "4")
    other.locator("#send-correction").click()
    expect(other.locator("[data-testid=toast-body]")).to_contain_text("Thank you")
    record = json.loads((tmp_path / "kept" / "metadata.jsonl").read_text())
    assert (record["label"], record["model"]) == ("4", "hands")
    assert Image.open(tmp_path / "kept" / record["file_name"]).getpixel((0, 0)) == (210, 180, 140)
    other.close()


def test_a_hub_model_that_is_not_there_leaves_the_last_one(browser, start_app, hands_and_animals, tmp_path):
    app = start_app("--models", str(hands_and_animals[0]), "--allow-hub")
    page = browser.new_page()
    page.goto(app.url)
    page.locator("#model input").fill("nobody/nothing")
    page.locator("#model input").press("Enter")
    expect(page.locator("[data-testid=toast-body]")).to_contain_text("Hub model 'nobody/nothing'")
    assert str(Path.home()) not in page.locator("[data-testid=toast-body]").inner_text()
    expect(page.locator("#model input")).to_have_value("hands")
    upload(page, picture_of(tmp_path))
    expect_answer(page)
    page.close()


def fill(page: Page, name: str, tmp_path) -> None:
    """The page ``name`` with something on it."""
    if name == "Classify":
        page.locator("#gallery button.thumbnail-item").nth(20).click()
        expect_answer(page)
        page.get_by_role("button", name="Look inside").click()
        expect(page.locator("#heatmap img")).to_be_visible()
        return
    go_to(page, name)
    if name == "Compare":
        upload(page, picture_of(tmp_path))
        expect(page.locator("#comparison .card")).to_have_count(2)
    elif name == "Inspect":
        expect(page.locator("#cell figcaption")).to_have_count(1)
    else:
        page.locator("#files input[type=file]").set_input_files([picture_of(tmp_path)])
        expect(page.locator("#files")).to_contain_text("tan")
        page.locator("#run").click()
        expect(page.locator("#status")).to_contain_text("1 pictures:")


PAGES = ("Classify", "Compare", "Inspect", "Batch")


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_a_phone(page, name, tmp_path):
    page.set_viewport_size({"width": 390, "height": 844})
    fill(page, name, tmp_path)
    too_wide = page.evaluate(
        """() => [...document.querySelectorAll('main *')]
            .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth)
            .filter(e => !e.closest('.scroll, #table, #per-class'))  // which scroll by themselves
            .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert too_wide == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if name == "Classify":
        expect(page.locator("#answer h2")).to_be_in_viewport()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(page, scheme, name, tmp_path):
    """WCAG 2 AA, 4.5:1, for every text on the page."""
    page.emulate_media(color_scheme=scheme)
    fill(page, name, tmp_path)
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # fading out of the hover
    assert page.evaluate(FAINT_TEXTS) == []


#: Every element with a text of its own whose contrast to the nearest opaque background is below 4.5:1.
FAINT_TEXTS = """() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgba = color => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = color => rgba(color).slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const background = e => {
        for (; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if (rgba(color)[3] === 255) return color;
        }
        return 'white';
    };
    const texts = [...document.querySelectorAll('main *, footer *')].filter(e => e.checkVisibility() &&
        [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.textContent.trim()));
    return texts.map(e => {
        const [a, b] = [luminance(getComputedStyle(e).color), luminance(background(e))];
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.trim()];
    }).filter(([ratio]) => ratio < 4.5);
}"""
