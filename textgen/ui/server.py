"""Starts the page on a machine or on a Space."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, redirect_stdout
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
import gradio.queueing
import gradio.utils
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from textgen.errors import InvalidSetting, TextgenError
from textgen.files import SPACE_STORAGE, cache_folder, is_mounted, runs_folder
from textgen.limits import Limits
from textgen.studio import BackendName, Studio
from textgen.ui.build import build_page
from textgen.ui.endpoints import TOOLS
from textgen.ui.i18n import build_i18n, languages_for_browser
from textgen.ui.long_work import cancel_all
from textgen.ui.people import NOBODY_ELSE, OwnerCookie, People, Visitors
from textgen.ui.shutdown import asked_to_end, end_gracefully, leave
from textgen.ui.zero_gpu import ZeroGpuStudio, lends_gpu, lent_training
from textgen.workshop import Workshop

# For everything on the page that is no writing.
_OTHER_THREADS = 40
_DISPATCH_SECONDS = 1.0
_SCRIPTS = ("document.js", "tokens.js", "restore.js", "page.js")
_OFF = ("", "off", "0", "false", "no")
_LOGGER = logging.getLogger(__name__)


def launch_options(max_upload_bytes: int = 1_000_000) -> dict[str, Any]:
    """What every way to start the page has in common; FACTS of Gradio 6: theme, css and head belong to `launch`."""
    assets = files("textgen.ui") / "assets"

    def joined(*names: str) -> str:
        return "\n".join((assets / name).read_text(encoding="utf-8") for name in names)

    scripts = f"window.textgenLanguages = {json.dumps(languages_for_browser())};\n{joined(*_SCRIPTS)}"
    return {
        "theme": theme(),
        "css": joined("page.css", "views.css", "train.css", "models.css"),
        # Of `css` Gradio passes on no rules for containers, of `head` everything.
        "head": f"<style>{joined('plot.css')}</style><script>{scripts}</script>",
        "i18n": build_i18n(),
        "footer_links": ["api", "settings"],
        "run_history": False,
        # Gradio's route for uploads is open to anyone, also where nothing is to be uploaded.
        "max_file_size": max_upload_bytes,
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": find_spec("mcp") is not None,  # where it is not, Gradio would only complain
        "share": False,
        "show_error": False,
    }


def theme() -> gr.themes.Base:
    """Warm paper and ink. Only fonts that are on the machine: the page asks no other host for anything."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "monospace"]
    soft = gr.themes.Soft(
        primary_hue="teal", secondary_hue="teal", neutral_hue="stone", font=sans, font_mono=mono, radius_size="md"
    )
    # Labels as plain words: a coloured plate behind each would shout down the text.
    plain = {"block_title_background_fill": "transparent", "block_title_text_color": "*body_text_color"}
    plain |= {"block_title_padding": "0", "block_label_background_fill": "transparent"}
    dark = {f"{name}_dark": value for name, value in plain.items() if "padding" not in name}
    # Light colours dark enough to be read (contrast 4.5 : 1 and more), and boxes whose edges are seen.
    light = {
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
        "body_text_color_subdued": "*neutral_600",
        "block_info_text_color": "*neutral_600",
        "block_label_text_color": "*primary_700",
        "input_border_color": "*neutral_300",
        "input_border_width": "1px",
        "block_border_width": "1px",
        "block_border_color": "*neutral_200",
        "input_placeholder_color": "*neutral_500",
        "button_primary_background_fill_dark": "*primary_700",
        "button_primary_background_fill_hover_dark": "*primary_600",
        "input_background_fill_dark": "*neutral_900",
        "input_border_color_dark": "*neutral_700",
        "checkbox_border_color": "*neutral_400",
        "checkbox_label_background_fill_selected": "*primary_700",
        "checkbox_background_color_selected": "*primary_600",
    }
    return soft.set(**plain, **dark, **light)


