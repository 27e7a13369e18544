from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.studio import TextHypothesis
from textgen.ui.render import error_html, hypotheses_html, status_html

MARKUP = '<script>alert("x")</script> & <b>'


class Reader(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(st.text())
def test_text_is_never_markup(text: str) -> None:
    item = TextHypothesis(text, -1.0, True)
    for html in (status_html(text), error_html(text)):
        reader = Reader(html)
        assert reader.tags == ["div"]
        assert "<" not in html.split(">", 1)[1].removesuffix("</div>")
    assert Reader(hypotheses_html(text, [item], "en")).tags == ["section", "h3", "ol", "li", *["span"] * 3]
    taken = Reader(hypotheses_html(text, [item], "en", prompt="Once "))
    assert taken.tags == ["section", "h3", "ol", "li", *["span"] * 3, "button"]


def test_markup_is_shown_as_it_was_written() -> None:
    assert "".join(Reader(status_html(MARKUP)).texts) == MARKUP
    assert "".join(Reader(error_html(MARKUP)).texts) == MARKUP


@pytest.mark.parametrize(("busy", "live"), [(True, "off"), (False, "polite")])
def test_screen_readers_hear_the_status_when_it_settles(busy: bool, live: str) -> None:
    reader = Reader(status_html("Ready.", busy=busy))
    assert (reader.attributes["role"], reader.attributes["aria-live"]) == ("status", live)
    assert ("span" in reader.tags) == busy
    assert Reader(error_html("Oh.")).attributes["role"] == "alert"


def test_beams_are_listed_best_first_with_their_score() -> None:
    items = [TextHypothesis("one", -0.5, True), TextHypothesis("", -1.25, False)]
    reader = Reader(hypotheses_html("结果", items, "zh"))
    assert "结果" in reader.texts
    assert [text for text in reader.texts if "得分" in text] == ["得分 -0.500", "得分 -1.250"]
    assert hypotheses_html("Results", [], "en") == ""
    assert hypotheses_html("Results", items * 9, "en", limit=4).count("<li") == 4
