"""The page as a visitor sees it, in Chromium."""

import shutil
from collections.abc import Iterator
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


def test_uploaded_picture_is_answered_at_once(page, tmp_path):
    expect(page.locator("#verdict")).to_contain_text("Add a picture")
    Image.new("RGB", (64, 64), "tan").save(tmp_path / "tan.png")
    upload(page, tmp_path / "tan.png")
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
    assert page.locator("#gallery img[alt='3']").count() == 8
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#gallery button.thumbnail-item").nth(20).click()
    expect_answer(page)
    too_wide = page.evaluate(
        """() => [...document.querySelectorAll('main *')]
            .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth)
            .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert too_wide == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#answer h2")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(page, scheme):
    """WCAG 2 AA, 4.5:1, for every text on the page."""
    page.emulate_media(color_scheme=scheme)
    page.locator("#gallery button.thumbnail-item").first.click()
    expect_answer(page)
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
