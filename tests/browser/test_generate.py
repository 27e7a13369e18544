"""The Generate tab, used as a person would."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]


class GeneratePage:
    """The parts of the page by their meaning."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.document: Locator = page.locator("#document textarea")
        self.generate: Locator = page.locator("#generate")
        self.stop: Locator = page.locator("#stop")
        self.undo: Locator = page.locator("#undo")
        self.status: Locator = page.locator("#status")
        self.hypotheses: Locator = page.locator("#hypotheses li")

    def choose_model(self, name: str) -> None:
        self.page.locator("#model input").click()
        self.page.get_by_role("option", name=name).click()
        expect(self.page.locator("#model input")).to_have_value(name)

    def set_number(self, control: str, value: float) -> None:
        box = self.page.locator(f"#{control} input[type=number]")
        box.fill(str(value))
        box.press("Tab")
        expect(box).to_have_value(str(value))

    def open_more(self) -> None:
        self.page.locator("#more > button").click()

    def record(self) -> None:
        """Notes every text that the document shows from now on."""
        self.page.evaluate(
            """() => {
                const box = document.querySelector("#document textarea");
                window.seen = [box.value];
                const look = () => {
                    if (window.seen[window.seen.length - 1] !== box.value) window.seen.push(box.value);
                    requestAnimationFrame(look);
                };
                look();
            }"""
        )

    def recorded(self) -> list[str]:
        seen: list[str] = self.page.evaluate("window.seen")
        return seen

    def press_generate(self) -> None:
        """Returns when the page has answered; a short text may be finished by then."""
        self.page.evaluate("document.querySelector('#status .status').dataset.before = 'yes'")
        self.generate.click()
        self.page.wait_for_function("!document.querySelector('#status [data-before]')")

    def wait_until_done(self) -> None:
        expect(self.page.locator("#status .dot")).to_have_count(0, timeout=60_000)
        expect(self.generate).to_be_enabled()
        expect(self.stop).to_be_disabled()


@pytest.fixture
def desktop(open_page: OpenPage) -> GeneratePage:
    page = GeneratePage(open_page())
    page.choose_model("small")
    return page


def start(page: GeneratePage, prompt: str, **numbers: Any) -> None:
    page.document.fill(prompt)
    for control, value in numbers.items():
        page.set_number(control, value)
    page.record()
    page.press_generate()


def test_text_streams_in_and_stop_keeps_it(desktop: GeneratePage) -> None:
    desktop.choose_model("endless")
    start(desktop, "The king", temperature=1.2, length=1000, beams=1)
    expect(desktop.generate).to_be_disabled()
    expect(desktop.stop).to_be_enabled()
    desktop.page.wait_for_function("window.seen.length > 4")
    desktop.stop.click()
    desktop.wait_until_done()
    seen = desktop.recorded()
    assert seen[0] == "The king"
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
    text = desktop.document.input_value()
    assert text == seen[-1]
    assert text.startswith("The king")
    assert len(text) > len("The king")
    expect(desktop.status).to_contain_text("stopped")
    tokens = int(desktop.status.inner_text().split(" tokens")[0].replace(",", ""))
    assert 0 < tokens < 1000


def test_length_temperature_and_seed_do_what_they_say(desktop: GeneratePage) -> None:
    desktop.open_more()
    desktop.page.locator("#seed textarea, #seed input").fill("42")
    texts = []
    for _ in range(2):
        start(desktop, "A cat", temperature=0.8, length=20)
        desktop.wait_until_done()
        texts.append(desktop.document.input_value())
        expect(desktop.status).to_contain_text("seed 42")
    assert texts[0] == texts[1]
    assert texts[0].startswith("A cat")
    tokens = int(desktop.status.inner_text().split(" tokens")[0])
    assert tokens <= 20


