"""The Train tab in a real browser, with runs in real processes."""

from __future__ import annotations

import re
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect

from tests.browser.conftest import pages, requests_of, served, unfold, wait_until_quiet
from tests.grammar import make_text
from textgen.jobs.manager import JobManager
from textgen.jobs.run_view import RunView
from textgen.model.checkpoint import load_checkpoint
from textgen.training.presets import can_mogrify
from textgen.ui.i18n import say_cell

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_DEADLINE_SECONDS = 120.0
_WAIT = 150_000


class TrainPage:
    """The Train tab as a person uses it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.get_by_role("tab", name=re.compile("Train|训练")).click()
        self.head = page.locator("#run-head section")
        self.status = page.locator("#train-status")
        self.report = page.locator("#import-report")
        page.locator("#train-start").wait_for()

    def bring(self, *files: Path) -> None:
        self.page.set_input_files("#train-files input[type=file]", [str(file) for file in files])
        expect(self.report.locator("li")).to_have_count(len(files), timeout=_WAIT)

    def fill_in(self, minutes: float, title: str) -> None:
        if not self.page.locator("#train-minutes input").is_visible():
            unfold(self.page, "expert")
        given = {"minutes": f"{minutes:g}", "hidden-size": "48", "embedding-size": "24", "vocab-size": "300"}
        for name, value in {**given, "title": title}.items():
            self.page.locator(f"#train-{name} input").fill(value)

    def start(self, minutes: float, title: str) -> None:
        self.fill_in(minutes, title)
        self.page.locator("#train-start").click()

    def choose_base(self, name: str) -> None:
        self.page.locator("#train-base input").click()
        self.page.get_by_role("option", name=name, exact=True).click()

    def wait_for(self, state: str) -> None:
        expect(self.head).to_have_attribute("data-state", state, timeout=_WAIT)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "tales.txt"
    path.write_text(make_text(characters=30_000), encoding="utf-8")
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[JobManager]:
    """The runs behind the page; what still trains is ended with the test."""
    manager = JobManager(tmp_path / "runs", device="cpu")
    yield manager
    for view in manager.runs():
        manager.discard(view.run_id)


def the_run(runs: JobManager) -> RunView:
    (view,) = runs.runs()
    return view


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_outlives_browser_and_server_and_its_model_is_tried_and_taken_home(
    browser: Browser, one_model: Path, tmp_path: Path, text: Path, runs: JobManager
) -> None:
    with pages(browser) as open_:
        with served(one_model, tmp_path) as first:
            page = TrainPage(open_(first.address))
            expect(page.page.locator("#run-head")).to_contain_text("No runs yet", timeout=_WAIT)
            page.bring(text)
            expect(page.report).to_contain_text("tales.txt")
            expect(page.report).to_contain_text("Latin")
            page.fill_in(10, "Tales of the river")
            for field, value in (("evaluations", "100"), ("patience", "0")):
                page.page.locator(f"#train-{field} input, #train-{field} textarea").first.fill(value)
            page.page.locator("#train-start").click()
            page.wait_for("running")
            expect(page.head).to_contain_text("tokens/s")
            page.page.context.close()
            other = TrainPage(open_(first.address, ("ERR_", "Failed to load"), locale="zh-CN"))
            other.wait_for("running")
            expect(other.head).to_contain_text("训练中")
            expect(other.page.locator("#run-plot svg")).to_be_visible(timeout=_WAIT)
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            other.page.context.close()
        assert the_run(runs).state == "running"
        with served(one_model, tmp_path) as second:
            page = TrainPage(open_(second.address))
            # It trains for as long as two servers and three pages take to open, however slow the machine.
            page.wait_for("running")
            expect(page.page.locator("#run-judge")).to_contain_text("nats per character", timeout=_WAIT)
            page.page.locator("#stop-keep").click()
            page.wait_for("stopped")
            expect(page.page.locator("#run-samples li")).not_to_have_count(0)
            expect(page.page.locator("#run-plot circle.best")).to_have_count(1)
            with page.page.expect_download() as download:
                page.page.locator("#download").click()
            assert download.value.suggested_filename == "Tales-of-the-river.zip"
            taken = tmp_path / "taken"
            with zipfile.ZipFile(download.value.path()) as archive:
                archive.extractall(taken)
            assert load_checkpoint(taken / "Tales-of-the-river").figures["step"] > 0
            page.page.locator("#try-it").click()
            expect(page.page.locator("#model input")).to_have_value("Tales of the river")
            page.page.locator("#document textarea").fill("Mira ")
            page.page.locator("#generate").click()
            expect(page.page.locator("#document textarea")).not_to_have_value("Mira ", timeout=_WAIT)
            expect(page.page.locator("#stop")).to_be_disabled(timeout=_WAIT)


def test_every_button_of_a_run_does_what_it_says(
    browser: Browser, one_model: Path, tmp_path: Path, text: Path, runs: JobManager
) -> None:
    with served(one_model, tmp_path) as server, pages(browser) as open_:
        page = TrainPage(open_(server.address))
        page.bring(text)
        page.start(30, "Long")
        page.wait_for("running")
        page.page.locator("#pause").click()
        page.wait_for("paused")
        page.page.locator("#resume").click()
        page.wait_for("running")
        page.page.locator("#stop-keep").click()
        page.wait_for("stopped")
        unfold(page.page, "more")
        # The title of the run that is shown comes a moment after the run.
        expect(page.page.locator("#run-title input")).to_have_value("Long")
        page.page.locator("#run-title input").fill("Renamed")
        page.page.locator("#rename").click()
        expect(page.head).to_contain_text("Renamed")
        expect(page.page.locator("#run-command")).to_contain_text("textgen train --config")
        page.page.locator("#longer-minutes input").fill("0.1")
        page.page.locator("#longer").click()
        page.wait_for("finished")
        questions: list[str] = []

        def think_better(dialog: Dialog) -> None:
            questions.append(dialog.message)
            dialog.dismiss()

        page.page.once("dialog", think_better)
        page.page.locator("#discard").click()
        expect(page.head).to_be_visible()
        assert "“Renamed”" in questions[0]
        assert len(runs.runs()) == 1
        page.page.once("dialog", lambda dialog: dialog.accept())
        page.page.locator("#discard").click()
        expect(page.page.locator("#run-head")).to_contain_text("No runs yet", timeout=_WAIT)
        assert runs.runs() == []


def test_what_somebody_fills_in_is_theirs(
    browser: Browser, one_model: Path, tmp_path: Path, text: Path, runs: JobManager
) -> None:
    with served(one_model, tmp_path) as server, pages(browser) as open_:
        page = TrainPage(open_(server.address))
        unfold(page.page, "expert")
        page.page.set_input_files("#train-files input[type=file]", [str(text)])
        page.fill_in(30, "My tales")
        learning_rate = page.page.locator("#train-learning-rate input")
        expect(page.report.locator("li")).to_have_count(1, timeout=_WAIT)
        expect(learning_rate).to_have_attribute("placeholder", "0.007", timeout=_WAIT)
        expect(page.page.locator("#train-title input")).to_have_attribute("placeholder", "tales")
        cell = "mogrifier-lstm" if can_mogrify({}, lambda: "cpu") else "lstm"
        expect(page.page.locator("#train-cell input")).to_have_value(f"as the preset: {say_cell(cell, 'en')}")
        page.page.get_by_role("radio", name="Balanced").click()
        expect(learning_rate).to_have_attribute("placeholder", "0.005", timeout=_WAIT)
        page.page.locator("#train-cell input").click()
        page.page.get_by_role("option", name="GRU", exact=True).click()
        page.choose_base("small")
        expect(page.page.locator("#train-hidden-size")).to_be_hidden(timeout=_WAIT)
        page.choose_base("Nothing: a new model")
        expect(page.page.locator("#train-hidden-size")).to_be_visible(timeout=_WAIT)
        for name, value in {"minutes": "30", "hidden-size": "48", "vocab-size": "300", "title": "My tales"}.items():
            expect(page.page.locator(f"#train-{name} input")).to_have_value(value)
        expect(page.page.locator("#train-cell input")).to_have_value("GRU")
        page.page.locator("#train-start").click()
        page.wait_for("running")
        settings = the_run(runs).folder.settings()
        assert (settings.model.hidden_size, settings.model.cell, settings.text.vocab_size) == (48, "gru", 300)
        assert (settings.training.minutes, settings.training.learning_rate) == (30, 0.005)
        assert the_run(runs).title == "My tales"
        # The form is empty again, and one press too many starts nothing.
        expect(page.page.locator("#train-title input")).to_have_value("")
        page.page.locator("#train-start").click()
        expect(page.status).to_contain_text("That run has started")
        assert len(runs.runs()) == 1


def test_what_was_typed_and_where_outlives_a_server_that_comes_back(
    browser: Browser, one_model: Path, tmp_path: Path
) -> None:
    with served(one_model, tmp_path) as server, pages(browser) as open_:
        page = open_(server.address)
        page.locator("#document textarea").fill("My chapter, not saved anywhere. 月")
        page.get_by_role("tab", name="Train").click()
        page.locator("#train-paste textarea").fill("Words to learn.\nA second line.")
        page.locator("#train-title input").fill("My tales")
        # On this tab the keys for writing mean nothing.
        page.locator("#train-paste textarea").press("Control+Enter")
        page.reload()
        expect(page.get_by_role("tab", name="Train")).to_have_attribute("aria-selected", "true", timeout=_WAIT)
        expect(page.locator("#train-paste textarea")).to_have_value("Words to learn.\nA second line.", timeout=_WAIT)
        expect(page.locator("#train-title input")).to_have_value("My tales")
        page.locator("#train-start").click()
        expect(page.locator("#train-status")).to_contain_text("30 characters found", timeout=_WAIT)
        page.get_by_role("tab", name="Generate").click()
        expect(page.locator("#document textarea")).to_have_value("My chapter, not saved anywhere. 月", timeout=_WAIT)


def test_whatever_is_dropped_becomes_a_sentence_and_the_rest_is_kept(
    browser: Browser, one_model: Path, tmp_path: Path, text: Path
) -> None:
    names = ("junk.txt", "empty.txt", "up.zip", "gb.txt", "photo.png")
    junk, empty, climbing, chinese, photo = (tmp_path / name for name in names)
    photo.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    junk.write_bytes(bytes(range(256)) * 400)
    empty.touch()
    chinese.write_bytes(("小猫看着河水。\n" * 60).encode("gb18030"))
    with zipfile.ZipFile(climbing, "w") as archive:
        archive.writestr("../outside.txt", "I was here. " * 50)
        archive.writestr("inside.txt", make_text(characters=2_000))
    with served(one_model, tmp_path / "server") as server, pages(browser) as open_:
        page = TrainPage(open_(server.address))
        page.page.locator("#train-start").click()
        expect(page.status).to_contain_text("text")
        page.page.set_input_files(
            "#train-files input[type=file]", [str(path) for path in (junk, empty, climbing, chinese, photo, text)]
        )
        expect(page.report.locator("li")).to_have_count(7, timeout=_WAIT)
        expect(page.report.locator("li.refused")).to_have_count(4)
        expect(page.report.locator("li", has_text="photo.png")).to_contain_text("files of the kind PNG are not read")
        expect(page.report.locator("li", has_text="gb.txt")).to_contain_text("小猫看着河水。")
        expect(page.report.locator("li", has_text="inside.txt")).to_contain_text("characters")
        assert "Traceback" not in page.page.content()
    assert not any(path.name == "outside.txt" for path in tmp_path.rglob("*"))


def test_people_on_a_shared_host_do_not_see_each_other(
    browser: Browser, one_model: Path, tmp_path: Path, text: Path, runs: JobManager
) -> None:
    environment = {"TEXTGEN_SHARED": "1", "TEXTGEN_ADMIN_KEY": "open sesame"}
    with served(one_model, tmp_path, **environment) as server, pages(browser) as open_:
        ann = TrainPage(open_(server.address))
        ann.bring(text)
        ann.start(30, "Of Ann")
        ann.wait_for("running")
        bob = TrainPage(open_(server.address))
        expect(bob.page.locator("#run-head")).to_contain_text("No runs yet", timeout=_WAIT)
        run = the_run(runs)
        cookies = bob.page.context.cookies()
        assert [cookie["httpOnly"] for cookie in cookies if cookie["name"] == "textgen_owner"] == [True]
        ann.page.reload()
        again = TrainPage(ann.page)
        again.wait_for("running")
        admin = TrainPage(open_(server.address, address="/?admin=open%20sesame"))
        admin.wait_for("running")
        again.page.locator("#pause").click()
        again.wait_for("paused")
        wait_until(lambda: the_run(runs).state == "paused")
        assert run.owner not in ("", None)


def test_training_can_be_switched_off(browser: Browser, one_model: Path, tmp_path: Path) -> None:
    with served(one_model, tmp_path, TEXTGEN_TRAINING="off") as server, pages(browser) as open_:
        page = open_(server.address)
        page.get_by_role("tab", name="Train").click()
        expect(page.locator("#train-notice")).to_contain_text("switched off", timeout=_WAIT)
        expect(page.locator("#train-start")).to_have_count(0)
        assert not (tmp_path / "runs").exists()


def test_an_idle_page_asks_for_nothing(browser: Browser, one_model: Path, tmp_path: Path) -> None:
    with served(one_model, tmp_path) as server, pages(browser) as open_:
        page = TrainPage(open_(server.address))
        asked = requests_of(page.page)
        page.page.reload()
        expect(page.page.locator("#run-head")).to_contain_text("No runs yet", timeout=_WAIT)
        expect(page.page.locator("#backend")).not_to_be_empty(timeout=_WAIT)
        wait_until_quiet(page.page, asked)
        # Longer than the time between two looks while something trains.
        page.page.wait_for_timeout(4000)
        assert asked == []
