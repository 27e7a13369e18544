from __future__ import annotations

import inspect
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

import gradio as gr
import httpx
import pytest
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from textgen.config import RunSettings, TrainingSettings
from textgen.errors import InvalidSetting
from textgen.jobs.run_folder import RunFolder
from textgen.limits import Limits
from textgen.studio import Studio
from textgen.ui.server import (
    can_show_a_browser,
    check_root_path,
    default_folders,
    host_from,
    keep_runs_going,
    keeps_runs,
    launch,
    launch_options,
    people_from,
    root_path_from,
    serve_forever,
    theme,
    training_folder,
    warm_up,
)
from textgen.workshop import Workshop

pytestmark = pytest.mark.slow


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
    assert default_folders(Path("/app"), None) == [Path("/app/checkpoints")]
    assert default_folders(Path("/app"), Path("/data")) == [Path("/app/checkpoints"), Path("/data")]


@pytest.mark.parametrize("word", ["off", "OFF", "0", "false", "no"])
def test_training_can_be_switched_off(word: str) -> None:
    environment = {"TEXTGEN_TRAINING": word, "TEXTGEN_RUNS": "/data/runs"}
    assert training_folder(environment, Path("/app")) is None
    assert training_folder(environment, Path("/app"), Path("/asked")) is None


def test_runs_are_kept_beside_the_program_or_where_one_says() -> None:
    assert training_folder({}, Path("/app")) == Path("/app/runs")
    assert training_folder({"TEXTGEN_TRAINING": "on", "TEXTGEN_RUNS": ""}, Path("/app")) == Path("/app/runs")
    assert training_folder({"TEXTGEN_RUNS": "/data/runs"}, Path("/app")) == Path("/data/runs")
    assert training_folder({"TEXTGEN_RUNS": "/data/runs"}, Path("/app"), Path("/asked")) == Path("/asked")


def own_file_system() -> Path:
    """A folder with a file system of its own, as a mounted storage bucket is one."""
    folder = Path("/dev/shm")
    if not (folder.is_mount() and os.access(folder, os.W_OK)):
        pytest.skip("no mounted folder to write to is known here")
    return folder


def test_a_space_keeps_runs_in_its_storage_if_it_has_one(tmp_path: Path) -> None:
    storage = own_file_system()
    space = {"SPACE_ID": "a/b"}
    assert training_folder(space, Path("/app"), storage=storage) == storage / "runs"
    assert training_folder({**space, "TEXTGEN_RUNS": "/own"}, Path("/app"), storage=storage) == Path("/own")
    assert training_folder({}, Path("/app"), storage=storage) == Path("/app/runs")
    # A folder of that name alone is lost at a restart like everything else.
    assert training_folder(space, Path("/app"), storage=tmp_path) == Path("/app/runs")
    assert training_folder(space, Path("/app"), storage=tmp_path / "missing") == Path("/app/runs")


def test_only_what_is_mounted_outlives_the_restart_of_a_space() -> None:
    space = {"SPACE_ID": "a/b"}
    assert not keeps_runs(space, Path("/app/runs"))
    assert keeps_runs(space, own_file_system() / "textgen" / "runs")
    assert keeps_runs(space, None)
    assert keeps_runs({}, Path("/app/runs"))


@pytest.mark.parametrize("environment", [{"SPACE_ID": "a/b"}, {"TEXTGEN_SHARED": "1"}, {"TEXTGEN_ADMIN_KEY": "word"}])
def test_people_are_told_apart_where_a_host_is_shared(environment: dict[str, str], tmp_path: Path) -> None:
    people = people_from(environment, tmp_path)
    assert people.shared
    assert people.admits("word") is ("TEXTGEN_ADMIN_KEY" in environment)
    assert not people.admits("")


def test_nobody_sees_what_somebody_else_owns_where_nobody_can_train(models: Path, tmp_path: Path) -> None:
    people = people_from({"SPACE_ID": "a/b"}, None)
    assert people.shared
    assert not people.keeps_keys
    for name, owner in (("of-the-host", ""), ("of-ann", "ann")):
        shutil.copytree(models / "tiny", tmp_path / name)
        RunFolder(tmp_path / name).write_about(title=name, owner=owner)
    studio = Studio([tmp_path], device="cpu")
    assert [info.name for info in studio.models(people.of(None))] == ["of-the-host"]
    studio.close()


def test_people_are_not_told_apart_on_ones_own_machine(tmp_path: Path) -> None:
    assert not people_from({}, tmp_path).shared
    assert not people_from({"TEXTGEN_SHARED": "", "TEXTGEN_ADMIN_KEY": ""}, tmp_path).shared
    assert list(tmp_path.iterdir()) == []


def queued_elsewhere(runs: Path) -> str:
    """A run that waits by its own account, and that the queue does not know: as after a crash."""
    run_id = "20260101-000000-abc"
    folder = RunFolder(runs / run_id)
    folder.write_settings(RunSettings(files=("a.txt",), training=TrainingSettings(steps=1)))
    folder.write_about(title="lost", owner="", created=1.0)
    folder.write_status("queued", task={})
    return run_id


