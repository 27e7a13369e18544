from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ui.reader import Reader
from textgen.studio import TextHypothesis
from textgen.ui.render import error_html, hypotheses_html, link_button, status_html

MARKUP = '<script>alert("x")</script> & <b>'


@given(st.text())
def test_text_is_never_markup(text: str) -> None:
    item = TextHypothesis(text, -1.0, True)
    assert Reader(status_html(text, where=text)).tags == ["div", "div", "span", *(["div", "span"] if text else [])]
    assert Reader(error_html(text)).tags == ["div"]
    assert Reader(hypotheses_html(text, [item], "en")).tags == ["section", "h3", "ol", "li", *["span"] * 3]
    taken = Reader(hypotheses_html(text, [item], "en", prompt="Once "))
    assert taken.tags == ["section", "h3", "ol", "li", *["span"] * 3, "button"]
    assert taken.attributes["data-text"] == f"Once {text}"


def test_markup_is_shown_as_it_was_written() -> None:
    assert "".join(Reader(status_html(MARKUP)).texts) == MARKUP
    assert "".join(Reader(error_html(MARKUP)).texts) == MARKUP


@pytest.mark.parametrize(("busy", "live"), [(True, "off"), (False, "polite")])
def test_screen_readers_hear_the_status_when_it_settles(busy: bool, live: str) -> None:
    reader = Reader(status_html("Ready.", busy=busy))
    assert (reader.elements[0][1]["role"], reader.elements[0][1]["aria-live"]) == ("status", live)
    assert any(attributes.get("class") == "dot" for _, attributes in reader.elements) == busy
    assert Reader(error_html("Oh.")).attributes["role"] == "alert"


@pytest.mark.parametrize(("complete", "done"), [(True, "Copied"), (False, "Copied without the text")])
def test_a_link_is_a_button_that_says_what_it_copied(complete: bool, done: str) -> None:
    reader = Reader(status_html("Done.", link=link_button("en", complete=complete)))
    assert str(reader.attributes["data-done"]).startswith(done)
    assert reader.texts == ["Done.", "Link"]


def test_beams_are_listed_best_first_with_their_score() -> None:
    items = [TextHypothesis("one", -0.5, True), TextHypothesis("", -1.25, False)]
    reader = Reader(hypotheses_html("结果", items, "zh"))
    assert "结果" in reader.texts
    assert [text for text in reader.texts if "得分" in text] == ["得分 -0.500", "得分 -1.250"]
    assert hypotheses_html("Results", [], "en") == ""
    assert hypotheses_html("Results", items * 9, "en", limit=4).count("<li") == 4
