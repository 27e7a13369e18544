"""A Space is deployed with the real client of the Hub, and what was uploaded is started as a Space would start it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hub_server import STRANGER, WRITER, Hub, Repository, hub_server
from textgen.errors import HubForbidden, HubRefused, InvalidSetting
from textgen.hub.spaces import SpaceOptions
from textgen.model.front_matter import split_card
from textgen.progress import FINISHING, Progress
from textgen.remote.space import deploy, front_matter, space_files

ROOT = Path(__file__).parents[2]
REPO, SPACE = "anna/studio", "spaces/anna/studio"
PINS = (ROOT / "requirements.txt").read_text(encoding="utf-8")
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
KINDS: dict[str, type] = {
    **dict.fromkeys(("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version"), str),
    **dict.fromkeys(("app_file", "license", "short_description", "startup_duration_timeout"), str),
    "hf_oauth": bool,
    "tags": list,
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        yield hub


@pytest.fixture(scope="module")
def model(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with things beside it that belong to nobody else."""
    folder = tmp_path_factory.mktemp("own") / "tales"
    shutil.copytree(trained_run / "checkpoints" / "best", folder)
    (folder / "train.txt").write_text("private")
    (folder / ".env").write_text("private")
    return folder


def put(hub: Hub, model: Path, token: Any = WRITER, progress: Any = lambda _: None, **options: Any) -> Repository:
    address = deploy(REPO, [model], SpaceOptions(**options), token=token, endpoint=hub.address, progress=progress)
    assert address == f"{hub.address}/spaces/{REPO}"
    return hub.repositories[SPACE]


def tracked(folder: str) -> set[str]:
    try:
        command = ["git", "ls-files", "-co", "--exclude-standard", folder]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the project is not a git repository here")
    return {name for name in listed if (ROOT / name).is_file()}


class TestFrontMatter:
    def test_is_what_the_hub_takes(self) -> None:
        head = front_matter(PINS)
        assert {name: type(value) for name, value in head.items()} == KINDS
        assert f"gradio=={head['sdk_version']}\n" in PINS
        assert {head["colorFrom"], head["colorTo"]} <= COLOURS
        assert head["sdk"] == "gradio"
        assert re.fullmatch(r"3\.\d+", head["python_version"])
        assert re.fullmatch(r"\d+[smh]", head["startup_duration_timeout"])
        assert (ROOT / head["app_file"]).is_file()
        assert len(head["short_description"]) <= 60
        assert all(re.fullmatch(r"[a-z-]+", tag) for tag in head["tags"])

    def test_is_that_of_the_project_itself(self) -> None:
        assert split_card((ROOT / "README.md").read_text(encoding="utf-8"))[0] == front_matter(PINS)

    def test_needs_the_version_of_gradio(self) -> None:
        with pytest.raises(InvalidSetting, match="gradio=="):
            front_matter("gradio>=6\n")


class TestUpload:
    def test_is_exactly_this(self, hub: Hub, model: Path) -> None:
        told: list[Progress] = []
        space = put(hub, model, progress=told.append)
        names = ("config.json", "model.safetensors", "tokenizer.model", "generation_config.json", "README.md")
        weights = {f"checkpoints/tales/{name}" for name in (*names, "copy_index.safetensors")}
        made = {"README.md", "LICENSE", "app.py", "requirements.txt", ".gitattributes"}
        program = {name for name in tracked("textgen") if not name.startswith("textgen/benchmarks/")}
        assert space.files.keys() == {*program, *weights, *made}
        for name in (*program, "LICENSE", "app.py", "requirements.txt"):
            assert space.files[name] == (ROOT / name).read_bytes()
        assert space.commits == 1
        assert (space.private, space.sdk, space.hardware) == (False, "gradio", "cpu-basic")
        head = yaml.safe_load(space.files["README.md"].decode().split("---\n")[1])
        assert head == front_matter(PINS)
        assert "checkpoints/tales/README.md" in space.files["README.md"].decode()
        assert told[-1].stage == FINISHING
        uploaded = [progress for progress in told if progress.stage != FINISHING][-1]
        assert uploaded.done == uploaded.total == pytest.approx(sum(map(len, space.files.values())) / 1e6, abs=1e-3)

    @pytest.mark.slow
    def test_a_second_one_removes_what_is_gone_and_nothing_else(self, hub: Hub, model: Path, tmp_path: Path) -> None:
        space = put(hub, model)
        space.files |= {"textgen/old.py": b"", "checkpoints/old/config.json": b"", "notes.md": b"mine"}
        other = shutil.copytree(model, tmp_path / "other")
        put(hub, other)
        assert "textgen/old.py" not in space.files
        assert {name.split("/")[1] for name in space.files if name.startswith("checkpoints/")} == {"other"}
        assert space.files["notes.md"] == b"mine"
        assert space.commits == 2

    def test_another_program_is_left_alone(self, hub: Hub, model: Path) -> None:
        hub.repositories[SPACE] = Repository(files={"README.md": b"", "app.py": b"theirs", "checkpoints/a": b""})
        with pytest.raises(InvalidSetting, match="another Space"):
            put(hub, model)
        assert hub.repositories[SPACE].files["app.py"] == b"theirs"
        assert hub.repositories[SPACE].variables == {}

    def test_a_public_space_does_not_become_private(self, hub: Hub, model: Path) -> None:
        put(hub, model)
        with pytest.raises(InvalidSetting, match="public"):
            put(hub, model, private=True)

    def test_whoever_may_not_write_is_told(self, hub: Hub, model: Path) -> None:
        with pytest.raises(HubForbidden):
            put(hub, model, token=STRANGER)