def test_the_queue_is_recovered_and_then_looked_after_until_the_end(tmp_path: Path) -> None:
    run_id = queued_elsewhere(tmp_path)
    workshop = Workshop(tmp_path, device="cpu", limits=Limits(max_runs_training_per_device=0))
    ended = threading.Event()
    ended.set()
    keep_runs_going(workshop, ended)
    assert workshop.jobs.view(run_id).position == 1


class FailingJobs:
    """A queue on a disk that is full the first times."""

    def __init__(self, ended: threading.Event) -> None:
        self.calls: list[str] = []
        self._ended = ended

    def recover(self) -> None:
        self.calls.append("recover")
        if len(self.calls) < 3:
            raise OSError("full")

    def dispatch(self) -> None:
        self.calls.append("dispatch")
        self._ended.set()


def test_trouble_with_the_queue_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()
    workshop = Workshop(tmp_path, device="cpu")
    jobs = FailingJobs(ended)
    workshop.jobs = cast("Any", jobs)
    keep_runs_going(workshop, ended)
    assert jobs.calls == ["recover", "recover", "recover", "dispatch"]
    assert caplog.text.count("could not be looked after") == 2


def test_launch_knows_every_option() -> None:
    options = launch_options()
    assert options.keys() <= inspect.signature(gr.Blocks.launch).parameters.keys()
    assert options["share"] is False
    assert options["ssr_mode"] is False
    assert "textgenLanguage" in options["head"]
    assert "textgenSwitchLanguage" in options["head"]


class Overworked:
    """Middleware of a server that has no time to say that it is there."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            await PlainTextResponse("busy", status_code=503)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def test_a_busy_machine_keeps_no_page_from_opening() -> None:
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Textbox()
    app = {"middleware": [Middleware(Overworked)]}
    url = launch(page, server_name="127.0.0.1", app_kwargs=app, **launch_options())
    try:
        assert httpx.head(url, timeout=60).status_code == 503
        assert "gradio" in httpx.get(url, timeout=60).text
    finally:
        page.close(verbose=False)


def test_the_page_asks_no_other_host_for_anything() -> None:
    options = launch_options()
    assert "//" not in options["css"].replace("http://www.w3.org", "")
    assert "http" not in options["head"].replace("http://www.w3.org", "")
    assert theme()._stylesheets == []


def finish_warming_up() -> None:
    for thread in threading.enumerate():
        if thread.name == "textgen-warm-up":
            thread.join()


def test_the_first_model_is_ready_while_the_page_opens(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(models / "tiny", tmp_path / "tiny")
    studio = Studio([tmp_path], device="cpu")
    assert not studio.ready
    warm_up(studio)
    finish_warming_up()
    assert studio.ready
    # It is there already: nothing could load it now.
    monkeypatch.setattr("textgen.studio.LoadedModel", None)
    with studio.borrow("tiny") as model:
        assert model.num_parameters > 0
    studio.close()


def test_torch_is_not_waited_for_before_the_page_is_there(models: Path, tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        import app
        from textgen.studio import Studio
        from textgen.ui.build import build_page
        from textgen.workshop import Workshop

        studio = Studio([Path(sys.argv[1])])
        assert studio.models()
        build_page(studio, workshop=Workshop(Path(sys.argv[2]), device=lambda: str(studio.device)))
        print([name for name in ("torch", "onnx", "onnxruntime", "numba") if name in sys.modules])
        print(studio.device.type, "torch" in sys.modules)
    """
    command = [sys.executable, "-c", dedent(program), str(models), str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True)
    imported, device = done.stdout.splitlines()[-2:]
    assert imported == "[]"
    assert device.endswith(" True")


def test_a_damaged_or_missing_model_does_not_keep_the_page_from_opening(models: Path, tmp_path: Path) -> None:
    for folder in (models / "spoilt", tmp_path):
        studio = Studio([folder], device="cpu")
        warm_up(studio)
        finish_warming_up()  # an error in its thread would fail the test
        studio.close()


def test_the_root_path_is_what_was_asked_for_or_what_gradio_is_told() -> None:
    assert root_path_from({}) == ""
    assert root_path_from({"GRADIO_ROOT_PATH": "/studio"}) == "/studio"
    assert root_path_from({"GRADIO_ROOT_PATH": "/studio"}, "/other") == "/other"


@pytest.mark.parametrize("path", ["", "/studio", "/a/b/", "https://example.org/studio", "http://127.0.0.1:80"])
def test_a_root_path_is_a_path_or_an_address(path: str) -> None:
    check_root_path(path)


@pytest.mark.parametrize("path", ["studio", "/a b", "//", "/../a", "/a?b", "ftp://example.org", "https://"])
def test_what_is_no_root_path_is_told_before_anything_is_loaded(path: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="root_path: "):
        serve_forever([tmp_path], root_path=path)


@pytest.mark.parametrize("port", [None, 70_000, -1])
def test_an_address_that_cannot_be_listened_on_is_told(tmp_path: Path, port: int | None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if port is None else port
        with pytest.raises(InvalidSetting, match=f"address: 127.0.0.1, port {port} was given"):
            serve_forever([tmp_path], host="127.0.0.1", port=port, device="cpu")
