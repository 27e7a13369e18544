from __future__ import annotations

import inspect
import shutil
import socket
import threading
from pathlib import Path

import gradio as gr
import pytest

from textgen.errors import InvalidSetting
from textgen.studio import Studio
from textgen.ui.server import (
    can_show_a_browser,
    default_folders,
    host_from,
    launch_options,
    serve_forever,
    theme,
    warm_up,
)


def test_on_a_space_all_addresses_are_listened_on() -> None:
    assert host_from({"SPACE_ID": "someone/something"}) == "0.0.0.0"
    assert host_from({}) is None


def test_a_browser_is_opened_where_there_is_a_desktop() -> None:
    assert can_show_a_browser({}, "darwin")
    assert can_show_a_browser({"DISPLAY": ":0"}, "linux")
    assert not can_show_a_browser({}, "linux")
    assert not can_show_a_browser({"DISPLAY": ":0", "SPACE_ID": "a/b"}, "linux")
    assert not can_show_a_browser({"DISPLAY": ":0", "SSH_CONNECTION": "1"}, "linux")


def test_models_are_looked_for_where_they_ship_and_where_they_are_trained() -> None:
    assert default_folders(Path("/app")) == [Path("/app/checkpoints"), Path("/app/runs")]


def test_launch_knows_every_option() -> None:
    options = launch_options()
    assert options.keys() <= inspect.signature(gr.Blocks.launch).parameters.keys()
    assert options["share"] is False
    assert options["ssr_mode"] is False
    assert "textgenLanguage" in options["head"]
    assert "textgenSwitchLanguage" in options["head"]


def test_the_page_asks_no_other_host_for_anything() -> None:
    options = launch_options()
    assert "//" not in options["css"].replace("http://www.w3.org", "")
    assert "http" not in options["head"].replace("http://www.w3.org", "")
    assert theme()._stylesheets == []


def finish_warming_up() -> None:
    for thread in threading.enumerate():
        if thread.name == "textgen-warm-up":
            thread.join()


def test_the_first_model_is_loaded_while_the_page_opens(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "tiny", tmp_path / "tiny")
    studio = Studio([tmp_path], device="cpu")
    warm_up(studio)
    finish_warming_up()
    # Weights that are damaged now do not matter any more.
    (studio.models()[0].folder / "model.safetensors").write_bytes(b"")
    assert studio.load("tiny").checkpoint.model.num_parameters > 0
    studio.close()


def test_a_damaged_or_missing_model_does_not_keep_the_page_from_opening(models: Path, tmp_path: Path) -> None:
    for folder in (models / "spoilt", tmp_path):
        studio = Studio([folder], device="cpu")
        warm_up(studio)
        finish_warming_up()  # an error in its thread would fail the test
        studio.close()


@pytest.mark.parametrize("port", [None, 70_000, -1])
def test_an_address_that_cannot_be_listened_on_is_told(tmp_path: Path, port: int | None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if port is None else port
        with pytest.raises(InvalidSetting, match=f"address: 127.0.0.1, port {port} was given"):
            serve_forever([tmp_path], host="127.0.0.1", port=port, device="cpu")
