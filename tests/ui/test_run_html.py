from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest

from textgen.errors import DamagedFile, HoldsNoText, OutOfMemory, TextgenError, TrainingDiverged
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import RunState, RunStatus, error_details
from textgen.training.verdict import VerdictKind
from textgen.ui.i18n import Language, languages, say, say_error
from textgen.ui.run_html import (
    command_html,
    estimate_text,
    fit_html,
    head_html,
    judge_html,
    report_html,
    samples_html,
)
from textgen.workshop import PASTED, ImportedText, RunHistory, RunView, Upload, Verdict, VocabularyFit

LANGUAGES = tuple(languages())
HOSTILE = "</p></h3><script>alert(1)</script><img src=x onerror=\"alert('2')\"> & {curly} 月"
LATEST = {
    "step": 1200,
    "epoch": 1.5,
    "tokens_per_second": 5000.4,
    "seconds_left": 300.0,
    "elapsed_seconds": 600.0,
    "loss": 2.0,
}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> _Tags:
    """The tags and the text of a piece of HTML whose tags must be closed in order and be of ours."""
    tags = _Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    assert not tags.names & {"script", "img"}
    assert not any(name.startswith("on") for name in tags.attributes)
    return tags


def view(state: RunState, *, title: str = "Tales", position: int | None = None, **details: Any) -> RunView:
    status = RunStatus(state, 0.0, None, details)
    return RunView("run", title, "", 0.0, state, status, position, RunFolder(Path("run")))


def imported(**changes: Any) -> ImportedText:
    known = ImportedText(
        "a.txt", "txt", Path("t"), "utf-8", False, 10, 1234, 1, 0, ("first line",), (), None, (("Latin", 1.0),), None
    )
    return replace(known, **changes)


def upload(*texts: ImportedText) -> Upload:
    return Upload("id", Path("folder"), (), "", texts)


