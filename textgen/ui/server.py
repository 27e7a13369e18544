"""Starts the page on a machine or on a Space."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from textgen.errors import InvalidSetting, TextgenError
from textgen.limits import Limits
from textgen.studio import Studio
from textgen.ui.build import build_page
from textgen.ui.i18n import build_i18n


def launch_options() -> dict[str, Any]:
    """What every way to start the page has in common; FACTS of Gradio 6: theme, css and head belong to `launch`."""
    assets = files("textgen.ui") / "assets"
    return {
        "theme": theme(),
        "css": (assets / "page.css").read_text(encoding="utf-8"),
        "head": f"<script>{(assets / 'page.js').read_text(encoding='utf-8')}</script>",
        "i18n": build_i18n(),
        "footer_links": ["settings"],
        "run_history": False,
        # Nothing is uploaded yet; Gradio's route for it is open to anyone all the same.
        "max_file_size": "1mb",
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": False,
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
        "input_border_color": "*neutral_300",
        "input_border_width": "1px",
        "block_border_width": "1px",
        "block_border_color": "*neutral_200",
        "input_placeholder_color": "*neutral_500",
    }
    return soft.set(**plain, **dark, **light)


def serve_forever(
    folders: Sequence[Path],
    *,
    host: str | None = None,
    port: int | None = None,
    device: str = "auto",
    open_browser: bool = False,
    limits: Limits | None = None,
) -> None:
    """Serves the page until Ctrl-C; streams then end, and whatever runs in other processes goes on.

    Raises `InvalidSetting` for an address that cannot be listened on.
    """
    studio = Studio(folders, device=device, limits=limits)
    warm_up(studio)
    page = build_page(studio)
    page.queue(max_size=studio.limits.max_waiting_requests, default_concurrency_limit=studio.limits.max_rows)
    address: dict[str, Any] = {"server_name": host, "server_port": port, "inbrowser": open_browser}
    try:
        page.launch(**address, prevent_thread_lock=True, **launch_options())
        page.block_thread()
    except (OSError, OverflowError):
        allowed = "an address of this machine and a port from 1 to 65535 that nobody uses"
        raise InvalidSetting("address", f"{host or 'all'}, port {port or 'any'}", allowed) from None
    finally:
        studio.close()


def warm_up(studio: Studio) -> None:
    """Loads the first model while the browser still fetches the page."""
    names = [info.name for info in studio.models()]
    if names:
        threading.Thread(target=_load_quietly, args=(studio, names[0]), name="textgen-warm-up", daemon=True).start()


def _load_quietly(studio: Studio, name: str) -> None:
    try:
        studio.load(name)
    except TextgenError:
        # Whoever chooses this model is told; a damaged checkpoint must not keep the page from opening.
        return


def default_folders(root: Path) -> list[Path]:
    """Where models are looked for: those that ship, then finished runs."""
    return [root / "checkpoints", root / "runs"]


def host_from(environment: Mapping[str, str]) -> str | None:
    """Where `python app.py` listens: on all addresses on a Space, else as Gradio's own variables or defaults say."""
    return "0.0.0.0" if "SPACE_ID" in environment else None


def can_show_a_browser(environment: Mapping[str, str], platform: str) -> bool:
    """Whether there is a desktop to open the page on: always on macOS and Windows, elsewhere where a display is."""
    if "SPACE_ID" in environment or "SSH_CONNECTION" in environment:
        return False
    return platform in ("darwin", "win32") or "DISPLAY" in environment or "WAYLAND_DISPLAY" in environment
