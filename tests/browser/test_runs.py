"""The runs of the Train tab in a real browser: compared, steered while they train, seen from elsewhere."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import pages, requests_of, served, wait_until_quiet
from tests.grammar import make_text
from textgen.config import ModelSettings, RunSettings, TextSettings, TrainingSettings
from textgen.jobs.manager import JobManager
from textgen.jobs.run_folder import run_of
from textgen.jobs.run_view import RunView

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_WAIT = 150_000
_DEADLINE_SECONDS = 150.0


@dataclass
class RunsPage:
    """The list of runs as a person uses it."""

    page: Page

    def __post_init__(self) -> None:
        self.page.get_by_role("tab", name=re.compile("Train|训练")).click()
        self.head = self.page.locator("#run-head section")
        self.plot = self.page.locator("#run-plot figure")

    def wait_for(self, state: str, title: str = "") -> None:
        shown = self.page.locator(f"#run-head section[data-state={state}]").filter(has_text=title)
        expect(shown).to_have_count(1, timeout=_WAIT)

    def choose(self, dropdown: str, name: str) -> None:
        box = self.page.locator(f"{dropdown} input")
        box.click()
        self.page.get_by_role("option", name=re.compile(re.escape(name))).click()
        box.blur()  # the list opens when its box gets the focus

    def line(self, kind: str, number: int = 0) -> Locator:
        return self.plot.locator(f"polyline.{kind}.run-{number}")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "tales.txt"
    path.write_text(make_text(characters=20_000), encoding="utf-8")
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[JobManager]:
    """The runs behind the page; what still trains is ended with the test."""
    manager = JobManager(tmp_path / "runs", device="cpu", threads=1, niceness=0)
    yield manager
    for view in manager.runs():
        manager.discard(view.run_id)


def settings(text: Path, **training: object) -> RunSettings:
    """Those of a run of a second or two, which `training` changes."""
    values: dict[str, object] = {
        "batch_size": 4,
        "window": 12,
        "evaluations": 4,
        "precision": "fp32",
        **({} if "minutes" in training else {"steps": 80}),
        **training,
    }
    return RunSettings(
        files=(str(text),),
        sample_prompts=("Mira ",),
        text=TextSettings(vocab_size=300, tokenizer="char"),
        model=ModelSettings(embedding_size=12, hidden_size=16),
        training=TrainingSettings(**values),
    )


def endless(text: Path) -> RunSettings:
    return settings(text, steps=10_000_000, evaluations=10_000)


def finished(runs: JobManager, run_id: str) -> RunView:
    wait_until(lambda: runs.view(run_id).state == "finished")
    return runs.view(run_id)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_runs_are_compared_smoothed_and_scaled(
    browser: Browser, one_model: Path, tmp_path: Path, text: Path, runs: JobManager
) -> None:
    finished(runs, runs.submit(settings(text, learning_rate=1e-3), title="Slow learner"))
    finished(runs, runs.submit(settings(text, learning_rate=3e-2), title="Quick learner"))
    with served(one_model, tmp_path) as server, pages(browser) as open_:
        page = RunsPage(open_(server.address))
        expect(page.head).to_contain_text("Quick learner", timeout=_WAIT)
        expect(page.plot.locator("polyline")).to_have_count(2)
        expect(page.plot.locator("figcaption")).not_to_contain_text("Quick learner")
        page.choose("#compare", "Slow learner")
        expect(page.plot.locator("polyline")).to_have_count(4)
        for name in ("Quick learner", "Slow learner"):
            expect(page.plot.locator("figcaption")).to_contain_text(f"{name}: training")
            expect(page.plot.locator("figcaption")).to_contain_text(f"{name}: held-out, best")
        curves = [page.line("held-out", number).get_attribute("points") or "" for number in (0, 1)]
        assert len(set(curves)) == 2
        assert all(len(points.split()) >= 4 for points in curves)

        smoothed = page.line("training").get_attribute("points") or ""
        page.page.locator("#plot-smoothing input[type=number]").fill("")
        page.page.locator("#plot-smoothing input[type=number]").fill("0")
        page.page.locator("#plot-smoothing input[type=number]").press("Tab")
        expect(page.line("training")).not_to_have_attribute("points", smoothed)

        linear = page.line("held-out").get_attribute("points") or ""
        page.page.locator("#plot-scale").get_by_label("logarithmic").check()
        expect(page.line("held-out")).not_to_have_attribute("points", linear)
        page.page.locator("#plot-scale").get_by_label("linear", exact=True).check()
        expect(page.line("held-out")).to_have_attribute("points", linear)

        rows = page.page.locator("#run-judge table tbody tr")
        assert rows.count() >= 4
        expect(page.page.locator("#run-judge tr.best")).to_have_count(1)
        expect(rows.last.locator("th")).to_have_text("80")


def test_prompts_that_are_edited_while_it_trains_begin_the_next_samples(
    browser: Browser, one_model: Path, tmp_path: Path, text: Path, runs: JobManager
) -> None:
    run_id = runs.submit(endless(text), title="Live")
    with served(one_model, tmp_path) as server, pages(browser) as open_:
        page = RunsPage(open_(server.address))
        page.wait_for("running")
        # A list that is open stays so while the curve goes on.
        page.page.locator("#run input").click()
        expect(page.page.get_by_role("option")).to_have_count(1)
        for _ in range(2):
            expect(page.line("training")).not_to_have_attribute(
                "points", page.line("training").get_attribute("points") or "", timeout=_WAIT
            )
        expect(page.page.get_by_role("option")).to_be_visible()
        page.page.locator("#run input").press("Escape")
        samples = page.page.locator("#run-samples .strip")
        expect(samples.first.locator("li div").first).to_contain_text("Mira ", timeout=_WAIT)
        page.page.locator("#fold-prompts > button").click()
        expect(page.page.locator("#run-prompts textarea")).to_have_value("Mira ")
        page.page.locator("#run-prompts textarea").fill("Tom saw\nThe river ")
        page.page.locator("#change-prompts").click()
        expect(page.page.locator("#prompts-status")).to_contain_text("The next samples begin with these")
        # The strip of what samples began with before stays below.
        expect(samples).to_have_count(3, timeout=_WAIT)
        expect(samples.nth(0).locator("li div").first).to_contain_text(re.compile("^Tom saw"), timeout=_WAIT)
        expect(samples.nth(1).locator("li div").first).to_contain_text(re.compile("^The river "), timeout=_WAIT)
        expect(samples.nth(2).locator("li div").first).to_contain_text(re.compile("^Mira "), timeout=_WAIT)
    written = runs.view(run_id).folder.samples.read_text(encoding="utf-8").splitlines()
    assert json.loads(written[0])["samples"][0].startswith("Mira ")


def test_what_waits_changes_places(
    browser: Browser, one_model: Path, tmp_path: Path, text: Path, runs: JobManager
) -> None:
    runs.submit(endless(text), title="Ahead")
    first, second = (runs.submit(settings(text), title=title) for title in ("First", "Second"))
    with served(one_model, tmp_path) as server, pages(browser) as open_:
        page = RunsPage(open_(server.address))
        expect(page.head).to_contain_text("Second", timeout=_WAIT)
        page.wait_for("queued")
        expect(page.head).to_contain_text("2 in the queue")
        page.page.locator("#earlier").click()
        expect(page.head).to_contain_text("1 in the queue")
        assert [runs.view(run_id).position for run_id in (first, second)] == [2, 1]
        page.choose("#run", "First")
        expect(page.head).to_contain_text("2 in the queue")
        page.choose("#run", "Second")
        expect(page.head).to_contain_text("1 in the queue")
        page.page.locator("#later").click()
        expect(page.head).to_contain_text("2 in the queue")
        assert [runs.view(run_id).position for run_id in (first, second)] == [1, 2]
        page.choose("#run", "Ahead")
        page.wait_for("running")
        expect(page.page.locator("#earlier")).to_be_hidden()


def test_a_run_from_a_base_tells_where_it_came_from_and_what_is_kept(
    browser: Browser, one_model: Path, tmp_path: Path, text: Path, runs: JobManager
) -> None:
    base = finished(runs, runs.submit(settings(text, steps=200, learning_rate=1e-2), title="Mother"))
    with served(one_model, tmp_path) as server, pages(browser) as open_:
        page = RunsPage(open_(server.address))
        page.wait_for("finished")
        page.page.set_input_files("#train-files input[type=file]", [str(text)])
        expect(page.page.locator("#import-report li")).to_have_count(1, timeout=_WAIT)
        page.choose("#train-base", "Mother")
        expect(page.page.locator("#train-fit")).to_contain_text("tokens for 100 characters", timeout=_WAIT)
        page.page.locator("#fold-expert > button").click()
        expect(page.page.locator("#train-hidden-size")).to_be_hidden(timeout=_WAIT)
        page.page.locator("#train-minutes input").fill("0.05")
        page.page.locator("#train-title input").fill("Daughter")
        page.page.locator("#train-start").click()
        expect(page.head).to_contain_text("Daughter", timeout=_WAIT)
        expect(page.head).to_contain_text("Started from Mother")
        page.wait_for("finished", "Daughter")
        judged = page.page.locator("#run-judge")
        expect(judged).to_contain_text(re.compile(r"Held-out text: \d\.\d+ nats per character before"))
        expect(judged).to_contain_text(re.compile(r"On text that the model it started from held out: \d\.\d+ before"))
        expect(page.plot.locator("circle.run-0").first).to_have_attribute("cx", "46.0")
    (run,) = [view for view in runs.runs() if view.title == "Daughter"]
    assert run_of(Path(run.folder.settings().base or "")) == base.folder.path


def test_a_quiet_page_hears_of_a_run_from_elsewhere_when_it_is_looked_at(
    browser: Browser, one_model: Path, tmp_path: Path, text: Path, runs: JobManager
) -> None:
    with served(one_model, tmp_path) as server, pages(browser) as open_:
        pages_open = [RunsPage(open_(server.address)) for _ in range(2)]
        for page in pages_open:
            expect(page.page.locator("#run-head")).to_contain_text("No runs yet", timeout=_WAIT)
        quiet, other = pages_open
        asked = requests_of(quiet.page)
        wait_until_quiet(quiet.page, asked)
        other.page.set_input_files("#train-files input[type=file]", [str(text)])
        expect(other.page.locator("#import-report li")).to_have_count(1, timeout=_WAIT)
        other.page.locator("#train-title input").fill("Of another browser")
        other.page.locator("#train-start").click()
        expect(other.head).to_contain_text("Of another browser", timeout=_WAIT)
        expect(quiet.page.locator("#run-head")).to_contain_text("No runs yet")
        assert asked == []
        # A headless browser never takes the focus away.
        quiet.page.evaluate("() => window.dispatchEvent(new Event('focus'))")
        expect(quiet.head).to_contain_text("Of another browser")
        quiet.wait_for("running")
        other.page.locator("#stop-keep").click()
        quiet.wait_for("stopped")
        quiet.page.wait_for_load_state("networkidle")
        (run,) = runs.runs()
        runs.resume(run.run_id)
        # As of somebody who comes back now and then: a look right after another is left out.
        quiet.page.evaluate(
            "() => setInterval(() => document.dispatchEvent(new Event('visibilitychange')), 1500) && undefined"
        )
        quiet.wait_for("running")


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_a_column_called_like_a_label_keeps_its_name(
    browser: Browser, one_model: Path, tmp_path: Path, language: str
) -> None:
    table = tmp_path / "model.csv"
    rows = "".join(f"{number},{make_text(characters=200, seed=number).splitlines()[0]},x\n" for number in range(20))
    table.write_text("title,files,start\n" + rows, encoding="utf-8")
    with served(one_model, tmp_path / "server") as server, pages(browser) as open_:
        page = RunsPage(open_(server.address, locale=language))
        page.page.set_input_files("#train-files input[type=file]", [str(table)])
        expect(page.page.locator("#import-report li")).to_have_count(1, timeout=_WAIT)
        page.page.locator("#fold-again > button").click()
        expect(page.page.locator("#again-file input")).to_have_value("model.csv")
        page.page.locator("#again-column input").click()
        options = page.page.get_by_role("option")
        names = options.filter(has_text=re.compile(r"\w"))
        expect(names).to_have_text([re.compile(rf"\b{name}$") for name in ("title", "files", "start")])
