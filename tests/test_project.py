"""What the project as a whole promises: nothing private in it, models that load, assets that are packed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from packaging.utils import canonicalize_name

import textgen
from textgen.config import GenerationSettings, RunSettings, parse_settings, read_settings_file
from textgen.limits import Limits
from textgen.model.checkpoint import read_model_settings
from textgen.studio import LoadedModel, Running, TextEnd

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(path.parent for path in (ROOT / "checkpoints").glob("*/config.json"))
# Written apart, so that this file does not find itself.
PRIVATE = (
    "/ro" + "ot/",
    "/wo" + "rk/",
    "/ho" + "me/",
    "pypi" + ".org",
    "files.python" + "hosted",
    "registry.npm" + "js",
)
MODEL_MAX_BYTES = 25_000_000
FILE_MAX_BYTES = 10_000_000


def project_files() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the project is not a git repository here")
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def test_no_machine_path_or_registry_host_is_in_the_repository() -> None:
    texts = {path: path.read_bytes() for path in project_files() if path.suffix not in {".png", ".safetensors"}}
    found = [(path.name, word) for path, text in texts.items() for word in PRIVATE if word.encode() in text]
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GRADIO_SERVER_PORT", "99999999", "GRADIO_SERVER_PORT: 99999999 was given; allowed: a port from 1 to 65535."),
        ("TEXTGEN_MAX_BEAMS", "lots", "TEXTGEN_MAX_BEAMS: lots was given; allowed: a number above 0."),
    ],
)
def test_the_app_tells_in_a_sentence_why_it_cannot_start(name: str, value: str, sentence: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TEXTGEN_RUNS": str(tmp_path), name: value}
    command = [sys.executable, "app.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence + "\n")


def test_the_app_uses_everything_that_a_space_installs() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {re.split(r"[=<>;\[]", line)[0].strip() for line in lines if line and not line.startswith("#")}
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in [*(ROOT / "textgen").rglob("*.py"), ROOT / "app.py"]
    )
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", sources, flags=re.MULTILINE))
    installed = metadata.packages_distributions()
    used = {canonicalize_name(name) for module in imported for name in installed.get(module, [])}
    assert {name for name in pinned if canonicalize_name(name) not in used} == set()


def test_what_contributors_are_pointed_to_is_there() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    pointed = set(re.findall(r"`((?:textgen|tests|docs)/[\w/.*]+)`", guide))
    assert len(pointed) > 10
    assert [path for path in pointed if not list(ROOT.glob(path))] == []


def test_the_citation_names_papers_that_the_code_names() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "MIT"
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "textgen").rglob("*.py"))
    assert citation["version"] == textgen.__version__
    papers = {reference["url"] for reference in citation["references"] if "url" in reference}
    named = set(re.findall(r"https://arxiv\.org/abs/\d+\.\d+", sources))
    assert len(named) >= 20
    assert papers == named


def test_a_model_ships() -> None:
    assert SHIPPED != []


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
class TestShippedModel:
    def test_is_small_enough_to_be_pushed(self, folder: Path) -> None:
        sizes = [path.stat().st_size for path in folder.iterdir()]
        assert max(sizes) <= FILE_MAX_BYTES
        assert sum(sizes) <= MODEL_MAX_BYTES

    @pytest.mark.slow
    def test_writes_words(self, folder: Path) -> None:
        model = LoadedModel(folder, running=Running(torch.device("cpu"), threads=1), limits=Limits())
        try:
            with model.generate("", GenerationSettings(max_new_tokens=120, seed=1)) as stream:
                (end,) = [event for event in stream if isinstance(event, TextEnd)]
        finally:
            model.close()
        letters = re.findall(r"[^\W\d_]", end.text)
        assert len(letters) > 0.6 * len(end.text)
        assert "\ufffd" not in end.text

    def test_has_a_card_and_the_settings_it_was_trained_with(self, folder: Path) -> None:
        card = (folder / "README.md").read_text(encoding="utf-8")
        for heading in ("Data", "Licence", "Recipe", "On the held-out", "Limits", "Samples"):
            assert f"## {heading}" in card
        settings = parse_settings(RunSettings, read_settings_file(folder / "train.yaml"))
        if settings.base is not None:
            first = folder / f"{Path(settings.base).name}.yaml"
            assert f"--config checkpoints/{folder.name}/{first.name} --out {settings.base}\n" in first.read_text()
            settings = parse_settings(RunSettings, read_settings_file(first))
        shipped, _ = read_model_settings(folder, limits=Limits())
        assert shipped.model_dump(exclude={"vocab_size"}) == settings.model.model_dump(exclude={"vocab_size"})
        # Weights are rounded to fp16 after the figures were taken.
        figures = json.loads((folder / "config.json").read_text(encoding="utf-8"))["figures"]
        told = dict(
            re.findall(r"^\| (nats per character|bits per byte|perplexity|accuracy)[^|]*\| ([\d.]+) \|$", card, re.M)
        )
        for name, field, off in (
            ("nats per character", "nats_per_char", 2e-4),
            ("bits per byte", "bits_per_byte", 2e-4),
            ("perplexity", "perplexity", 2e-2),
            ("accuracy", "accuracy", 1e-3),
        ):
            assert float(told[name]) == pytest.approx(figures[field], abs=off)


@pytest.mark.parametrize("folder", ["ui/assets", "export/page"])
def test_the_pages_bring_their_own_assets(folder: str) -> None:
    for path in (ROOT / "textgen" / folder).iterdir():
        assert not re.search(r"(https?:)?//[\w.-]+\.\w", path.read_text(encoding="utf-8")), path.name
