"""The Generate tab, used as a person would."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import unfold

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
        self.results: Locator = page.locator("#results")
        self.hypotheses: Locator = page.locator("#results .beams li")
        self.tokens: Locator = page.locator("#tokens .tokens > [role=button]")
        self.card: Locator = page.locator(".token-card")

    def choose_model(self, name: str) -> None:
        self.page.locator("#model input").click()
        self.page.get_by_role("option", name=name).click()
        expect(self.page.locator("#model input")).to_have_value(name)

    def set_number(self, control: str, value: float) -> None:
        box = self.page.locator(f"#{control} input[type=number]")
        box.fill(str(value))
        box.press("Tab")
        expect(box).to_have_value(str(value))

    def unfold(self, name: str) -> None:
        unfold(self.page, name)

    def set_text(self, control: str, value: str) -> None:
        self.page.locator(f"#{control} textarea, #{control} input").fill(value)

    def number(self, control: str) -> Locator:
        return self.page.locator(f"#{control} input[type=number]")

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

    def query(self) -> dict[str, list[str]]:
        """What stands in the page's address."""
        return parse_qs(urlsplit(self.page.url).query)


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
    desktop.unfold("several")
    desktop.set_text("seed", "42")
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
    desktop.unfold("beams")
    desktop.choose_model("endless")
    desktop.set_number("num-return", 3)
    start(desktop, "The king", length=300, beams=4)
    expect(desktop.hypotheses).to_have_count(4)
    expect(desktop.page.locator("#results h3")).to_have_text("Best so far")
    first = desktop.hypotheses.first.inner_text()
    expect(desktop.hypotheses.first).not_to_have_text(first)
    desktop.wait_until_done()
    expect(desktop.page.locator("#results h3")).to_have_text("Results")
    expect(desktop.hypotheses).to_have_count(3)
    scores = [float(text.split()[-1]) for text in desktop.page.locator(".beam-score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    best, second = (desktop.hypotheses.nth(number).locator(".beam-text").text_content() for number in (0, 1))
    written = desktop.document.input_value()
    assert readable(written) == readable(f"The king{best}")
    desktop.hypotheses.nth(1).get_by_role("button", name="Use this").click()
    expect(desktop.document).not_to_have_value(written)
    assert readable(desktop.document.input_value()) == readable(f"The king{second}")
    desktop.undo.click()
    expect(desktop.document).to_have_value(written)
    # What was shown with a text comes back with it.
    expect(desktop.hypotheses).to_have_count(3)
    tree = desktop.page.locator("#results .tree")
    tree.locator("summary").click()
    expect(tree.get_by_role("img", name="Search tree")).to_be_visible()
    expect(tree.locator("circle.rank")).to_have_count(3)


def readable(text: str) -> str:
    """`text` without characters that browsers change: an untrained model writes those too."""
    return re.sub(r"[\x00-\x1f\ufffd]", "", text)


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


def test_a_click_on_a_token_shows_what_else_it_might_have_been(desktop: GeneratePage) -> None:
    start(desktop, "A cat", length=30)
    desktop.wait_until_done()
    written = desktop.document.input_value()
    expect(desktop.tokens.first).to_be_visible()
    assert "".join(text for text, *_ in tokens_data(desktop)) == written.removeprefix("A cat")
    assert "%" in str(desktop.tokens.nth(4).get_attribute("title"))
    desktop.tokens.nth(4).click()
    expect(desktop.card).to_contain_text("%")
    before = "A cat" + "".join(text for text, *_ in tokens_data(desktop)[:4])
    own = tokens_data(desktop)[4][0]
    other = next(text for text, _ in tokens_data(desktop)[4][2] if text not in (own, ""))
    place = [text for text, _ in tokens_data(desktop)[4][2] if text != own].index(other)
    desktop.record()
    desktop.card.locator("button.alternative").nth(place).click()
    expect(desktop.card).to_have_count(0)
    desktop.page.wait_for_function("window.seen.length > 2")
    desktop.wait_until_done()
    assert desktop.document.input_value().startswith(before + other)
    assert before + other in desktop.recorded()
    desktop.undo.click()
    expect(desktop.document).to_have_value(before + other)
    desktop.undo.click()
    expect(desktop.document).to_have_value(written)
    expect(desktop.tokens.first).to_be_visible()


def tokens_data(page: GeneratePage) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """For each token its text, its percentage when drawn, and the alternatives with theirs."""
    data: str = page.page.locator("#tokens .tokens").get_attribute("data-tokens") or "[]"
    return list(json.loads(data))


def test_rewinding_takes_a_text_back_to_a_token(desktop: GeneratePage) -> None:
    start(desktop, "A cat", length=30)
    desktop.wait_until_done()
    written = desktop.document.input_value()
    texts = [text for text, *_ in tokens_data(desktop)]
    desktop.tokens.nth(6).click()
    desktop.card.get_by_role("button", name="Rewind to here").click()
    expect(desktop.document).to_have_value("A cat" + "".join(texts[:7]))
    expect(desktop.tokens.nth(7)).to_have_class(re.compile("cut"))
    desktop.tokens.nth(3).click()
    desktop.card.get_by_role("button", name="Rewind to before it").click()
    expect(desktop.document).to_have_value("A cat" + "".join(texts[:3]))
    desktop.undo.click()
    desktop.undo.click()
    expect(desktop.document).to_have_value(written)
    desktop.page.locator("#redo").click()
    expect(desktop.document).to_have_value("A cat" + "".join(texts[:7]))
    cut = "A cat" + "".join(texts[:7])
    desktop.page.locator("#continue").click()
    expect(desktop.document).not_to_have_value(cut)
    desktop.wait_until_done()
    assert desktop.document.input_value().startswith(cut)


def test_what_is_drawn_late_is_drawn_for_the_text_that_there_is_by_then(desktop: GeneratePage) -> None:
    """Someone who clicks at once after a text has ended must not see it drawn as it was before the click."""
    start(desktop, "A cat", length=12)
    desktop.wait_until_done()
    written = desktop.document.input_value()
    texts = [text for text, *_ in tokens_data(desktop)]
    cut = "A cat" + "".join(texts[:7])
    desktop.page.evaluate(
        """([written, cut]) => {
            const late = [], setTimeout = window.setTimeout;
            window.setTimeout = (action) => late.push(action);
            window.textgenUndo(written);
            window.textgenRedo("A cat");
            window.textgenWrite(cut);
            window.setTimeout = setTimeout;
            late.forEach((action) => action());
        }""",
        [written, cut],
    )
    assert "cut" in (desktop.tokens.nth(7).get_attribute("class") or "")
    expect(desktop.document).to_have_value(cut)


def test_tokens_are_those_of_the_newest_text(desktop: GeneratePage) -> None:
    """Also after those of the text before were looked at."""
    start(desktop, "A cat", length=15)
    desktop.wait_until_done()
    desktop.tokens.nth(3).click()
    desktop.page.keyboard.press("Escape")
    before = desktop.document.input_value()
    desktop.page.locator("#continue").click()
    expect(desktop.document).not_to_have_value(before)
    desktop.wait_until_done()
    texts = [text for text, *_ in tokens_data(desktop)]
    assert before + "".join(texts) == desktop.document.input_value()
    desktop.tokens.nth(5).click()
    expect(desktop.card.locator("header .word")).to_have_text(re.sub("^ +| +$", "␣", texts[5]).replace("\n", "↵"))
    desktop.card.get_by_role("button", name="Rewind to here").click()
    expect(desktop.document).to_have_value(before + "".join(texts[:6]))


def test_undo_brings_back_what_was_cut_and_where_it_came_from(desktop: GeneratePage) -> None:
    start(desktop, "A cat", length=15)
    desktop.wait_until_done()
    first, address = desktop.document.input_value(), desktop.page.url
    assert "seed=" in address
    desktop.page.locator("#continue").click()
    expect(desktop.document).not_to_have_value(first)
    desktop.wait_until_done()
    second, second_address = desktop.document.input_value(), desktop.page.url
    assert second_address != address
    cut = desktop.page.locator("#tokens .cut")
    desktop.tokens.nth(2).click()
    desktop.card.get_by_role("button", name="Rewind to here").click()
    expect(cut).not_to_have_count(0)
    desktop.undo.click()
    expect(desktop.document).to_have_value(second)
    expect(cut).to_have_count(0)
    desktop.undo.click()
    desktop.undo.click()
    expect(desktop.document).to_have_value("A cat")
    desktop.page.locator("#redo").click()
    expect(desktop.document).to_have_value(first)
    expect(desktop.page).to_have_url(address)
    desktop.page.locator("#redo").click()
    expect(desktop.page).to_have_url(second_address)
    expect(desktop.page.locator("#redo")).to_have_attribute("aria-disabled", "false")
    desktop.page.locator("#redo").click()
    expect(desktop.page.locator("#redo")).to_have_attribute("aria-disabled", "true")


def test_tokens_answer_to_the_keyboard(desktop: GeneratePage) -> None:
    start(desktop, "A cat", length=12)
    desktop.wait_until_done()
    texts = [text for text, *_ in tokens_data(desktop)]
    desktop.tokens.first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home", "ArrowRight", "ArrowRight"):
        desktop.page.keyboard.press(key)
    expect(desktop.tokens.nth(2)).to_be_focused()
    desktop.page.keyboard.press("Enter")
    expect(desktop.card).to_be_visible()
    desktop.page.keyboard.press("Escape")
    expect(desktop.card).to_have_count(0)
    expect(desktop.tokens.nth(2)).to_be_focused()
    desktop.page.keyboard.press("Space")
    desktop.page.keyboard.press("End")
    desktop.page.keyboard.press("ArrowUp")
    desktop.page.keyboard.press("Enter")
    expect(desktop.document).to_have_value("A cat" + "".join(texts[:3]))


def test_several_texts_stand_side_by_side_to_choose_from(desktop: GeneratePage) -> None:
    desktop.unfold("several")
    desktop.set_number("samples", 3)
    desktop.choose_model("endless")
    start(desktop, "The king", length=200)
    expect(desktop.page.locator("#results .growing")).to_have_count(3)
    desktop.wait_until_done()
    cards = desktop.page.locator("#results .gallery li")
    expect(cards).to_have_count(3)
    expect(desktop.document).to_have_value("The king")
    take = cards.nth(1).get_by_role("button", name="Use this")
    text = take.get_attribute("data-text") or ""
    take.click()
    expect(desktop.document).not_to_have_value("The king")
    assert readable(desktop.document.input_value()) == readable(text)
    expect(cards).to_have_count(3)
    expect(desktop.page.locator("#results .taken h4")).to_have_text(["Text 2"])
    desktop.undo.click()
    expect(desktop.document).to_have_value("The king")
    expect(cards).to_have_count(3)
    expect(desktop.page.locator("#results .taken")).to_have_count(0)
    cards.nth(2).locator(".tokens > [role=button]").nth(3).click()
    desktop.card.get_by_role("button", name="Rewind to here").click()
    assert desktop.document.input_value().startswith("The king")


def test_presets_fill_the_sliders_and_say_where_they_stand(desktop: GeneratePage) -> None:
    balanced, wild = desktop.page.get_by_label("Balanced"), desktop.page.get_by_label("Wild")
    expect(balanced).to_be_checked(timeout=60_000)
    wild.check()
    expect(desktop.number("temperature")).to_have_value("1.2")
    desktop.unfold("sampling")
    expect(desktop.number("min-p")).to_have_value("0.02")
    desktop.set_number("temperature", 0.35)
    expect(wild).not_to_be_checked()
    balanced.check()
    expect(desktop.number("temperature")).to_have_value("0.8")
    expect(desktop.number("min-p")).to_have_value("0")


def test_a_link_reproduces_a_text(desktop: GeneratePage, open_page: OpenPage, server: str) -> None:
    desktop.unfold("sampling")
    desktop.set_number("top-k", 30)
    start(desktop, "A cat\n", length=25)
    desktop.wait_until_done()
    written = desktop.document.input_value()
    query = desktop.query()
    assert query.keys() == {"model", "prompt", "top_k", "max_new_tokens", "seed"}
    assert (query["model"], query["prompt"], query["top_k"]) == (["small"], ["A cat\n"], ["30"])
    desktop.page.locator("#status .link").click()
    expect(desktop.page.locator("#status .link")).to_have_text("Copied")
    other = GeneratePage(open_page(address=desktop.page.url.removeprefix(server)))
    expect(other.status).to_contain_text("Opened from a link")
    expect(other.document).to_have_value("A cat\n")
    expect(other.number("length")).to_have_value("25")
    expect(other.page.locator("#model input")).to_have_value("small")
    other.press_generate()
    other.wait_until_done()
    assert other.document.input_value() == written
    # A reload shows the same settings, and the text as it stood there.
    other.page.reload()
    expect(other.document).to_have_value(written)


def test_a_bad_link_is_told_and_breaks_nothing(open_page: OpenPage) -> None:
    address = f"/?prompt=Once&temperature=hot&nonsense={quote('<b>x</b>')}&num_return=7&length_penalty=2&model=gone"
    page = GeneratePage(open_page(address=address))
    expect(page.page.get_by_role("alert")).to_contain_text("left out: Temperature, nonsense, Model, Results")
    expect(page.document).to_have_value("Once")
    expect(page.number("temperature")).to_have_value("0.8")
    page.unfold("beams")
    expect(page.number("length-penalty")).to_have_value("2")


def test_what_a_person_writes_while_the_page_opens_stays(open_page: OpenPage) -> None:
    page = GeneratePage(open_page())
    page.document.fill("Already writing")
    page.choose_model("small")
    expect(page.document).to_have_value("Already writing")


def test_the_newest_lines_stay_in_sight(desktop: GeneratePage) -> None:
    desktop.choose_model("endless")
    start(desktop, "\n" * 40, length=60)
    desktop.wait_until_done()
    at_end = "box => box.scrollTop + box.clientHeight >= box.scrollHeight - 5"
    desktop.page.wait_for_function(f"({at_end})(document.querySelector('#document textarea'))")


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
    desktop.unfold("several")
    desktop.set_text("seed", "minus one")
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
    assert desktop.page.locator("#results :is(img, b)").count() == 0
    desktop.set_number("beams", 1)
    start(desktop, "<img src=x onerror=alert(1)><b>", length=5)
    desktop.wait_until_done()
    assert desktop.page.locator("#tokens :is(img, b)").count() == 0


def test_phone_in_chinese(open_page: OpenPage) -> None:
    phone = {"width": 390, "height": 844}
    page = GeneratePage(open_page(viewport=phone, locale="zh-CN", is_mobile=True, has_touch=True, color_scheme="dark"))
    expect(page.generate).to_have_text("生成")
    expect(page.stop).to_have_text("停止")
    expect(page.page.locator("#temperature")).to_contain_text("温度")
    expect(page.page.get_by_text("一次多篇")).to_be_visible()
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
    # The card of alternatives too stays on the screen, wherever the word is.
    page.set_number("beams", 1)
    page.press_generate()
    page.wait_until_done()
    for token in (page.tokens.first, page.tokens.nth(7)):
        token.click()
        card = page.card.bounding_box()
        assert card is not None
        assert card["x"] >= 0
        assert card["x"] + card["width"] <= phone["width"]
        expect(page.card).to_contain_text("回退到此处")
        page.page.keyboard.press("Escape")


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
    expect(about).to_contain_text("nats per character", timeout=60_000)
    desktop.choose_model("endless")
    expect(about).to_contain_text("2 × 2048 units")


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


def test_the_api_is_described_without_another_host(open_page: OpenPage) -> None:
    # Gradio asks whether the host is watched in its own way, which is switched off.
    page = open_page(forgive=("403",))
    page.locator("footer .show-api").click()
    expect(page.get_by_text("3 Available MCP Tools")).to_be_visible(timeout=60_000)
    for language in ("JavaScript", "cURL", "Python"):
        page.get_by_text(language, exact=True).first.click()
        for name in ("/generate", "/score", "/models", "/train"):
            expect(page.get_by_text(name).first).to_be_visible(timeout=60_000)
