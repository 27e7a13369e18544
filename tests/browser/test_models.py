"""The Models tab as people use it: a zip becomes a model of theirs, is tried, renamed, taken and deleted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import pages, served, unfold
from tests.hub_server import WRITER, hub_server
from textgen.jobs.model_zip import pack_model, unpack_model
from textgen.jobs.run_folder import RunFolder
from textgen.model.checkpoint import load_checkpoint

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_WAIT = 150_000


@pytest.fixture(scope="module")
def zipped(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_model(trained_run, "River", tmp_path_factory.mktemp("zips"))


def open_models(page: Page) -> None:
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#models-list button").first).to_be_visible(timeout=_WAIT)


def bring(page: Page, path: Path) -> None:
    if not page.locator("#import-zip").is_visible():
        unfold(page, "zip")
    page.locator("#import-zip input[type=file]").set_input_files(path)


def test_a_zip_becomes_a_model_that_is_tried_renamed_taken_and_deleted(
    browser: Browser, models_folder: Path, tmp_path: Path, zipped: Path
) -> None:
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(zipped.read_bytes()[:-200])
    with served(models_folder, tmp_path) as server, pages(browser) as open_:
        page = open_(server.address)
        open_models(page)
        bring(page, damaged)
        expect(page.locator("#import-zip-status [role=alert]")).to_contain_text("damaged.zip is damaged", timeout=_WAIT)
        bring(page, zipped)
        expect(page.locator("#import-zip-status")).to_contain_text("“River” is yours", timeout=_WAIT)
        expect(page.locator("#model-head h3")).to_have_text("River", timeout=_WAIT)
        expect(page.locator("#model-head")).to_contain_text("Imported: River.zip")
        expect(page.locator("#models-list [aria-pressed=true]")).to_contain_text("River")

        unfold(page, "change")
        expect(page.locator("#model-title input")).to_have_value("River")
        page.locator("#model-title input").fill("Old river")
        page.locator("#model-rename").click()
        expect(page.locator("#change-status")).to_contain_text("It is called “Old river” now", timeout=_WAIT)
        expect(page.locator("#model-head h3")).to_have_text("Old river")
        with page.expect_download() as download:
            page.locator("#model-download").click()
        assert download.value.suggested_filename == "Old-river.zip"
        unpack_model(Path(download.value.path()), tmp_path / "taken", name="taken.zip")
        assert load_checkpoint(tmp_path / "taken").figures["step"] > 0

        page.locator("#model-try").click()
        expect(page.locator("#model input")).to_have_value("Old river", timeout=_WAIT)
        page.locator("#document textarea").fill("Mira ")
        page.locator("#generate").click()
        expect(page.locator("#document textarea")).not_to_have_value("Mira ", timeout=_WAIT)
        expect(page.locator("#stop")).to_be_disabled(timeout=_WAIT)

        other = open_(server.address)
        open_models(other)
        expect(other.locator("#model-head h3")).to_have_text("Old river", timeout=_WAIT)
        unfold(other, "change")
        open_models(page)
        page.once("dialog", lambda dialog: dialog.dismiss())
        page.locator("#model-delete").click()
        expect(page.locator("#model-head h3")).to_have_text("Old river")
        page.once("dialog", lambda dialog: dialog.accept())
        page.locator("#model-delete").click()
        expect(page.locator("#models-status")).to_contain_text("“Old river” was deleted", timeout=_WAIT)
        expect(page.locator("#models-list button")).to_have_count(2)
        expect(page.locator("#model-head h3")).to_have_text("endless")
        expect(page.locator("#fold-change")).to_be_hidden()

        other.locator("#model-title input").fill("New river")
        other.locator("#model-rename").click()
        expect(other.locator("#model-head h3")).to_have_text("endless", timeout=_WAIT)
        expect(other.locator("#models-status")).to_contain_text("This model is not there, or not any longer")
    assert [path.name for path in (tmp_path / "runs").glob("[!.]*") if path.is_dir()] == []


def test_it_is_used_by_keyboard_on_a_phone_in_chinese(
    browser: Browser, models_folder: Path, tmp_path: Path, trained_run: Path
) -> None:
    shutil.copytree(trained_run, tmp_path / "runs" / "20260101-000000-abc")
    RunFolder(tmp_path / "runs" / "20260101-000000-abc").write_about(title="A" * 80, owner="", created=1.0)
    phone = {"locale": "zh-CN", "viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
    with served(models_folder, tmp_path) as server, pages(browser) as open_:
        page = open_(server.address, **phone)
        page.get_by_role("tab", name="模型").click()
        small = page.locator("#models-list button", has_text="small")
        small.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#model-head h3")).to_have_text("small", timeout=_WAIT)
        expect(page.locator("#model-head")).to_contain_text("随附模型")
        expect(small).to_be_focused()
        expect(page.locator("#model-head")).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_two_people_on_a_shared_host_share_only_what_ships(
    browser: Browser, models_folder: Path, tmp_path: Path, zipped: Path
) -> None:
    with (
        hub_server() as hub,
        served(models_folder, tmp_path, TEXTGEN_SHARED="1", HF_ENDPOINT=hub.address) as server,
        pages(browser) as open_,
    ):
        anna, bo = open_(server.address), open_(server.address)
        open_models(anna)
        bring(anna, zipped)
        expect(anna.locator("#model-head h3")).to_have_text("River", timeout=_WAIT)
        anna.locator("#fold-push-model > button").click()
        anna.locator("#push-repo-model input").fill("anna/river")
        anna.locator("#push-token-model input").fill(WRITER)
        anna.locator("#push-model").click()
        expect(anna.locator("#push-status-model")).to_contain_text(f"It is at {hub.address}/anna/river", timeout=_WAIT)

        open_models(bo)
        expect(bo.locator("#models-list button")).to_have_count(2)
        unfold(bo, "fetch-models")
        bo.locator("#hub-model-models input").fill("anna/river")
        bo.locator("#hub-token-models input").fill(WRITER)
        bo.locator("#hub-revision-models input").fill("main")
        bo.locator("#hub-fetch-models").click()
        expect(bo.locator("#model-head")).to_contain_text("From the Hub: anna/river", timeout=_WAIT)
        expect(bo.locator("#models-list")).not_to_contain_text("River.zip")
        expect(bo.locator("#models-list button")).to_have_count(3)

        anna.get_by_role("tab", name="Generate").click()
        open_models(anna)
        expect(anna.locator("#models-list button")).to_have_count(3)
        expect(anna.locator("#models-list")).not_to_contain_text("anna/river")
        for page in (anna, bo):
            assert WRITER not in page.content()
        assert WRITER not in server.told()


def test_where_training_is_off_models_are_shown_tried_and_taken(
    browser: Browser, models_folder: Path, tmp_path: Path
) -> None:
    with served(models_folder, tmp_path, TEXTGEN_TRAINING="off") as server, pages(browser) as open_:
        page = open_(server.address)
        open_models(page)
        page.locator("#models-list button", has_text="small").click()
        expect(page.locator("#model-card")).to_contain_text("A recurrent language model", timeout=_WAIT)
        for absent in ("#fold-zip", "#fold-fetch-models", "#fold-push-model", "#fold-change"):
            expect(page.locator(absent)).to_have_count(0)
        with page.expect_download() as download:
            page.locator("#model-download").click()
        assert download.value.suggested_filename == "small.zip"
        page.locator("#model-try").click()
        expect(page.locator("#model input")).to_have_value(re.compile("small"), timeout=_WAIT)
