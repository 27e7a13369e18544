from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from textgen.config import GenerationSettings, ModelSettings
from textgen.errors import BadCheckpoint, EngineClosed, InvalidSetting, NotFound
from textgen.jobs.checkpoints import open_checkpoint
from textgen.limits import Limits
from textgen.model.checkpoint import Checkpoint, save_checkpoint
from textgen.model.language_model import LanguageModel
from textgen.studio import BeamsUpdate, LoadedModel, Studio, TextDelta, TextEnd, TextEvent
from textgen.text.tokenizer import EOS_ID


@pytest.fixture(scope="module")
def models(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: one that has learned something, one that babbles bytes, damaged ones, and other things."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint, tokenizer = open_checkpoint(trained_run)
    save_checkpoint(folder / "tiny", checkpoint)
    babbler = LanguageModel(ModelSettings(vocab_size=tokenizer.vocab_size, embedding_size=4, hidden_size=4))
    babbler.reset_parameters(0)
    with torch.no_grad():
        babbler.output_bias[EOS_ID] = -30.0
    save_checkpoint(folder / "babbler", Checkpoint(babbler, checkpoint.tokenizer_bytes))
    for damaged in ("bad-config", "bad-version", "bad-weights", ".hidden"):
        shutil.copytree(folder / "tiny", folder / damaged)
    (folder / "bad-config" / "config.json").write_text("{")
    config = json.loads((folder / "bad-version" / "config.json").read_bytes())
    (folder / "bad-version" / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    (folder / "bad-weights" / "model.safetensors").write_bytes(b"\0" * 64)
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("not a model")
    return folder


@pytest.fixture(scope="module")
def studio(models: Path) -> Iterator[Studio]:
    studio = Studio([models], device="cpu")
    yield studio
    studio.close()


def run(studio: Studio, prompt: str, *, model: str = "tiny", **changes: Any) -> tuple[list[TextEvent], TextEnd]:
    settings = GenerationSettings.model_validate({"max_new_tokens": 40, "seed": 1, **changes})
    *events, end = list(studio.generate(model, prompt, settings))
    assert isinstance(end, TextEnd)
    assert not any(isinstance(event, TextEnd) for event in events)
    return events, end


def deltas(events: list[TextEvent]) -> list[TextDelta]:
    return [event for event in events if isinstance(event, TextDelta)]


def test_models_are_listed_and_damaged_ones_left_out(models: Path, trained_run: Path) -> None:
    studio = Studio([models, trained_run, models / "missing"], device="cpu")
    # What is wrong with weights is found out when they are loaded.
    names = [info.name for info in studio.models()]
    # Two models may have one name; the folder they are in then tells them apart.
    assert names == ["babbler", "bad-weights", "tiny", f"{trained_run.parent.name}/tiny"]
    info = next(info for info in studio.models() if info.name == "tiny")
    assert info.folder == models / "tiny"
    assert info.config["model"]["hidden_size"] == 64
    run_only = Studio([trained_run], device="cpu").models()
    assert [(info.name, info.folder) for info in run_only] == [("tiny", trained_run / "checkpoints" / "best")]
    runs = Studio([trained_run.parent], device="cpu").models()
    assert [(info.name, info.folder) for info in runs] == [("tiny", trained_run / "checkpoints" / "best")]


def test_a_model_is_loaded_once(studio: Studio) -> None:
    assert studio.load("tiny") is studio.load("tiny")


def test_what_cannot_be_loaded_is_told(studio: Studio) -> None:
    with pytest.raises(NotFound, match=r"“nothing” was not found; there is: babbler, bad-weights, tiny"):
        studio.load("nothing")
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        studio.load("bad-weights")
    with pytest.raises(NotFound, match="there is: none"):
        Studio([], device="cpu").load("")


@pytest.mark.parametrize(
    "prompt", ["", "Mira found ", "小猫看着", "🌙👩‍👩‍👧 ", "\u2581\u2581x", "é\u0301\u0000\r\n", " " * 30, "\n"]
)
def test_any_prompt_is_continued_and_the_stream_is_the_text(studio: Studio, prompt: str) -> None:
    events, end = run(studio, prompt)
    assert "".join(delta.text for delta in deltas(events)) == end.text
    assert end.text
    assert end.tokens == 40 or end.reason == "eos"
    assert all(delta.text for delta in deltas(events))
    counts = [delta.tokens for delta in deltas(events)]
    assert counts == sorted(counts)
    assert end.hypotheses[0].text == end.text


def test_the_text_is_of_the_language_that_was_learned(studio: Studio) -> None:
    _, end = run(studio, "Mira ", temperature=0.0)
    words = {"the", "found", "counted", "captain", "miller", "bridge", "hill", "heron", "river", "painted", "said"}
    assert len(words & set(end.text.replace(".", " ").replace(",", " ").split())) >= 2


def test_the_seed_decides(studio: Studio) -> None:
    assert run(studio, "The ", seed=7)[1].text == run(studio, "The ", seed=7)[1].text
    assert run(studio, "The ", seed=7)[1].text != run(studio, "The ", seed=8)[1].text
    _, end = run(studio, "The ", seed=None)
    assert end.seed is not None
    assert run(studio, "The ", seed=end.seed)[1].text == end.text


@hypothesis_settings(max_examples=25)
@given(seed=st.integers(0, 2**40), stop=st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_babbled_bytes_stream_as_the_text_that_they_are(studio: Studio, seed: int, stop: list[str]) -> None:
    clean = tuple(text for text in stop if text.isprintable())
    events, end = run(studio, "", model="babbler", seed=seed, temperature=1.0, stop=clean)
    assert "".join(delta.text for delta in deltas(events)) == end.text
    assert not any(text in end.text for text in clean)


@pytest.mark.parametrize("cut", [1, 3, 7, 12, 25])
def test_text_ends_before_a_stop_string_wherever_tokens_are_cut(studio: Studio, cut: int) -> None:
    _, whole = run(studio, "Old ")
    stop = whole.text[cut : cut + 5]
    events, end = run(studio, "Old ", stop=("never", stop))
    assert end.text == whole.text[: whole.text.index(stop)]
    assert "".join(delta.text for delta in deltas(events)) == end.text
    assert end.reason == "stop"
    assert end.tokens < whole.tokens


def test_a_beginning_of_a_stop_string_at_the_end_is_shown_after_all(studio: Studio) -> None:
    _, whole = run(studio, "Old ")
    events, end = run(studio, "Old ", stop=(whole.text[-3:] + "☃",))
    assert end.text == whole.text
    assert "".join(delta.text for delta in deltas(events)) == whole.text


def test_beams_show_the_running_best_and_then_the_results(studio: Studio) -> None:
    events, end = run(studio, "The captain ", num_beams=4, num_return=3, max_new_tokens=12)
    updates = [event for event in events if isinstance(event, BeamsUpdate)]
    assert updates
    for update in updates:
        scores = [hypothesis.score for hypothesis in update.hypotheses]
        assert scores == sorted(scores, reverse=True)
    assert len(end.hypotheses) == 3
    assert len({hypothesis.text for hypothesis in end.hypotheses}) == 3
    assert end.hypotheses[0].text == end.text
    assert "".join(delta.text for delta in deltas(events)) == end.text
    assert run(studio, "The captain ", num_beams=4, num_return=3, max_new_tokens=12)[1].text == end.text


def test_beams_stop_at_stop_strings(studio: Studio) -> None:
    _, end = run(studio, "The captain ", num_beams=3, num_return=3, stop=("e ",))
    assert all("e " not in hypothesis.text for hypothesis in end.hypotheses)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_cancelled_stream_ends_with_what_there_is(studio: Studio, beams: int) -> None:
    settings = GenerationSettings(max_new_tokens=4000, num_beams=beams, temperature=1.0)
    stream = studio.generate("babbler", "x", settings)
    events: list[TextEvent] = []
    for event in stream:
        events.append(event)
        if len(events) == 3:
            stream.cancel()
    end = events[-1]
    assert isinstance(end, TextEnd)
    assert end.reason == "cancelled"
    assert 0 < end.tokens < 4000
    if beams == 1:
        assert "".join(delta.text for delta in deltas(events)) == end.text


def test_a_prompt_has_a_limit(models: Path) -> None:
    limits = dataclasses.replace(Limits(), max_prompt_chars=10)
    model = LoadedModel(models / "tiny", device=torch.device("cpu"), limits=limits)
    with pytest.raises(InvalidSetting, match="prompt: 11 characters was given; allowed: at most 10"):
        model.generate("x" * 11, GenerationSettings())
    assert list(model.generate("月" * 10, GenerationSettings(max_new_tokens=1)))
    model.close()


@pytest.mark.parametrize(
    ("prompt", "changes", "field"),
    [
        ("\ud800", {}, "text"),
        ("", {"max_new_tokens": 4001}, "max_new_tokens"),
        ("", {"num_beams": 33}, "num_beams"),
    ],
)
def test_what_the_host_does_not_allow_is_told(studio: Studio, prompt: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        run(studio, prompt, **changes)
    assert caught.value.params["field"] == field


def test_closing_ends_what_runs(models: Path) -> None:
    studio = Studio([models], device="cpu")
    stream = studio.generate("babbler", "", GenerationSettings(max_new_tokens=4000))
    model = studio.load("babbler")
    studio.close()
    end = list(stream)[-1]
    assert isinstance(end, TextEnd)
    assert end.reason == "cancelled"
    with pytest.raises(EngineClosed):
        model.generate("", GenerationSettings())


def test_an_unknown_device_is_told(models: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(InvalidSetting, match="this machine has no cuda"):
            Studio([models], device="cuda")
    assert Studio([models], device="cpu").device == torch.device("cpu")
