from __future__ import annotations

import json
from dataclasses import replace
from math import inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ui.reader import Reader
from textgen.studio import Copied, TextAlternative, TextSample, TextToken
from textgen.ui.gallery import finished_gallery, growing_gallery
from textgen.ui.render import percent
from textgen.ui.tokens import tokens_html, tokens_panel


def sample(*texts: str, share: float = 0.42) -> TextSample:
    tokens, start = [], 0
    for text in texts:
        others = (TextAlternative("<other>", log(0.25)), TextAlternative(text, log(share)), TextAlternative("", -20.0))
        tokens.append(TextToken(text, log(share), log(0.6), others, start))
        start += len(text)
    return TextSample("".join(texts), "length", tuple(tokens), -1.0)


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (1.0, "100 %"), (0.997, ">99 %"), (0.986, "99 %"), (0.42, "42 %"), (0.0999, "10 %"), (0.0342, "3.4 %"),
        (0.001, "0.1 %"), (0.0001, "<0.1 %"),
    ],
)  # fmt: skip
def test_probabilities_are_shown_as_percentages(share: float, shown: str) -> None:
    assert percent(log(share)) == shown


def test_nothing_is_impossible_but_the_impossible() -> None:
    assert percent(-inf) == "0 %"
    assert percent(1e-9) == "100 %"  # rounding may give a little more than certainty


def test_every_token_is_a_button_with_its_percentage() -> None:
    reader = Reader(tokens_html("Once ", sample("upon", " a\n", ""), "en"))
    tokens = [attributes for tag, attributes in reader.elements if attributes.get("role") == "button"]
    assert [item["title"] for item in tokens] == ["42 %"] * 3
    assert [item["aria-label"] for item in tokens] == ["upon, 42 %", " a ↵ , 42 %", "end of the text, 42 %"]
    # One stop of the Tab key; arrow keys do the rest.
    assert [item["tabindex"] for item in tokens] == ["0", "-1", "-1"]
    assert "".join(reader.texts) == "upon a↵\n⏹"


def test_colours_go_by_how_sure_the_model_was() -> None:
    shares = {0.9: "s4", 0.8: "s4", 0.7: "s3", 0.3: "s2", 0.1: "s1", 0.01: "s0"}
    for share, level in shares.items():
        ((_, _group), (_, token), *_) = Reader(tokens_html("", sample("x", share=share), "en")).elements
        assert token["class"] == level, share


def test_what_a_click_needs_is_in_the_page() -> None:
    reader = Reader(tokens_html('Say "', sample("hi", "</div>"), "zh"))
    group = reader.elements[0][1]
    assert group["data-prompt"] == 'Say "'
    data = json.loads(group["data-tokens"] or "")
    assert data[1] == ["</div>", "60 %", [["<other>", "25 %"], ["</div>", "42 %"], ["", "<0.1 %"]]]
    labels = json.loads(group["data-labels"] or "")
    assert labels["rewind"] == "回退到此处"
    assert "{percent}" in labels["token_drawn"]


def test_copied_passages_are_underlined_named_and_explained() -> None:
    copied = replace(sample("a ", "<b>", "<c>", "d", ""), copied=Copied(((2, 8),), 0.6))
    reader = Reader(tokens_panel("x", copied, "en"))
    tokens = [attributes for tag, attributes in reader.elements if attributes.get("role") == "button"]
    assert [item["class"] for item in tokens] == ["s2", "s2 copied", "s2 copied", "s2", "s2"]
    assert tokens[1]["aria-label"] == "<b>, 42 %, copied from training"
    assert tokens[3]["aria-label"] == "d, 42 %"
    assert "copied from training" in reader.texts
    assert set(reader.tags) <= {"section", "header", "h3", "span", "div", "i", "p"}
    chinese = tokens_panel("x", copied, "zh")
    assert chinese.count("照抄训练文本") == 3
    assert "照抄训练文本" in finished_gallery("", [copied, copied], "zh")


def test_a_model_without_an_index_has_no_word_of_copies() -> None:
    for html in (tokens_panel("x", sample("y"), "en"), finished_gallery("", [sample("y")], "en")):
        assert "copied" not in html


def test_a_text_without_tokens_has_no_panel() -> None:
    assert tokens_panel("x", sample(), "en") == ""
    assert "How sure the model was" in tokens_panel("x", sample("y"), "en")


@given(st.text(), st.text())
def test_no_text_is_markup(prompt: str, text: str) -> None:
    reader = Reader(tokens_panel(prompt, sample(text, "x"), "en"))
    assert set(reader.tags) <= {"section", "header", "h3", "span", "div", "i", "p"}
    group = next(attributes for _, attributes in reader.elements if attributes.get("class") == "tokens")
    assert (group["data-prompt"], json.loads(group["data-tokens"] or "")[0][0]) == (prompt, text)
    cards = Reader(finished_gallery(prompt, [sample(text), sample("y")], "en") + growing_gallery([text, "y"], "en"))
    assert set(cards.tags) <= {"section", "header", "h3", "h4", "span", "div", "i", "p", "ol", "li", "button"}
    taken = [attributes["data-text"] for tag, attributes in cards.elements if tag == "button"]
    assert taken == [prompt + text, prompt + "y"]


def test_a_gallery_shows_the_newest_of_every_text_as_it_grows() -> None:
    html = growing_gallery(["a" * 5000 + "end", ""], "zh")
    reader = Reader(html)
    assert "2 篇续文" in reader.texts
    assert "第 2 篇" in reader.texts
    assert any(text.startswith("…a") and text.endswith("end") for text in reader.texts)
    # Sent many times a second, it stays small however long the texts get.
    assert len(html) < 1500


def test_a_finished_gallery_says_why_each_text_ended() -> None:
    texts = Reader(finished_gallery("", [sample("a"), sample("b")], "en")).texts
    assert texts.count("full length") == 2
    assert texts.count("Use this") == 2
