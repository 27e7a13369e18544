"""The page of a Space on ZeroGPU in a real browser: somebody writes, trains, runs out of quota, and goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import pages
from tests.grammar import make_text
from tests.zero_gpu_space import Space, zero_gpu_space

pytestmark = [pytest.mark.browser, pytest.mark.slow]
_WAIT = 150_000


@pytest.fixture(scope="module")
def space(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """With a slow model: a small one is at the end of its text before a busy machine hears of Stop."""
    with zero_gpu_space(tmp_path_factory.mktemp("space"), models_folder / "endless") as space:
        yield space


def test_text_is_stopped_and_written_and_a_run_is_trained_while_the_page_is_open(
    browser: Browser, space: Space
) -> None:
    with pages(browser) as open_:
        page = open_(space.address)
        is_stopped_and_writes(page, space)
        trains_until_the_quota_is_used_up(page, space)


def is_stopped_and_writes(page: Page, space: Space) -> None:
    expect(page.locator("#backend")).to_have_text("ZeroGPU", timeout=_WAIT)
    document, status = page.locator("#document textarea"), page.locator("#status")
    document.fill("Mira ")
    page.locator("#length input[type=number]").fill("1000")
    page.locator("#generate").click()
    # It is heard of in the other process, with the first token there at the latest.
    page.locator("#stop").click()
    expect(status).to_contain_text("stopped", timeout=_WAIT)
    stopped = document.input_value()
    assert len(stopped) < 2_500  # of some 3,000; a busy machine hears of it late
    page.locator("#continue").click()
    expect(status).to_contain_text(re.compile("came to its end|full length"), timeout=_WAIT)
    assert document.input_value().startswith(stopped)
    assert len(document.input_value()) > len(stopped)
    assert space.lender.count("/schedule") == 2


def trains_until_the_quota_is_used_up(page: Page, space: Space) -> None:
    page.get_by_role("tab", name="Train").click()
    expect(page.locator("#train-notice")).to_contain_text("only while this page stays open", timeout=_WAIT)
    expect(page.locator("#train-estimate")).to_be_hidden()
    page.locator("#train-paste textarea").fill(make_text(characters=20_000))
    space.lender.left = 1
    page.locator("#train-start").click()
    run, status = page.locator("#run-head section"), page.locator("#train-status")
    expect(status).to_contain_text("It trains while this page stays open.", timeout=_WAIT)
    expect(status).to_contain_text("No GPU is lent", timeout=_WAIT)
    expect(status).to_contain_text("Resume goes on from there")
    expect(run).to_have_attribute("data-state", "paused", timeout=_WAIT)
    space.lender.left = 1_000
    page.locator("#resume").click()
    expect(page.locator("#run-status")).to_contain_text("It trains while this page stays open.", timeout=_WAIT)
    expect(run).to_have_attribute("data-state", "running", timeout=_WAIT)
    page.locator("#stop-keep").click()
    expect(run).to_have_attribute("data-state", "stopped", timeout=_WAIT)
    expect(page.locator("#run-status")).not_to_contain_text("while this page stays open", timeout=_WAIT)
