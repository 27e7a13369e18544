from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import gradio as gr
import pytest

from textgen.config import GenerationSettings
from textgen.errors import TextgenError
from textgen.limits import Limits
from textgen.studio import Studio, TextStream
from textgen.ui.controls import PAGE_DEFAULTS, controls, shown_value
from textgen.ui.generate import GenerateTab
from textgen.ui.i18n import build_i18n, say
from textgen.ui.link import read_query

CONTROLS = controls(Limits())
VALUES: dict[str, Any] = {control.field: shown_value(control, PAGE_DEFAULTS) for control in CONTROLS}
VALUES |= {"max_new_tokens": 20, "seed": "1"}


class Shown(NamedTuple):
    """One update of the page, in the order of the handler's outputs. What stays as it is keeps its last value."""

    text: str
    status: str
    results: str
    tokens: str
    link: str
    go: gr.Button
    go_on: gr.Button
    stop: gr.Button
    model: Any


@pytest.fixture(scope="module")
def tab(studio: Studio) -> GenerateTab:
    return make_tab(studio)


def make_tab(studio: Studio) -> GenerateTab:
    ticks = iter(range(10**9))
    with gr.Blocks():
        # By this clock a second passes at every look, so that every event is shown.
        return GenerateTab(studio, build_i18n(), gr.Dropdown(), gr.Textbox(), clock=lambda: float(next(ticks)))


def generate(
    tab: GenerateTab, text: str, *, model: str | None = "tiny", language: str = "en", session: str = "s", **changes: Any
) -> Iterator[Shown]:
    assert changes.keys() <= VALUES.keys()
    request: Any = SimpleNamespace(session_hash=session)
    last: Any = ("",) * 9
    for update in tab.generate(request, language, model, text, *{**VALUES, **changes}.values()):
        last = tuple(old if is_skip(new) else new for old, new in zip(last, update, strict=True))
        yield Shown(*last)


def is_skip(value: Any) -> bool:
    return isinstance(value, dict) and value == gr.skip()


def buttons(shown: Shown) -> tuple[bool, bool]:
    assert shown.go.interactive == shown.go_on.interactive
    return bool(shown.go.interactive), bool(shown.stop.interactive)


@pytest.mark.parametrize("prompt", ["", "Mira ", "小猫🌙\n"])
def test_text_streams_in_after_the_prompt(tab: GenerateTab, prompt: str) -> None:
    first, *middle, last = list(generate(tab, prompt))
    assert (first.text, buttons(first)) == (prompt, (False, True))
    assert say("status_reading", "en") in first.status
    assert len(middle) > 3
    texts = [shown.text for shown in [first, *middle, last]]
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert all(buttons(shown) == (False, True) for shown in middle)
    begun, *written = middle
    assert say("status_reading", "en") in begun.status
    assert all("tokens/s" in shown.status and "seed 1" in shown.status for shown in written)
    assert all("tiny on " in shown.status for shown in [*middle, last])
    assert buttons(last) == (True, False)
    assert "full length" in last.status or "came to its end" in last.status
    assert last.text != prompt


def test_copies_are_told_and_avoided_where_the_model_knows_its_text(tab: GenerateTab) -> None:
    values: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 60}
    last = list(generate(tab, "Mira ", **values))[-1]
    assert re.search(r"copied from training: [1-9][0-9.]* %", last.status)
    assert ' copied"' in last.tokens
    last = list(generate(tab, "Mira ", language="zh", **values, avoid_copying=True))[-1]
    assert "照抄训练文本：0 %" in last.status
    assert "avoid_copying=1" in last.link
    several = list(generate(tab, "Mira ", **values, num_samples=2))[-1]
    assert "copied from training: " in several.status
    plain = list(generate(tab, "Mira ", model="endless"))[-1]
    assert "copied" not in plain.status + plain.tokens
    refused = list(generate(tab, "Mira ", model="endless", avoid_copying=True))[-1]
    assert "Avoid copying: a model without an index was given" in refused.status
    refused = list(generate(tab, "Mira ", model="endless", language="zh", avoid_copying=True))[-1]
    assert "可用命令 textgen index 生成" in refused.status


