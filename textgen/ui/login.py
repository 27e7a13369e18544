"""Logging in with Hugging Face, on a Space."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import gradio as gr

from textgen.ui.people import People

# What a Space has of itself, and what the Hub gives to one with `hf_oauth`.
_GIVEN = ("SPACE_ID", "OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL")
_LOGGER = logging.getLogger(__name__)
# Back to the same page. Within the frame of a Space the Hub's form needs to be scrolled.
_GO = """() => {{
  window.parent.postMessage({{ type: "SET_SCROLLING", enabled: true }}, "*");
  const here = window.location.pathname + window.location.search;
  window.location.assign("{where}?_target_url=" + encodeURIComponent(here));
}}"""


def offers_login(environment: Mapping[str, str], find: Callable[[str], object] = find_spec) -> bool:
    """Whether people can log in: on a Space with `hf_oauth`, whose image brings `gradio[oauth]`.

    Where only the packages of that extra are missing a line in the log says so.
    """
    if environment.get("SYSTEM") != "spaces" or not all(environment.get(name) for name in _GIVEN):
        return False
    if find("authlib") is None:
        _LOGGER.warning("nobody can log in: the package authlib is missing; gradio[oauth] brings it")
        return False
    return True


class Login:
    """Builds the buttons in place; one is seen, once `refresh_on` has told whether somebody is logged in."""

    def __init__(self, people: People, i18n: gr.I18n) -> None:
        self._people = people
        # Gradio has the addresses behind the buttons only where it finds one of its own, which speaks English. What
        # that asks when a page opens would be offered to everybody as a part of the API.
        gr.LoginButton(visible=False).load_event_to_attach = None
        options: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 90, "visible": False}
        self._buttons = [
            gr.Button(i18n("log_in"), elem_id="login", **options),
            gr.Button(i18n("log_out"), elem_id="logout", **options),
        ]
        for button, where in zip(self._buttons, ("login/huggingface", "logout"), strict=True):
            button.click(None, None, None, js=_GO.format(where=where), api_visibility="private")

    def refresh_on(self, event: Any) -> None:
        """Shows the button that is of use when this event comes."""
        event(self.look, None, self._buttons, queue=False, show_progress="hidden", api_visibility="private")

    def look(self, request: gr.Request) -> tuple[Any, Any]:
        """Which of the buttons are seen."""
        known = self._people.knows_account(request)
        return gr.Button(visible=not known), gr.Button(visible=known)