class TestOptions:
    def test_are_set(self, hub: Hub, model: Path) -> None:
        space = put(
            hub,
            model,
            private=True,
            hardware="cpu-upgrade",
            variables={"TEXTGEN_TRAINING": "off"},
            secrets={"TEXTGEN_ADMIN_KEY": "word"},
            bucket="anna/runs",
        )
        assert space.private
        assert (space.variables, space.secrets) == ({"TEXTGEN_TRAINING": "off"}, {"TEXTGEN_ADMIN_KEY": "word"})
        assert hub.buckets == {"anna/runs": "private"}
        assert space.volumes == [{"type": "bucket", "source": "anna/runs", "mountPath": "/data"}]
        assert space.hardware == "cpu-upgrade"

    @pytest.mark.slow
    def test_only_what_differs_is_set_again(self, hub: Hub, model: Path) -> None:
        put(hub, model, variables={"A": "1", "B": "2"}, bucket="anna/runs")
        before = len(hub.asked)
        space = put(hub, model, variables={"A": "1", "B": "3"}, bucket="anna/runs")
        assert space.variables == {"A": "1", "B": "3"}
        set_again = [path for method, path, _ in hub.asked[before:] if method == "POST" and path.endswith("/variables")]
        assert len(set_again) == 1

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"bucket": "runs"}, "storage"),
            ({"variables": {"A B": "1"}}, "variable"),
            ({"secrets": {"": "1"}}, "secret"),
            ({"variables": {"A": "1"}, "secrets": {"A": "1"}}, "secret"),
        ],
    )
    def test_that_cannot_be_are_told_before_anything_is_made(
        self, hub: Hub, model: Path, options: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidSetting, match=f"^{field}: "):
            put(hub, model, **options)
        assert hub.asked == []

    def test_zero_gpu_gets_what_runs_there(self, hub: Hub, model: Path) -> None:
        space = put(hub, model, hardware="zero-a10g")
        assert space.hardware == "zero-a10g"
        assert yaml.safe_load(space.files["README.md"].decode().split("---\n")[1])["python_version"] == "3.12.12"
        installed, usual = space.files["requirements.txt"].decode().splitlines(), PINS.splitlines()
        assert {line for line in usual if line not in installed} == {"torch>=2.8,<=2.13.0"}
        torch, spaces = [line for line in installed if line not in usual]
        assert torch.removeprefix("torch==") in {"2.8.0", "2.9.1", "2.10.0", "2.11.0"}
        assert spaces in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()

    def test_that_the_hub_refuses_are_told(self, hub: Hub, model: Path) -> None:
        with pytest.raises(HubRefused, match="abacus is no hardware"):
            put(hub, model, hardware="abacus")
        assert hub.repositories[SPACE].files.keys() <= {
            ".gitattributes",
            "README.md",
        }  # nothing was uploaded for nothing
        for name in ("", "Two GPUs"):
            with pytest.raises(InvalidSetting, match="hardware"):
                put(hub, model, hardware=name)


class TestFiles:
    def test_models_need_names_of_their_own(self, model: Path, tmp_path: Path) -> None:
        with pytest.raises(InvalidSetting, match="different names"):
            space_files(tmp_path, [model, model])

    def test_a_run_goes_along_as_its_best_checkpoint(self, trained_run: Path, tmp_path: Path) -> None:
        files = space_files(tmp_path, [trained_run])
        best = json.loads((trained_run / "checkpoints" / "best" / "config.json").read_bytes())
        assert (
            json.loads(files[f"checkpoints/{trained_run.name}/config.json"].read_bytes())["figures"] == best["figures"]
        )

    def test_an_installed_program_brings_what_was_packed_into_it(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "site" / "textgen"
        for name in ("__init__.py", "ui/page.css", "space/app.py"):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text("x = 1\n")
        monkeypatch.setattr("textgen.__file__", str(package / "__init__.py"))
        with pytest.raises(InvalidSetting, match=r"requirements\.txt"):
            space_files(tmp_path / "a", [model])
        (package / "space" / "requirements.txt").write_text("gradio==6.1.2\n")
        (package / "space" / "LICENSE").write_text("MIT\n")
        with pytest.raises(InvalidSetting, match="--models DIR"):
            space_files(tmp_path / "b")
        files = space_files(tmp_path / "c", [model])
        made = {name for name in files if not name.startswith("checkpoints/")}
        assert made == {
            "README.md",
            "LICENSE",
            "app.py",
            "requirements.txt",
            "textgen/__init__.py",
            "textgen/ui/page.css",
        }
        assert "sdk_version: 6.1.2" in files["README.md"].read_text(encoding="utf-8")