def test_the_seed_that_is_shown_gives_the_same_text(tab: GenerateTab) -> None:
    last = list(generate(tab, "Old ", seed=""))[-1]
    seed = last.status.split("seed ")[1].split()[0]
    assert list(generate(tab, "Old ", seed=seed))[-1].text == last.text


def test_a_finished_text_is_coloured_and_only_then(tab: GenerateTab) -> None:
    *before, last = list(generate(tab, "Mira "))
    assert all(shown.tokens == "" for shown in before)
    assert 'data-prompt="Mira "' in last.tokens
    assert last.tokens.count('role="button"') == int(last.status.split(">")[3].split()[0])
    # A next text keeps the colours of the one before until it has its own: the page does not jump.
    request_: Any = SimpleNamespace(session_hash="s")
    updates = list(tab.generate(request_, "en", "tiny", "Mira ", *VALUES.values()))
    assert all(is_skip(update[3]) for update in updates[:-1])


def test_several_texts_grow_side_by_side(tab: GenerateTab) -> None:
    first, begun, *middle, last = list(generate(tab, "The ", num_samples=3))
    assert first.results == ""
    assert begun.results.count("<li>") == 3
    assert all(shown.text == "The " for shown in [begun, *middle, last])
    assert middle[-1].results.count("growing") == 3
    assert last.results.count('class="take') == 3
    assert last.results.count('class="tokens"') == 3
    assert last.tokens == ""
    alone = list(generate(tab, "The "))[-1]
    assert f'data-text="{alone.text}' in last.results  # the first of several is the one that comes alone


def test_beams_show_the_best_so_far_and_then_the_results(tab: GenerateTab) -> None:
    first, *middle, last = list(generate(tab, "The ", num_beams=3, num_return=3, max_new_tokens=8))
    assert first.results == ""
    assert any("Best so far" in shown.results and "<li" in shown.results for shown in middle)
    assert all("searching" in shown.status for shown in middle[1:])
    assert middle[-1].text == last.text
    assert "Results" in last.results
    assert last.results.count("<li") == 3
    assert "<svg" in last.results
    assert last.text.startswith("The ")
    assert "seed 1" not in last.status
    # The best of them is coloured as any other text.
    assert 'data-prompt="The "' in last.tokens
    assert last.tokens.count('role="button"') == int(last.status.split(">")[3].split()[0])
    single = list(generate(tab, "The ", num_beams=3, num_return=1, max_new_tokens=8))[-1]
    assert "<li" not in single.results
    assert "<svg" in single.results
    assert single.text == last.text


def test_the_address_gets_what_made_the_text(tab: GenerateTab) -> None:
    first, begun, *_, last = list(generate(tab, "Old ", seed="", temperature=0.5))
    assert first.link == ""
    assert begun.link == "model=tiny&prompt=Old%20&temperature=0.5&max_new_tokens=20"
    assert last.link.startswith(begun.link + "&seed=")
    assert "Link</button>" in last.status
    link = read_query(last.link, CONTROLS, lambda _: True)
    assert link is not None
    values = {control.field: shown_value(control, link.settings) for control in CONTROLS}
    assert list(generate(tab, link.prompt or "", model=link.model, **values))[-1].text == last.text


def test_a_link_fills_the_page(tab: GenerateTab) -> None:
    link, prompt, status = tab.open_link("?model=tiny&prompt=Old+&top_k=5", "en")
    assert link is not None
    assert (link.model, link.settings.top_k, prompt) == ("tiny", 5, "Old ")
    assert "Opened from a link" in status
    link, prompt, status = tab.open_link("?model=gone&top_k=x&<b>=1", "zh")
    assert link is not None
    assert (link.model, is_skip(prompt)) == (None, True)
    assert "链接中无法识别而略去的内容：model、Top-k" in status.replace(", ", "、") or "Top-k" in status
    assert "<b>" not in status
    link, prompt, status = tab.open_link("", "en")
    assert (link, is_skip(prompt), is_skip(status)) == (None, True, True)


