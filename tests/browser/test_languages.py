"""The page in a language that is one file more: found by the browser's own, and reached by the button."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import textgen
from tests.browser.conftest import pages, served

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# No language of Gradio's own, and no beginning of another one's tag.
_PIG_LATIN: dict[str, Any] = {
    "name": "Igpay Atinlay",
    "locale": "eo",
    "browsers": ["eo"],
    "texts": {
        "page": {"generate": "Enerategay", "tab_train": "Aintray"},
        "about": {"about": "Outabay", "about_device": "Unsray: {device}"},
    },
}


@pytest.fixture(scope="module")
def address(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a copy of the package with one file more."""
    folder = tmp_path_factory.mktemp("copy")
    package = Path(textgen.__path__[0])
    shutil.copytree(package, folder / "textgen", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "textgen" / "ui" / "languages" / "piglatin.json").write_text(json.dumps(_PIG_LATIN), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with served(models_folder, folder / "server", "--backend", "torch", "--threads", "1") as running:
            yield running.address


def speaks(page: Page, *, locale: str, generate: str, train: str, button: str) -> None:
    expect(page.locator("#generate")).to_have_text(generate)
    expect(page.get_by_role("tab").nth(1)).to_have_text(train)
    expect(page.locator("#language")).to_have_text(button)
    expect(page.locator("html")).to_have_attribute("lang", locale)


def test_the_button_goes_through_all_languages(browser: Browser, address: str) -> None:
    with pages(browser) as open_:
        page = open_(address)
        speaks(page, locale="en", generate="Generate", train="Train", button="Igpay Atinlay")
        page.locator("#language").click()
        speaks(page, locale="eo", generate="Enerategay", train="Aintray", button="中文")
        page.reload()
        speaks(page, locale="eo", generate="Enerategay", train="Aintray", button="中文")
        page.locator("#language").click()
        speaks(page, locale="zh-CN", generate="生成", train="训练", button="English")
        page.reload()
        speaks(page, locale="zh-CN", generate="生成", train="训练", button="English")
        page.locator("#language").click()
        speaks(page, locale="en", generate="Generate", train="Train", button="Igpay Atinlay")


def test_a_browser_gets_its_language_and_english_for_the_rest(browser: Browser, address: str) -> None:
    with pages(browser) as open_:
        page = open_(address, locale="eo-XX")
        speaks(page, locale="eo", generate="Enerategay", train="Aintray", button="中文")
        expect(page.locator("#stop")).to_have_text("Stop")
        expect(page.locator("#about > button")).to_contain_text("Outabay")
        page.locator("#about > button").click()
        expect(page.locator("#about-text")).to_contain_text("Unsray: cpu", timeout=60_000)


@pytest.mark.parametrize(("locale", "generate"), [("zh-HK", "生成"), ("zh", "生成"), ("et-EE", "Generate")])
def test_a_browser_is_served_by_how_its_language_begins(
    browser: Browser, address: str, locale: str, generate: str
) -> None:
    with pages(browser) as open_:
        expect(open_(address, locale=locale).locator("#generate")).to_have_text(generate)
