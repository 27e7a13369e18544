from __future__ import annotations

import json
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest

from textgen.config import ModelSettings
from textgen.jobs.checkpoints import open_checkpoint
from textgen.model import LanguageModel
from textgen.model.checkpoint import Checkpoint, save_checkpoint
from textgen.studio import Studio
from textgen.ui.build import about_model, backend_of, build_page, defaults_for
from textgen.ui.controls import PAGE_DEFAULTS, controls
from textgen.ui.endpoints import Endpoints
from textgen.ui.i18n import build_i18n, languages, say
from textgen.ui.people import NOBODY_ELSE
from textgen.ui.render import markdown_html


def page_config(studio: Studio) -> dict[str, Any]:
    return dict(build_page(studio).get_config_file())


@pytest.fixture(scope="module")
def config(studio: Studio) -> dict[str, Any]:
    """What the browser is told of the page."""
    return page_config(studio)


def component(config: dict[str, Any], elem_id: str) -> dict[str, Any]:
    found = [item["props"] for item in config["components"] if item["props"].get("elem_id") == elem_id]
    assert len(found) == 1, elem_id
    return found[0]


def test_a_model_is_described_by_shape_figures_and_card(studio: Studio) -> None:
    text = about_model(studio, "tiny", "en")
    figures = next(info for info in studio.models() if info.name == "tiny").config["figures"]
    assert "LSTM, 1 × 64 units, embedding 96" in text
    assert f"{figures['nats_per_char']:.3f} nats per character" in text
    assert "Runs on cpu" in text
    assert "library_name" not in text
    assert "<h1>tiny</h1>" in text


def test_a_description_is_in_the_language_of_the_page(studio: Studio) -> None:
    text = about_model(studio, "tiny", "zh")
    assert "每字符" in text
    assert "运行于 cpu" in text


def test_a_model_without_figures_or_card_is_described_too(studio: Studio) -> None:
    text = about_model(studio, "endless", "en")
    assert "LSTM, 1 × 4 units" in text
    assert "nats" not in text


@pytest.mark.parametrize(
    "figures",
    [{"nats_per_char": "1", "accuracy": 0.5}, {"nats_per_char": 1.5, "accuracy": "x"}, {"nats_per_char": 1.5}],
)
def test_figures_of_a_wrong_kind_are_left_out(models: Path, tmp_path: Path, figures: dict[str, Any]) -> None:
    shutil.copytree(models / "tiny", tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "config.json").read_bytes())
    (tmp_path / "odd" / "config.json").write_text(json.dumps({**config, "figures": figures}))
    studio = Studio([tmp_path], device="cpu")
    assert "On held-out text:" not in about_model(studio, "odd", "en")
    studio.close()