def test_words_can_be_favoured_by_name(tab: GenerateTab) -> None:
    plain = list(generate(tab, "The ", temperature=0.0))[-1].text
    word = plain.removeprefix("The ").split()[0].strip(".,")
    rare = list(generate(tab, "The ", temperature=0.0, banned=word))[-1].text
    assert word not in rare.removeprefix("The ")
    error = list(generate(tab, "The ", logit_bias="notapieceofthis = 2"))[-1]
    assert "Favour or avoid words" in error.status


def test_chinese_pages_are_answered_in_chinese(tab: GenerateTab) -> None:
    shown = list(generate(tab, "", language="zh"))
    assert "正在读取" in shown[0].status
    assert "词元" in shown[-1].status
    error = list(generate(tab, "", language="zh", seed="x"))[-1]
    assert "允许" in error.status


def test_a_model_that_is_gone_is_chosen_no_longer(tab: GenerateTab) -> None:
    gone = list(generate(tab, "Mira ", model="gone"))[-1].model
    assert gone.choices == [("endless", "endless"), ("spoilt", "spoilt"), ("tiny", "tiny")]
    assert gone.value == "endless"
    assert list(generate(tab, "Mira ", model="spoilt"))[-1].model == ""
    assert list(generate(tab, "Mira "))[-1].model == ""


def test_a_list_of_models_that_cannot_be_read_leaves_the_page_usable(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").symlink_to(models, target_is_directory=True)
    folder = tmp_path / "models"
    iterdir, looks = Path.iterdir, []

    def look(path: Path) -> Iterator[Path]:
        if path == folder:
            looks.append(path)
            if len(looks) > 2:  # whoever looks for a model looks for its name, then for its title
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return iterdir(path)

    with Studio([folder], device="cpu") as studio:
        monkeypatch.setattr(Path, "iterdir", look)
        last = list(generate(make_tab(studio), "Mira ", model="gone"))[-1]
    assert len(looks) == 3
    assert "not there" in last.status
    assert buttons(last) == (True, False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": "x"}, "Seed: x was given"),
        ({"model": "gone"}, "This model is not there, or not any longer. There is: endless, spoilt, tiny."),
        ({"model": None}, "This model is not there"),
        ({"model": "spoilt"}, "model.safetensors"),
        ({"stop": "\ud800"}, "surrogate"),
        ({"banned": "\ud800"}, "surrogate"),
        ({"max_new_tokens": 4001}, "Length (tokens): 4001"),
    ],
)
def test_errors_are_sentences_and_leave_the_text(tab: GenerateTab, changes: dict[str, Any], said: str) -> None:
    text = changes.pop("text", "my text")
    last = list(generate(tab, text, **changes))[-1]
    assert said in last.status
    assert 'role="alert"' in last.status
    assert last.text == text
    assert buttons(last) == (True, False)


def test_halves_of_characters_are_replaced_rather_than_refused(tab: GenerateTab) -> None:
    shown = list(generate(tab, "a\ud800b\ud83c\udf19"))
    assert shown[0].text == "a\ufffdb🌙"
    assert shown[-1].text.startswith("a\ufffdb🌙")
    assert "tokens/s" in shown[-1].status


def test_what_stays_as_it_is_is_not_sent_again(tab: GenerateTab) -> None:
    updates = list(tab.generate(request("s"), "en", "tiny", "Mira ", *VALUES.values()))
    buttons = [[not is_skip(part) for part in update[5:8]] for update in updates]
    assert buttons == [[True] * 3, *[[False] * 3] * (len(updates) - 2), [True] * 3]
    results, links = ([not is_skip(update[place]) for update in updates] for place in (2, 4))
    assert sum(results) == 1
    assert 1 <= sum(links) <= 2


def test_the_more_are_writing_the_less_often_each_is_shown(studio: Studio) -> None:
    """By a clock of which every look takes a hundredth of a second."""
    ticks = iter(range(10**9))
    with gr.Blocks():
        tab = GenerateTab(studio, build_i18n(), gr.Dropdown(), gr.Textbox(), clock=lambda: next(ticks) / 100)
    counts = []
    for others in (0, 30):
        for number in range(others):
            tab._running.start(f"other{number}", cast("TextStream", object()))
        counts.append(len(list(generate(tab, "x", model="endless", max_new_tokens=300))))
    assert counts[0] > 4 * counts[1] > 4