def serve_forever(
    folders: Sequence[Path],
    *,
    host: str | None = None,
    port: int | None = None,
    device: str = "auto",
    backend: BackendName = "auto",
    threads: int | None = None,
    root_path: str = "",
    open_browser: bool = False,
    limits: Limits | None = None,
    runs: Path | None = None,
    runs_last: bool = True,
    people: People = NOBODY_ELSE,
    routes: Callable[[Studio, Workshop | None], Sequence[BaseRoute]] = lambda _, __: (),
) -> NoReturn:
    """Serves the page until Ctrl-C or SIGTERM, and then ends the process.

    Streams end before it, and whatever runs in other processes goes on.

    `routes` makes what is served beside it.

    `device`, `backend` and `threads` say what runs the models; on ZeroGPU that is settled. Runs are kept in the folder
    `runs`; without one nobody can train. The page warns of runs that do not last. `people` tells them apart.

    `root_path` is where a proxy in front has put it, a path or a whole address; "" without one.

    Raises `InvalidSetting` for an address that cannot be listened on, and for a root that is none.
    """
    check_root_path(root_path)
    _spare_event_loops()
    cache, lent = cache_folder(os.environ), lends_gpu(os.environ)
    studio: Studio
    if lent:
        studio = ZeroGpuStudio(folders, cache_folder=cache, limits=limits)
    else:
        studio = Studio(folders, device=device, backend=backend, threads=threads, cache_folder=cache, limits=limits)
    with closing(studio), asked_to_end() as asked:
        workshop = _workshop(runs, studio, lent=lent) if runs is not None else None
        page = build_page(studio, workshop=workshop, runs_last=runs_last, people=people)
        url = _launch(
            page,
            studio.limits,
            server_name=host,
            server_port=port,
            root_path=root_path.rstrip("/"),
            inbrowser=open_browser,
            app_kwargs={
                "middleware": [Middleware(OwnerCookie, people=people)],
                "routes": list(routes(studio, workshop)),
            },
            **launch_options(studio.limits.max_upload_bytes if workshop is not None else 1_000_000),
        )
        warm_up(studio)
        if workshop is not None:
            threading.Thread(target=keep_runs_going, args=(workshop,), name="textgen-runs", daemon=True).start()
        sys.stdout.write(f"Textgen Studio is at {url} (Ctrl-C ends it)\n")
        sys.stdout.flush()
        asked.wait()

        def end_streams() -> None:
            cancel_all()
            studio.close()

        end_gracefully(page, end_streams)
    leave()


def _spare_event_loops() -> None:
    """Gradio makes an event loop for each lock of a page, which no lock needs since Python 3.10, and never closes it.

    On a Space the log then has tracebacks of their end.
    """
    for module in (gradio.queueing, gradio.utils):
        vars(module)["safe_get_lock"] = asyncio.Lock
    vars(gradio.utils)["safe_get_stop_event"] = asyncio.Event


def _workshop(runs: Path, studio: Studio, *, lent: bool) -> Workshop:
    limits, titles = studio.limits, studio.shared_titles
    if lent:
        return Workshop(runs, device="auto", limits=limits, train_slice=lent_training(), shared_titles=titles)
    return Workshop(runs, device=lambda: str(studio.device), limits=limits, shared_titles=titles)


def _launch(page: gr.Blocks, limits: Limits, **options: Any) -> str:
    """Opens the page for as many as may write and wait; returns its address on this machine."""
    # The engine bounds how many write and how many wait, and says so in a sentence. Gradio's own bounds lie beyond,
    # with a thread for each, in which it waits for the next words.
    most = limits.max_rows + limits.max_waiting_requests
    page.queue(max_size=2 * most, default_concurrency_limit=most)
    try:
        return launch(page, max_threads=most + _OTHER_THREADS, **options)
    except (OSError, OverflowError):
        allowed = "an address of this machine and a port from 1 to 65535 that nobody uses"
        given = f"{options['server_name'] or 'all'}, port {options['server_port'] or 'any'}"
        raise InvalidSetting("address", given, allowed) from None


def check_root_path(root_path: str) -> None:
    """`InvalidSetting` for what is neither a path nor an address."""
    parts = set(root_path.split("/"))
    if root_path and (parts & {".", ".."} or not re.fullmatch(r"(https?://[^/?#\s]+)?(/[^/?#\s]+)*/?", root_path)):
        raise InvalidSetting("root_path", root_path, "a path like /studio, or a whole address")


