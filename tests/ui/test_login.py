"""Where people can log in."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from textgen.studio import Studio
from textgen.ui.build import build_page
from textgen.ui.login import offers_login
from textgen.ui.people import People
from textgen.workshop import Workshop

SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "ann/studio",
    "OAUTH_CLIENT_ID": "id",
    "OAUTH_CLIENT_SECRET": "secret",
    "OAUTH_SCOPES": "openid profile",
    "OPENID_PROVIDER_URL": "https://huggingface.co",
}


def test_on_a_space_with_oauth_people_can_log_in(caplog: pytest.LogCaptureFixture) -> None:
    assert offers_login(SPACE, {"authlib": True}.get)
    for name in SPACE:
        assert not offers_login({**SPACE, name: ""}, {"authlib": True}.get)
    assert not offers_login({"OAUTH_CLIENT_ID": "id", "TEXTGEN_SHARED": "1"}, {"authlib": True}.get)
    assert caplog.records == []


def test_a_missing_package_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not offers_login(SPACE, {"itsdangerous": True}.get)
    (record,) = caplog.records
    assert "gradio[oauth]" in record.message


def test_elsewhere_than_on_a_space_there_is_no_button(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OAUTH_CLIENT_ID", "id")
    page = build_page(studio, workshop=Workshop(tmp_path, device="cpu"), people=People(tmp_path))
    assert not page.expects_oauth
    assert "login" not in {item["props"].get("elem_id") for item in page.get_config_file()["components"]}
