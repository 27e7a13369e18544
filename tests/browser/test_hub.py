"""A model goes to the Hub from the page and comes from there, in a real browser."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import pages, served
from tests.hub_server import WRITER, hub_server
from textgen.jobs.run_folder import RunFolder

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_WAIT = 150_000


def test_a_run_is_pushed_and_fetched_again(
    browser: Browser, models_folder: Path, tmp_path: Path, trained_run: Path
) -> None:
    runs, name = tmp_path / "runs", "20260101-000000-abc"
    shutil.copytree(trained_run, runs / name)
    RunFolder(runs / name).write_about(title="Tales", owner="", created=1.0)
    with hub_server() as hub, served(models_folder, tmp_path, HF_ENDPOINT=hub.address) as server, pages(browser) as go:
        page = go(server.address)
        page.get_by_role("tab", name="Train").click()
        page.locator("#fold-push > button").click(timeout=_WAIT)
        page.locator("#push-repo input").fill("anna/tales")
        token = page.locator("#push-token input")
        expect(token).to_have_attribute("type", "password")
        token.fill(WRITER)
        page.locator("#push").click()
        expect(page.locator("#push-status")).to_contain_text(f"It is at {hub.address}/anna/tales", timeout=_WAIT)
        expect(token).to_have_value("")
        assert hub.repositories["anna/tales"].private

        page.locator("#fold-fetch > button").click()
        page.locator("#hub-model input").fill("anna/gone")
        page.locator("#hub-fetch").click()
        expect(page.locator("#hub-status [role=alert]")).to_contain_text("anna/gone was not found", timeout=_WAIT)
        expect(page.locator("#hub-cancel")).to_be_hidden()

        over = threading.Event()
        hub.on_piece = lambda name, start: start > 0 and over.wait(_WAIT / 1000)
        page.locator("#hub-model input").fill("anna/tales")
        page.locator("#hub-token input").fill(WRITER)
        page.locator("#hub-token input").press("Enter")
        page.locator("#hub-cancel").click(timeout=_WAIT)
        expect(page.locator("#hub-status")).to_contain_text("Cancelled. What has come stays", timeout=_WAIT)
        expect(page.locator("#hub-cancel")).to_be_hidden()
        over.set()

        page.locator("#hub-token input").fill(WRITER)
        page.locator("#hub-fetch").click()
        expect(page.locator("#hub-status")).to_contain_text("“anna/tales” is yours to write with", timeout=_WAIT)
        expect(page.locator("#hub-token input")).to_have_value("")
        expect(page.locator("#train-base input")).to_have_value("anna/tales")
        expect(page.locator("#train-vocabulary")).to_be_visible(timeout=_WAIT)
        assert WRITER not in page.content()
        assert WRITER not in server.told()
        page.get_by_role("tab", name="Generate").click()
        page.locator("#model input").click()
        page.get_by_role("option", name="anna/tales").click()
        page.locator("#document textarea").fill("Mira ")
        page.locator("#generate").click()
        expect(page.locator("#document textarea")).not_to_have_value("Mira ", timeout=_WAIT)
        expect(page.locator("#stop")).to_be_disabled(timeout=_WAIT)
    kept = [path.read_bytes() for path in runs.rglob("*") if path.is_file()]
    assert not any(WRITER.encode() in content for content in kept)
