"""Logging in on a Space: a real browser, HTTPS as the Hub's proxy has it, and gradio's own routes."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import pages, served
from tests.grammar import make_text
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider
from tests.reverse_proxy import ReverseProxy

pytestmark = [pytest.mark.browser, pytest.mark.slow]
_WAIT = 150_000


@pytest.fixture
def open_space(browser: Browser, one_model: Path, tmp_path: Path) -> Iterator[Callable[[], Page]]:
    """Opens the page of a Space in a browser of its own."""
    certificate = tmp_path / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    provider = IdentityProvider({"5f1": "anna", "5f2": "bo"}, returns_to=f"https://127.0.0.1:{port}/login/callback")
    with provider.running() as asked_at:
        variables = {
            "SYSTEM": "spaces",
            "SPACE_ID": "anna/studio",
            "SPACE_HOST": f"127.0.0.1:{port}",
            "OAUTH_CLIENT_ID": CLIENT_ID,
            "OAUTH_CLIENT_SECRET": CLIENT_SECRET,
            "OAUTH_SCOPES": "openid profile",
            "OPENID_PROVIDER_URL": asked_at,
        }
        with (
            served(one_model, tmp_path / "space", **variables) as server,
            ReverseProxy(server.address).running(port=port, certificate=certificate) as address,
            pages(browser) as open_,
        ):
            yield lambda: open_(address, forgive=(asked_at,), ignore_https_errors=True)


def log_in(page: Page, name: str) -> None:
    page.locator("#login").click()
    page.get_by_role("link", name=name).click()
    page.locator("#logout").wait_for()
    expect(page.locator("#login")).to_be_hidden()


def runs_of(page: Page) -> list[str]:
    """The titles that the Train tab offers."""
    page.get_by_role("tab", name="Train").click()
    page.locator("#run-head").filter(has_text=re.compile(r"\S")).wait_for()
    page.locator("#run input").click()
    titles = page.locator("#run [role=option]").all_inner_texts()
    page.locator("#run input").press("Escape")
    return titles


def test_runs_are_an_accounts_own_wherever_it_logs_in(open_space: Callable[[], Page]) -> None:
    anna = open_space()
    log_in(anna, "anna")
    anna.get_by_role("tab", name="Train").click()
    anna.locator("#train-paste textarea").fill(make_text(characters=5_000))
    anna.locator("#train-title input").fill("The diary")
    anna.locator("#train-start").click()
    expect(anna.locator("#run-head section")).to_contain_text("The diary", timeout=_WAIT)

    bo = open_space()
    log_in(bo, "bo")
    assert runs_of(bo) == []
    elsewhere = open_space()
    assert runs_of(elsewhere) == []
    log_in(elsewhere, "anna")
    assert [title.split("\n")[-1].split(" · ")[0] for title in runs_of(elsewhere)] == ["The diary"]
    elsewhere.locator("#logout").click()
    elsewhere.locator("#login").wait_for()
    assert runs_of(elsewhere) == []