@pytest.mark.parametrize("language", LANGUAGES)
class TestHead:
    @pytest.mark.parametrize("state", get_args(RunState))
    @pytest.mark.parametrize("latest", [{}, LATEST], ids=["new", "trained"])
    def test_every_state_is_told(self, state: RunState, latest: dict[str, Any], language: Language) -> None:
        told = read(head_html(view(state, step=1200, progress=0.425), RunHistory(latest=latest), language))
        assert say(f"state_{state}", language) in told.text
        assert "Tales" in told.text

    def test_nothing_is_kept_of_what_has_not_begun(self, language: Language) -> None:
        told = read(head_html(view("stopped"), RunHistory(), language)).text
        assert say("state_unborn", language) in told
        assert say("state_stopped", language) not in told

    def test_how_far_it_is(self, language: Language) -> None:
        html = head_html(view("running", progress=0.425), RunHistory(latest=LATEST), language)
        assert 'aria-valuenow="42"' in html
        assert "width:42.5%" in html
        text = read(html).text
        for figure in ("1,200", "1.5", "5,000", say("duration_minutes", language, minutes="5")):
            assert figure in text

    @pytest.mark.parametrize("progress", [-5, 7, None, "x", float("nan"), [1]])
    def test_a_bar_stays_within_its_bounds(self, progress: object, language: Language) -> None:
        html = head_html(view("running", progress=progress), RunHistory(), language)
        assert 'aria-valuenow="0"' in html or 'aria-valuenow="100"' in html

    def test_a_waiting_run_tells_its_place(self, language: Language) -> None:
        text = read(head_html(view("queued", position=3), RunHistory(), language)).text
        assert say("run_position", language, position=3) in text
        assert say("run_no_room", language) not in text
        roomless = replace(view("queued", position=3), waits_for_room=True)
        assert say("run_no_room", language) in read(head_html(roomless, RunHistory(), language)).text

    @pytest.mark.parametrize("stage", ["reading", "tokenizer", "encoding"])
    def test_preparing_tells_what_and_how_far(self, stage: str, language: Language) -> None:
        text = read(head_html(view("preparing", stage=stage, done=1, total=4), RunHistory(), language)).text
        assert f"{say(f'stage_{stage}', language)} 25%" in text
        text = read(head_html(view("preparing", stage=stage, done=1, total=None), RunHistory(), language)).text
        assert say(f"stage_{stage}", language) in text
        assert "%" not in text

    @pytest.mark.parametrize("details", [{}, {"stage": "dancing"}, {"stage": 5, "done": "x", "total": 0}])
    def test_preparing_in_a_way_nobody_knows(self, details: dict[str, Any], language: Language) -> None:
        assert (
            say("state_preparing", language)
            in read(head_html(view("preparing", **details), RunHistory(), language)).text
        )

    def test_what_has_ended_tells_how_long_it_took(self, language: Language) -> None:
        history = RunHistory(latest=LATEST)
        text = read(head_html(view("finished", step=1300, early=True), history, language)).text
        time = say("duration_minutes", language, minutes="10")
        assert say("run_done", language, step="1,300", time=time) in text
        assert say("run_early", language) in text
        text = read(head_html(view("finished", step=1300), history, language)).text
        assert say("run_early", language) not in text

    @pytest.mark.parametrize("error", [TrainingDiverged(30, float("nan")), OutOfMemory(16, 48), HoldsNoText("月.txt")])
    def test_a_failure_is_told_in_the_language_of_the_page(self, error: TextgenError, language: Language) -> None:
        html = head_html(view("failed", **error_details(error)), RunHistory(), language)
        assert 'role="alert"' in html
        assert say_error(error, language) in read(html).text

    @pytest.mark.parametrize("details", [{}, {"error": "secret/path: KeyError"}, error_details(KeyError("secret"))])
    def test_an_unexpected_failure_tells_nothing_of_the_inside(
        self, details: dict[str, Any], language: Language
    ) -> None:
        text = read(head_html(view("failed", **details), RunHistory(), language)).text
        assert say("error_unexpected", language) in text
        assert "secret" not in text

    @pytest.mark.parametrize(
        "details",
        [
            {"error": "Of tomorrow.", "error_code": "of_tomorrow", "error_params": {}},
            {"error": "Of tomorrow.", "error_code": "no_text", "error_params": {"nothing": 1}},
            {"error": "Of tomorrow.", "error_code": "no_text"},
            {"error": "Of tomorrow.", "error_code": ["x"], "error_params": 3},
        ],
    )
    def test_a_failure_of_another_version_is_told_as_it_is(self, details: dict[str, Any], language: Language) -> None:
        assert "Of tomorrow." in read(head_html(view("failed", **details), RunHistory(), language)).text

    def test_an_interrupted_run_says_how_to_go_on(self, language: Language) -> None:
        text = read(head_html(view("interrupted"), RunHistory(), language)).text
        assert say("run_interrupted", language) in text

    def test_what_it_started_from_and_with(self, language: Language, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir()
        run = replace(view("running"), folder=folder)
        assert say("run_base", language, bases="") not in read(head_html(run, RunHistory(), language)).text
        folder.write_about(lineage=[HOSTILE, "plays"], pieces={"had": 900, "asked": 1000})
        text = read(head_html(run, RunHistory(), language)).text
        assert say("run_base", language, bases=f"{HOSTILE} ← plays") in text
        assert say("fewer_pieces", language, had="900", asked="1,000") in text
        folder.write_about(lineage=["plays", "plays", "tales"])
        assert say("run_base", language, bases="plays ← tales") in read(head_html(run, RunHistory(), language)).text

    def test_nothing_escapes(self, language: Language) -> None:
        failed = view("failed", title=HOSTILE, **error_details(HoldsNoText(HOSTILE)))
        text = read(head_html(failed, RunHistory(), language)).text
        assert text.count(HOSTILE) == 2
        read(head_html(view("preparing", stage=HOSTILE), RunHistory(), language))
        assert HOSTILE in read(command_html((HOSTILE, HOSTILE), language)).text


@pytest.mark.parametrize("language", LANGUAGES)
class TestReport:
    def test_every_file_is_told(self, language: Language) -> None:
        table = imported(name="t.csv", columns=("poem", "note"), column="poem", documents=60, duplicates=7)
        guessed = imported(name="g.txt", encoding="gb18030", guessed=True, scripts=(("Han", 0.9), ("Latin", 0.1)))
        refused = imported(name="bad.pdf", path=None, characters=0, problem=DamagedFile("bad.pdf", "PDF"))
        html = report_html(upload(table, guessed, refused), language)
        text = read(html).text
        assert say("import_total", language, characters="2,468", files="2") in text
        for part in (
            say("import_column", language, column="poem", columns="poem, note"),
            say("import_duplicates", language, count="7"),
            f"gb18030 ({say('import_guessed', language)})",
            "Han 90%, Latin 10%" if language == "en" else "汉字 90%, 拉丁字母 10%",
            say_error(DamagedFile("bad.pdf", "PDF"), language),
            "first line",
        ):
            assert part in text
        assert html.count('class="refused"') == 1

    def test_what_was_pasted_has_no_name_of_its_own(self, language: Language) -> None:
        text = read(report_html(upload(imported(name=PASTED)), language)).text
        assert say("pasted", language) in text

    def test_a_thousand_files_make_no_long_page(self, language: Language) -> None:
        html = report_html(upload(*(imported(name=f"{number}.txt") for number in range(1000))), language)
        assert html.count("<li") == 40
        assert "+960" in html

    def test_nothing_escapes(self, language: Language) -> None:
        told = imported(
            name=HOSTILE,
            encoding=HOSTILE,
            first_lines=(HOSTILE,),
            columns=(HOSTILE,),
            column=HOSTILE,
            scripts=((HOSTILE, 0.5),),
            problem=HoldsNoText(HOSTILE),
        )
        assert read(report_html(upload(told), language)).text.count(HOSTILE) == 7
        read(report_html(upload(replace(told, path=None)), language))

    def test_how_the_vocabulary_fits(self, language: Language) -> None:
        fit = VocabularyFit(254, 1000, 0.123, 0.254, ())
        text = read(fit_html(fit, language)).text
        assert say("fit", language, tokens="25", share="12.3%") in text
        warned = fit_html(replace(fit, unknown_scripts=("Cyrillic", HOSTILE)), language)
        assert 'role="alert"' in warned
        scripts = f"Cyrillic, {HOSTILE}" if language == "en" else f"西里尔字母、{HOSTILE}"
        assert scripts in read(warned).text


@pytest.mark.parametrize("language", LANGUAGES)
class TestJudgement:
    @pytest.mark.parametrize("kind", get_args(VerdictKind))
    def test_every_verdict_is_told(self, kind: VerdictKind, language: Language) -> None:
        history = RunHistory(held_out=[(0.0, 3.0), (1200.0, 2.0)])
        text = read(judge_html(history, Verdict(kind, 1200), language)).text
        assert say(f"verdict_{kind}", language, since="1,200") in text
        assert say("judge_before_after", language, before="3.000", after="2.000", step="1,200") in text

    def test_without_a_score_at_the_start_only_the_best_is_told(self, language: Language) -> None:
        history = RunHistory(held_out=[(300.0, 3.0), (1200.0, 2.0)])
        text = read(judge_html(history, Verdict("improving"), language)).text
        assert say("judge_best", language, after="2.000", step="1,200") in text

    def test_what_is_kept_of_the_base(self, language: Language) -> None:
        history = RunHistory(held_out=[(0.0, 3.0)], kept=[(0.0, 1.5), (10.0, 1.75)])
        text = read(judge_html(history, Verdict("too_early"), language)).text
        assert say("judge_kept", language, before="1.500", after="1.750") in text

    def test_what_is_copied(self, language: Language) -> None:
        def judged(**memorization: Any) -> str:
            sample = {"step": 10, "samples": ["a"], "memorization": memorization}
            return read(judge_html(RunHistory(samples=[sample]), Verdict("too_early"), language)).text

        assert say("judge_not_copied", language) in judged(copied_share=0.0)
        told = judged(copied_share=0.25, longest_text=f"{HOSTILE}\n\n  and on")
        assert say("judge_copied", language, share="25.0%", longest=f"{HOSTILE} and on") in told
        assert len(judged(copied_share=0.25, longest_text="long " * 1000)) < 600

    def test_every_evaluation_is_told_with_what_it_copied(self, language: Language) -> None:
        def sample(step: int, tokens: int, text: str, share: float) -> dict[str, Any]:
            memorization = {"copied_share": share, "longest_text": text, "longest_tokens": tokens}
            return {"step": step, "samples": ["a"], "memorization": memorization}

        history = RunHistory(
            held_out=[(100.0, 3.0), (200.0, 2.0), (1300.0, 2.25)],
            samples=[
                sample(0, 9, "before", 0.5),
                sample(100, 0, "", 0.0),
                sample(200, 12, HOSTILE, 0.034),
                sample(1300, 40, "x" * 500, 0.25),
            ],
        )
        html = judge_html(history, Verdict("overfitting", 200), language)
        text = read(html).text
        table = text[text.index(say("column_longest", language)) :]
        told = [say("copied_tokens", language, tokens=tokens) for tokens in (12, 40)]
        parts = [
            "100",
            "3.000",
            "0 %",
            "–",
            "200",
            "2.000",
            "3.4 %",
            told[0],
            HOSTILE,
            "1,300",
            "2.250",
            "25 %",
            told[1],
        ]
        places = [table.index(part) for part in parts]
        assert places == sorted(places)
        assert "before" not in table
        assert len(html) < 2_500
        assert html.count("<tr class=") == 1

    def test_of_many_evaluations_the_first_the_best_and_the_last_are_told(self, language: Language) -> None:
        held_out = [(float(step), 2.0 + abs(step - 1_230) / 1_000) for step in range(10, 10_010, 10)]
        html = judge_html(RunHistory(held_out=held_out), Verdict("improving"), language)
        steps = re.findall('<th scope="row">(.*?)</th>', html)
        assert 8 <= len(steps) <= 9
        assert {"10", "1,230", "10,000"} <= set(steps)

    @pytest.mark.parametrize("memorization", [None, [], {}, {"copied_share": "x"}, {"longest_tokens": []}])
    def test_figures_that_are_missing_leave_their_places_empty(self, memorization: object, language: Language) -> None:
        samples: list[Mapping[str, Any]] = [
            {"step": step, "samples": ["a"], "memorization": memorization} for step in (10, 20)
        ]
        read(
            judge_html(RunHistory(held_out=[(10.0, 3.0), (20.0, 2.0)], samples=samples), Verdict("flat", 10), language)
        )

    def test_nothing_to_judge_is_nothing(self, language: Language) -> None:
        assert judge_html(RunHistory(), Verdict("too_early"), language) == ""


@pytest.mark.parametrize("language", LANGUAGES)
class TestSamples:
    def test_a_strip_for_each_prompt(self, language: Language) -> None:
        lines = [{"step": 1000, "samples": ["one", HOSTILE]}, {"step": 2000, "samples": ["two"]}]
        html = samples_html(lines, language)
        assert html.count("<ol") == 2
        text = read(html).text
        assert text.index("two") < text.index("one") < text.index(HOSTILE)
        assert text.count(say("sample_step", language, step="1,000")) == 2

    def test_other_prompts_have_strips_of_their_own(self, language: Language) -> None:
        lines = [
            {"step": 1, "samples": ["A fox.", "The end"], "prompts": ["A", "The"]},
            {"step": 2, "samples": ["The sea", "Mira"], "prompts": ["The", "Mira"]},
        ]
        strips = samples_html(lines, language).split("<ol")[1:]
        assert [("The sea" in strip, "The end" in strip, "A fox" in strip) for strip in strips] == [
            (True, True, False),
            (False, False, False),
            (False, False, True),
        ]

    def test_the_first_and_the_last_of_many_are_shown(self, language: Language) -> None:
        lines = [{"step": step, "samples": [f"text {step}."]} for step in range(100)]
        text = read(samples_html(lines, language)).text
        assert "text 0." in text
        assert "text 99." in text
        assert "text 50." not in text
        assert text.count("text ") == 12

    def test_none_yet(self, language: Language) -> None:
        assert samples_html([], language) == ""
        read(samples_html([{"step": 5, "samples": []}], language))
        assert "&nbsp;" in samples_html([{"step": 5, "samples": [""]}], language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_estimate_is_a_sentence(language: Language) -> None:
    training = {"seconds": 180.0, "passes": 12.34, "tokens_per_second": 5000.0, "disk_bytes": 40_000_000}
    figures: dict[str, Any] = {"training": {**training, "peak_bytes": 400_000_000}, "free_bytes": 9_000_000_000}
    told = {"minutes": "3.0", "passes": "12.3", "rate": "5,000", "memory": "400", "disk": "40", "free": "9,000"}
    assert estimate_text(figures, language) == say("estimated", language, **told)
    unknown = {"training": {**training, "peak_bytes": None}, "free_bytes": None}
    assert estimate_text(unknown, language) == say("estimated", language, **{**told, "memory": "?", "free": "?"})


def test_an_evaluation_that_comes_while_a_run_is_drawn_does_no_harm() -> None:
    class Growing(RunHistory):
        """Another thread reads a line whenever the best is looked for."""

        @property
        def best(self) -> tuple[float, float] | None:
            step, value = self.held_out[-1]
            self.held_out.append((step + 10.0, value - 0.1))
            return super().best

    history = Growing(held_out=[(0.0, 3.0), (10.0, 2.0)])
    html = judge_html(history, Verdict("improving"), "en")
    assert html.count('class="best"') == 1