def test_what_runs_an_adapted_model_is_named(tab: GenerateTab) -> None:
    shown = list(generate(tab, "Mira found a key. " * 5, adapt=True))
    assert any(say("status_learning", "en") in one.status for one in shown)
    assert "tiny on PyTorch fp32" in shown[-1].status


@pytest.mark.slow
def test_a_long_text_is_continued_from_its_end(tab: GenerateTab, studio: Studio) -> None:
    end = "The captain found a "
    text = "x" * 10 + "月" * studio.limits.max_prompt_chars
    long = text[: -len(end)] + end
    shown = list(generate(tab, long))[-1]
    assert shown.text.startswith(long)
    assert "read from its last 20,000 characters" in shown.status
    other = "y" * 10 + long[10:]
    assert list(generate(tab, other))[-1].text[10:] == list(generate(tab, long))[-1].text[10:]


@pytest.mark.parametrize("error", [RuntimeError("secret"), TextgenError("a sentence")])
def test_an_error_amid_a_text_leaves_what_was_written(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    tab = make_tab(studio)
    updates = generate(tab, "Mira ", max_new_tokens=1000, model="endless")
    shown = next(updates)
    while shown.text == "Mira ":
        shown = next(updates)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("textgen.text.tokenizer.StreamDecoder.push", fail)
    last = [shown, *updates][-1]
    assert last.text.startswith(shown.text)
    assert "secret" not in last.status
    assert ("a sentence" in last.status) == isinstance(error, TextgenError)
    assert ("generation failed" in caplog.text) == isinstance(error, RuntimeError)
    assert buttons(last) == (True, False)


def test_stop_ends_the_text_of_this_page_and_leaves_it(tab: GenerateTab) -> None:
    stopped = generate(tab, "x", model="endless", max_new_tokens=1000, session="one")
    other = generate(tab, "x", model="endless", max_new_tokens=30, session="two")
    next(other)
    shown = next(stopped)
    while shown.text == "x":
        shown = next(stopped)
    tab.stop_generating(request("one"))
    last = list(stopped)[-1]
    assert last.text.startswith(shown.text)
    assert say("reason_cancelled", "en") in last.status
    assert int(last.status.split(">")[3].split()[0].replace(",", "")) < 1000
    assert buttons(last) == (True, False)
    assert say("reason_length", "en") in list(other)[-1].status


def test_stop_before_the_model_is_there_counts_too(tab: GenerateTab) -> None:
    updates = generate(tab, "x", model="endless", max_new_tokens=1000, session="early")
    next(updates)
    tab.stop_generating(request("early"))
    assert say("reason_cancelled", "en") in list(updates)[-1].status


def test_a_page_that_goes_away_frees_its_place(models: Path) -> None:
    studio = Studio([models], device="cpu")
    updates = make_tab(studio).generate(request("gone"), "en", "endless", "x", *VALUES.values())
    next(updates)
    next(updates)
    engine = studio.load("endless").engine
    updates.close()  # type: ignore[attr-defined]
    # Another request is done in full only after a round in which the first was found to be unwanted.
    list(studio.generate("endless", "", GenerationSettings(max_new_tokens=3)))
    assert engine.live_rows == 0
    studio.close()


def test_many_pages_at_once_each_get_their_own_text(tab: GenerateTab) -> None:
    texts: dict[str, str] = {}

    def page(name: str) -> None:
        texts[name] = list(generate(tab, name, session=name, max_new_tokens=15))[-1].text

    threads = [threading.Thread(target=page, args=(f"Page {number} ",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(text.startswith(name) and text != name for name, text in texts.items())
    assert texts["Page 3 "] == list(generate(tab, "Page 3 ", max_new_tokens=15))[-1].text


def request(session: str) -> Any:
    return SimpleNamespace(session_hash=session)