def launch(page: gr.Blocks, **options: Any) -> str:
    """Serves a page in threads of its own and returns its address. Language models (MCP) get `TOOLS` and no more."""
    # However quiet, gradio announces its tools. `_frontend=False` spares the page one question: whether it answers in
    # three seconds, which on a busy machine it may not. That it is served gradio has asked before, without haste.
    with redirect_stdout(io.StringIO()):
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, _frontend=False, **options)
    server = page.mcp_server_obj
    if server is not None:
        offered = server.tool_to_endpoint.items()
        server.tool_to_endpoint = {tool: endpoint for tool, endpoint in offered if endpoint.lstrip("/") in TOOLS}
    return str(url)


def keep_runs_going(workshop: Workshop, ended: threading.Event | None = None) -> None:
    """Starts what waits and tidies up after what has died, for as long as the server lives."""
    ended = ended or threading.Event()
    first, recovered = True, False
    while first or not ended.wait(_DISPATCH_SECONDS):
        first = False
        try:
            workshop.jobs.dispatch() if recovered else workshop.jobs.recover()
            recovered = True
        except Exception:
            # A full disk, say: the next time, perhaps.
            _LOGGER.exception("the queue of runs could not be looked after")


def training_folder(
    environment: Mapping[str, str], root: Path, asked: Path | None = None, *, storage: Path = SPACE_STORAGE
) -> Path | None:
    """`runs_folder`; None where TEXTGEN_TRAINING=off forbids training, whatever was asked for."""
    if environment.get("TEXTGEN_TRAINING", "on").lower() in _OFF:
        return None
    return runs_folder(environment, root, asked, storage=storage)


def keeps_runs(environment: Mapping[str, str], runs: Path | None) -> bool:
    """Whether runs are still there after a restart; a Space begins anew, but for what is mounted there."""
    return runs is None or "SPACE_ID" not in environment or is_mounted(runs)


def people_from(environment: Mapping[str, str], runs: Path | None) -> People:
    """Who is told apart: on a Space, or where TEXTGEN_SHARED or TEXTGEN_ADMIN_KEY is set, everyone; else nobody."""
    admin_key = environment.get("TEXTGEN_ADMIN_KEY") or None
    asked = environment.get("TEXTGEN_SHARED", "off").lower() not in _OFF
    shared = "SPACE_ID" in environment or asked or admin_key is not None
    if not shared:
        return NOBODY_ELSE
    return Visitors() if runs is None else People(runs, admin_key=admin_key)


def warm_up(studio: Studio) -> None:
    """Loads the first model, and torch for it, and has it write a token while the browser still fetches the page."""
    names = [info.name for info in studio.models()]
    if names:
        threading.Thread(target=_begin_quietly, args=(studio, names[0]), name="textgen-warm-up", daemon=True).start()


def _begin_quietly(studio: Studio, name: str) -> None:
    try:
        studio.warm_up(name)
    except TextgenError:
        # Whoever chooses this model is told; a damaged checkpoint must not keep the page from opening.
        return


def default_folders(root: Path, runs: Path | None) -> list[Path]:
    """Where models are looked for: those that ship, then what was trained here."""
    return [root / "checkpoints", *([runs] if runs is not None else [])]


def host_from(environment: Mapping[str, str]) -> str | None:
    """Where `python app.py` listens: on all addresses on a Space, else as Gradio's own variables or defaults say."""
    return "0.0.0.0" if "SPACE_ID" in environment else None


def root_path_from(environment: Mapping[str, str], asked: str | None = None) -> str:
    """Where a proxy in front has put the page: as `asked` for, else as Gradio's own variable says."""
    return environment.get("GRADIO_ROOT_PATH", "") if asked is None else asked


def can_show_a_browser(environment: Mapping[str, str], platform: str) -> bool:
    """Whether there is a desktop to open the page on: always on macOS and Windows, elsewhere where a display is."""
    if "SPACE_ID" in environment or "SSH_CONNECTION" in environment:
        return False
    return platform in ("darwin", "win32") or "DISPLAY" in environment or "WAYLAND_DISPLAY" in environment