def test_beams_show_the_best_hypotheses_as_they_change(desktop: GeneratePage) -> None:
    desktop.open_more()
    desktop.choose_model("endless")
    desktop.set_number("num-return", 3)
    start(desktop, "The king", length=60, beams=4)
    expect(desktop.hypotheses).to_have_count(4)
    expect(desktop.page.locator("#hypotheses h3")).to_have_text("Best so far")
    first = desktop.hypotheses.first.inner_text()
    expect(desktop.hypotheses.first).not_to_have_text(first)
    desktop.wait_until_done()
    expect(desktop.page.locator("#hypotheses h3")).to_have_text("Results")
    expect(desktop.hypotheses).to_have_count(3)
    scores = [float(text.split()[-1]) for text in desktop.page.locator(".beam-score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    best, second = (desktop.hypotheses.nth(number).locator(".beam-text").text_content() for number in (0, 1))
    assert desktop.document.input_value() == f"The king{best}"
    desktop.hypotheses.nth(1).get_by_role("button", name="Use this").click()
    expect(desktop.document).to_have_value(f"The king{second}")
    desktop.undo.click()
    expect(desktop.document).to_have_value(f"The king{best}")


def test_stop_ends_a_beam_search_too(desktop: GeneratePage) -> None:
    desktop.choose_model("endless")
    start(desktop, "The king", length=1000, beams=8)
    expect(desktop.hypotheses).to_have_count(8)
    desktop.stop.click()
    desktop.wait_until_done()
    assert desktop.document.input_value().startswith("The king")
    expect(desktop.status).to_contain_text("stopped")


def test_nothing_that_was_written_is_lost(desktop: GeneratePage) -> None:
    start(desktop, "A cat", length=30)
    desktop.wait_until_done()
    written = desktop.document.input_value()
    assert written != "A cat"
    desktop.document.fill(written + " And a paragraph of my own.")
    desktop.undo.click()
    expect(desktop.document).to_have_value(written)
    desktop.undo.click()
    expect(desktop.document).to_have_value("A cat")
    desktop.page.locator("#redo").click()
    desktop.page.locator("#redo").click()
    expect(desktop.document).to_have_value(written + " And a paragraph of my own.")
    desktop.page.locator("#clear").click()
    expect(desktop.document).to_have_value("")
    desktop.undo.click()
    expect(desktop.document).to_have_value(written + " And a paragraph of my own.")


def test_the_text_takes_no_keys_while_the_model_writes(desktop: GeneratePage) -> None:
    desktop.choose_model("endless")
    start(desktop, "The king", length=1000)
    expect(desktop.document).not_to_be_editable()
    desktop.stop.click()
    desktop.wait_until_done()
    expect(desktop.document).to_be_editable()


def test_a_value_out_of_range_is_put_into_it(desktop: GeneratePage) -> None:
    desktop.document.fill("A cat")
    desktop.set_number("length", 10)
    box = desktop.page.locator("#temperature input[type=number]")
    box.fill("9")
    box.press("Control+Enter")
    expect(desktop.status).to_contain_text("tokens/s")
    expect(box).to_have_value("2")
    desktop.wait_until_done()
    assert desktop.document.input_value() != "A cat"


def test_the_keyboard_is_enough(desktop: GeneratePage) -> None:
    desktop.choose_model("endless")
    desktop.set_number("length", 1000)
    desktop.document.fill("")
    desktop.document.press_sequentially("The king")
    desktop.record()
    desktop.document.press("Control+Enter")
    desktop.page.wait_for_function("window.seen.length > 3")
    desktop.page.keyboard.press("Escape")
    desktop.wait_until_done()
    text = desktop.document.input_value()
    assert text.startswith("The king")
    assert len(text) > len("The king")


def test_a_wrong_setting_is_a_sentence_and_the_text_stays(desktop: GeneratePage) -> None:
    desktop.open_more()
    desktop.page.locator("#seed textarea, #seed input").fill("minus one")
    desktop.document.fill("Precious words")
    desktop.generate.click()
    alert = desktop.page.get_by_role("alert")
    expect(alert).to_contain_text("Seed: minus one was given; allowed: a whole number")
    assert "Traceback" not in alert.inner_text()
    expect(desktop.document).to_have_value("Precious words")
    expect(desktop.generate).to_be_enabled()


def test_examples_fill_the_text(desktop: GeneratePage) -> None:
    desktop.document.fill("My own beginning")
    desktop.page.get_by_role("button", name="To be, or not to be").click()
    expect(desktop.document).to_have_value("To be, or not to be")
    desktop.undo.click()
    expect(desktop.document).to_have_value("My own beginning")


def test_markup_in_a_text_stays_text(desktop: GeneratePage) -> None:
    desktop.set_number("beams", 2)
    start(desktop, "<img src=x onerror=alert(1)><b>", length=5)
    desktop.wait_until_done()
    assert desktop.document.input_value().startswith("<img src=x onerror=alert(1)><b>")
    assert desktop.page.locator("#hypotheses img").count() == 0


def test_phone_in_chinese(open_page: OpenPage) -> None:
    phone = {"width": 390, "height": 844}
    page = GeneratePage(open_page(viewport=phone, locale="zh-CN", is_mobile=True, has_touch=True, color_scheme="dark"))
    expect(page.generate).to_have_text("生成")
    expect(page.stop).to_have_text("停止")
    expect(page.page.locator("#temperature")).to_contain_text("温度")
    expect(page.page.get_by_text("更多设置")).to_be_visible()
    page.choose_model("small")
    start(page, "国王", length=30, beams=3)
    page.wait_until_done()
    assert page.document.input_value().startswith("国王")
    expect(page.status).to_contain_text("个词元")
    width = page.page.evaluate("document.documentElement.scrollWidth")
    assert width <= phone["width"]
    box = page.generate.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= phone["width"]


def test_the_language_can_be_switched_without_losing_the_text(desktop: GeneratePage) -> None:
    desktop.document.fill("Half a sentence, 半句话")
    desktop.page.locator("#language").click()
    expect(desktop.generate).to_have_text("生成")
    expect(desktop.document).to_have_value("Half a sentence, 半句话")
    desktop.page.reload()
    expect(desktop.generate).to_have_text("生成")
    desktop.page.locator("#language").click()
    expect(desktop.generate).to_have_text("Generate")


def test_the_model_is_described(desktop: GeneratePage) -> None:
    desktop.page.locator("#about > button").click()
    about = desktop.page.locator("#about-text")
    expect(about).to_contain_text("nats per character")
    desktop.choose_model("endless")
    expect(about).to_contain_text("2 × 1024 units")


def test_a_reload_during_generation_leaves_a_page_that_works(open_page: OpenPage) -> None:
    # Gradio's own code reports the stream that the reload cut off.
    desktop = GeneratePage(open_page(forgive=("AbortError", "errored out")))
    desktop.choose_model("endless")
    start(desktop, "The king", length=1000)
    desktop.page.wait_for_function("window.seen.length > 2")
    desktop.page.reload()
    desktop.document.wait_for()
    desktop.choose_model("small")
    start(desktop, "A cat", length=10)
    desktop.wait_until_done()
    assert desktop.document.input_value().startswith("A cat")