def test_a_model_whose_config_leaves_out_what_is_usual_is_described_too(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "endless", tmp_path / "endless")
    config = json.loads((tmp_path / "endless" / "config.json").read_bytes())
    for name in ("cell", "num_layers"):
        del config["model"][name]
    (tmp_path / "endless" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with Studio([tmp_path], device="cpu") as studio:
        assert "LSTM, 1 × 4 units" in about_model(studio, "endless", "en")
        (listed,) = Endpoints(studio, NOBODY_ELSE).models(cast(gr.Request, None))
        assert listed["cell"] == "lstm"


def test_how_many_networks_a_model_is_made_of_is_told(models: Path, tmp_path: Path) -> None:
    _, tokenizer = open_checkpoint(models / "tiny")
    pair = LanguageModel(ModelSettings(vocab_size=tokenizer.vocab_size, embedding_size=4, hidden_size=4, members=2))
    pair.reset_parameters(0)
    save_checkpoint(tmp_path / "pair", Checkpoint(pair, (models / "tiny" / "tokenizer.model").read_bytes()))
    with Studio([tmp_path], device="cpu") as studio:
        assert "2 networks, each LSTM, 1 × 4 units" in about_model(studio, "pair", "en")
        assert "2 个网络，各为 LSTM" in about_model(studio, "pair", "zh")


def test_what_cannot_be_described_is_said(studio: Studio) -> None:
    assert escape(say("no_models", "en")) in about_model(studio, "gone", "en")
    assert escape(say("no_models", "zh")) in about_model(studio, None, "zh")
    spoilt = about_model(studio, "spoilt", "en")
    assert "model.safetensors" in spoilt
    assert 'role="alert"' in spoilt


def test_the_page_offers_the_models_there_are(config: dict[str, Any]) -> None:
    model = component(config, "model")
    assert [name for name, _ in model["choices"]] == ["endless", "spoilt", "tiny"]
    assert model["value"] == "endless"


def test_a_page_without_models_opens(tmp_path: Path) -> None:
    config = page_config(Studio([tmp_path], device="cpu"))
    assert component(config, "model")["choices"] == []


def test_the_page_has_what_the_issue_asks_for(studio: Studio, config: dict[str, Any]) -> None:
    parts = ("document", "generate", "stop", "continue", "undo", "redo", "clear", "status", "results", "tokens")
    for elem_id in (
        *parts,
        "examples",
        "language",
        "presets",
        *(control.elem_id for control in controls(studio.limits)),
    ):
        component(config, elem_id)
    for fold in ("sampling", "repetition", "beams", "several", "words"):
        assert component(config, f"fold-{fold}")["open"] is False
    assert component(config, "stop")["interactive"] is False
    assert component(config, "length")["maximum"] <= studio.limits.max_new_tokens
    assert component(config, "beams")["maximum"] <= studio.limits.max_beams


def test_every_control_has_a_name_and_a_sentence_of_help(studio: Studio, config: dict[str, Any]) -> None:
    for control in controls(studio.limits):
        props = component(config, control.elem_id)
        for part, key in (("label", control.key), ("info", f"{control.key}_info")):
            assert json.loads(str(props[part]).removeprefix("__i18n__"))["key"] == build_i18n()(key).key
            assert all(say(key, language) for language in languages())


def test_a_model_brings_the_settings_that_suit_it(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "tiny", tmp_path / "calm")
    (tmp_path / "calm" / "generation_config.json").write_text(json.dumps({"temperature": 0.3, "max_new_tokens": 50}))
    studio = Studio([tmp_path], device="cpu")
    suited = defaults_for(studio, "calm")
    studio.close()
    assert (suited.temperature, suited.max_new_tokens, suited.top_logprobs) == (0.3, 50, PAGE_DEFAULTS.top_logprobs)


def test_a_model_that_cannot_be_read_brings_none(studio: Studio) -> None:
    for name in ("spoilt", "gone", "", None):
        assert defaults_for(studio, name) == PAGE_DEFAULTS
        assert backend_of(studio, name) == ""
    assert studio.load("tiny").engine.backend_name in backend_of(studio, "tiny")


def test_nothing_of_the_page_is_an_api(config: dict[str, Any]) -> None:
    endpoints = [item["api_name"] for item in config["dependencies"] if item.get("api_visibility") != "private"]
    assert endpoints == ["generate", "score", "models"]


def test_a_card_is_shown_as_text_whatever_it_holds(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "tiny", tmp_path / "loud")
    hostile = (
        "---\na: b\n---\n<IMG SRC=x onerror=alert(1)> ![x](http://example.com/x.png) <style>*{display:none}</style>"
    )
    for card in (tmp_path / "loud").rglob("README.md"):
        card.write_text(hostile, encoding="utf-8")
    studio = Studio([tmp_path], device="cpu")
    html = about_model(studio, "loud", "en")
    studio.close()
    assert "&lt;IMG" in html
    assert "<img" not in html.lower()
    assert 'href="http://example.com/x.png" target="_blank" rel="noopener' in html
    assert not re.search(r"<(?!/?(p|article|a)\b)", html)
    assert "href" not in markdown_html("[x](javascript:alert)")
