"""A page that is served over loopback as `textgen.ui.server` serves it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio_client import Client
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from textgen.ui.people import NOBODY_ELSE, OwnerCookie, People
from textgen.ui.server import launch, launch_options

DEADLINE_SECONDS = 60.0


@contextmanager
def served(
    page: gr.Blocks, *, people: People = NOBODY_ELSE, routes: Sequence[BaseRoute] = (), **options: Any
) -> Iterator[str]:
    """The page's address."""
    page.queue(max_size=64, default_concurrency_limit=16)
    middleware = [Middleware(OwnerCookie, people=people)]
    app = {"middleware": middleware, "routes": list(routes)}
    url = launch(page, server_name="127.0.0.1", app_kwargs=app, **{**launch_options(), **options})
    try:
        yield url
    finally:
        page.close(verbose=False)


def client_of(url: str, people: People | None = None, key: str = "") -> Client:
    """Gradio's own client, with the cookie of a person where there is one."""
    cookie = people.cookie(key, secure=False).partition(";")[0] if people and key else ""
    return Client(url, headers={"Cookie": cookie} if cookie else {}, verbose=False, analytics_enabled=False)
