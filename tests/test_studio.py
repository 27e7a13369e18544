from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from textgen import studio as studio_module
from textgen.config import GenerationSettings, ModelSettings
from textgen.errors import BadCheckpoint, EngineClosed, InvalidSetting, NotFound
from textgen.jobs.checkpoints import open_checkpoint
from textgen.jobs.people import Person
from textgen.jobs.run_folder import RunFolder
from textgen.limits import Limits
from textgen.model.checkpoint import Checkpoint, save_checkpoint
from textgen.model.language_model import LanguageModel
from textgen.studio import BeamsUpdate, LoadedModel, Running, Studio, TextDelta, TextEnd, TextEvent
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
    studio = Studio([models], device="cpu", threads=1)
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


def test_a_model_that_may_not_be_read_hinders_no_other(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        if path == models / "tiny" / "config.json":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert [info.name for info in Studio([models], device="cpu").models()] == ["babbler", "bad-weights"]


def test_a_folder_that_may_not_be_searched_holds_no_model(
    models: Path, tmp_path: Path, unsearchable: Callable[[Path], None]
) -> None:
    shutil.copytree(models / "tiny", tmp_path / "tiny")
    (tmp_path / "lost+found").mkdir()
    unsearchable(tmp_path / "lost+found")
    assert [info.name for info in Studio([tmp_path], device="cpu").models()] == ["tiny"]


def test_a_folder_may_be_given_in_any_way(models: Path, trained_run: Path) -> None:
    names = [info.name for info in Studio([models], device="cpu").models()]
    for folders in (models, str(models), [str(models)], (models,)):
        with Studio(folders, device="cpu") as studio:
            assert [info.name for info in studio.models()] == names
    with Studio(str(models / "tiny"), device="cpu", threads=1) as studio, studio.borrow("tiny") as model:
        assert model.write("Mira ", max_new_tokens=4, seed=1)
    with pytest.raises(EngineClosed):
        studio.borrow("tiny")


def test_each_of_two_models_of_one_name_is_found(models: Path, trained_run: Path) -> None:
    studio = Studio([models, trained_run], device="cpu", threads=1)
    folders = {info.name: info.folder for info in studio.models()}
    other = f"{trained_run.parent.name}/tiny"
    assert {name: studio.load(name).folder for name in ("tiny", other)} == {
        name: folders[name] for name in ("tiny", other)
    }
    for wrong in (f"{models.name}/tiny", "tiny/", f"../{other}", "", "/"):
        with pytest.raises(NotFound):
            studio.load(wrong)
    studio.close()


@pytest.fixture
def private(trained_run: Path, models: Path, tmp_path: Path) -> Iterator[Studio]:
    """Everybody's models, and runs of Anna, of Bo, and of Anna again, which she is discarding."""
    runs: dict[str, dict[str, Any]] = {
        "run-1": {"title": "Anna's tales", "owner": "anna"},
        "run-2": {"title": "Bo's tales", "owner": "bo"},
        "run-3": {"title": "Gone", "owner": "anna"},
        "run-4": {"title": "", "owner": ""},
    }
    for name, about in runs.items():
        shutil.copytree(trained_run, tmp_path / name)
        RunFolder(tmp_path / name).write_about(**about)
    RunFolder(tmp_path / "run-3").discarded.touch()
    studio = Studio([models, tmp_path], device="cpu", threads=1)
    yield studio
    studio.close()


ANNA, BO = Person("anna"), Person("bo")


def test_other_peoples_runs_are_not_listed(private: Studio) -> None:
    shipped = {"babbler", "bad-weights", "tiny"}
    assert {info.name for info in private.models(ANNA)} == shipped | {"run-1"}
    assert {info.name for info in private.models(BO)} == shipped | {"run-2"}
    assert {info.name for info in private.models(Person("nobody:1"))} == shipped
    for everything in (private.models(), private.models(Person("x", is_admin=True))):
        assert {info.name for info in everything} == shipped | {"run-1", "run-2", "run-4"}


@pytest.mark.parametrize("moment", ["read_about", "read_model_settings"])
def test_a_run_that_is_discarded_while_it_is_looked_at_is_not_shown_to_others(
    private: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    place: Any = RunFolder if moment == "read_about" else studio_module
    real = getattr(place, moment)

    def discard(looked_at: Any, **options: Any) -> Any:
        found = real(looked_at, **options)
        if tmp_path / "run-1" in (path := getattr(looked_at, "path", looked_at), *path.parents):
            os.replace(tmp_path / "run-1", tmp_path / ".gone-run-1")
        return found

    monkeypatch.setattr(place, moment, discard)
    assert "run-1" not in {info.name for info in private.models(BO)}
    assert (tmp_path / ".gone-run-1").is_dir()


def test_runs_are_called_by_their_titles(private: Studio) -> None:
    titles = {info.name: (info.title, info.owner) for info in private.models()}
    assert titles["run-1"] == ("Anna's tales", "anna")
    assert titles["run-4"] == ("run-4", "")
    assert titles["tiny"] == ("tiny", None)


def test_other_peoples_runs_cannot_be_used(private: Studio) -> None:
    with private.borrow("run-1", ANNA) as model:
        assert model.num_parameters > 0
    settings = GenerationSettings(max_new_tokens=3, seed=1)
    assert [*private.generate("run-1", "Mira ", settings, ANNA)]
    for act in (
        lambda: private.borrow("run-1", BO),
        lambda: private.load("run-1", BO),
        lambda: private.generate("run-1", "Mira ", settings, BO),
        # Nor what is being discarded, whoever asks.
        lambda: private.borrow("run-3", ANNA),
        lambda: private.borrow("run-3"),
    ):
        with pytest.raises(NotFound):
            act()


def test_what_is_not_found_names_ones_own_only(private: Studio) -> None:
    with pytest.raises(NotFound, match="there is: babbler, bad-weights, tiny, Bo's tales"):
        private.borrow("run-1", BO)


def test_what_is_not_found_names_five_models_by_their_titles(models: Path, tmp_path: Path) -> None:
    for number in range(6):
        shutil.copytree(models / "tiny", tmp_path / f"fetched-{number}")
        RunFolder(tmp_path / f"fetched-{number}").write_about(title=f"Tales {number}")
    with pytest.raises(NotFound, match=r"there is: Tales 0, Tales 1, Tales 2, Tales 3, Tales 4\.$"):
        Studio([tmp_path], device="cpu").borrow("gone")


def test_a_model_is_found_by_a_title_that_only_it_has(models: Path, tmp_path: Path) -> None:
    for name, title in (("a", "Sea tales"), ("b", "Twins"), ("c", "Twins")):
        shutil.copytree(models / "tiny", tmp_path / name)
        RunFolder(tmp_path / name).write_about(title=title)
    studio = Studio([tmp_path], device="cpu")
    assert studio.info("Sea tales").name == "a"
    assert studio.info("b").name == "b"
    with pytest.raises(NotFound):
        studio.info("Twins")


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
    model = LoadedModel(models / "tiny", running=Running(torch.device("cpu"), threads=1), limits=limits)
    with pytest.raises(InvalidSetting, match="prompt: 11 characters was given; allowed: at most 10"):
        model.generate("x" * 11, GenerationSettings())
    assert list(model.generate("月" * 10, GenerationSettings(max_new_tokens=1)))
    model.close()


@pytest.mark.parametrize(
    ("prompt", "changes", "field"),
    [
        ("\ud800", {}, "prompt"),
        ("", {"max_new_tokens": 4001}, "max_new_tokens"),
        ("", {"num_beams": 33}, "num_beams"),
    ],
)
def test_what_the_host_does_not_allow_is_told(studio: Studio, prompt: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        run(studio, prompt, **changes)
    assert caught.value.params["field"] == field


@pytest.mark.parametrize("prompt", [None, 5, 1.5, b"abc", [1.5, "a"], ["Once"], {"Once": 1}])
def test_a_prompt_is_a_text_or_token_ids(studio: Studio, prompt: Any) -> None:
    with pytest.raises(InvalidSetting, match=r"prompt: .* was given; allowed: a text or a list of token ids"):
        studio.load("tiny").write(prompt)


def test_token_ids_may_be_numpys(studio: Studio) -> None:
    model = studio.load("tiny")
    ids = model.tokenizer.encode("Mira ")
    expected = model.write("Mira ", max_new_tokens=4, seed=1)
    assert model.write(list(np.array(ids)), max_new_tokens=4, seed=1) == expected


@pytest.mark.parametrize("asked", [{"num_samples": 3}, {"num_beams": 4, "num_return": 2}])
def test_one_text_is_written_and_several_are_streamed(studio: Studio, asked: dict[str, Any]) -> None:
    model = studio.load("tiny")
    with pytest.raises(InvalidSetting, match="1 in write; stream gives several texts"):
        model.write("Mira ", max_new_tokens=2, **asked)
    *_, end = model.stream("Mira ", max_new_tokens=2, **asked)
    assert isinstance(end, TextEnd)
    assert len(end.hypotheses) == asked.get("num_samples", asked.get("num_return"))


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


def test_the_backend_is_chosen_and_may_be_forced(models: Path, tmp_path: Path) -> None:
    names = {}
    for backend in ("auto", "onnx", "torch"):
        studio = Studio([models], device="cpu", backend=backend, threads=1, cache_folder=tmp_path)
        names[backend] = studio.load("tiny").backend.name
        assert run(studio, "The ", temperature=0.0)[1].text
        studio.close()
    assert names["auto"] == names["onnx"] == "ONNX Runtime int8, 1 thread"
    assert names["torch"].startswith("PyTorch fp32")
    assert len(list(tmp_path.iterdir())) == 1  # the graphs, made once
    assert {path.name for path in (models / "tiny").iterdir()} <= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.model", "README.md",
        "copy_index.safetensors",
    }  # fmt: skip


def test_a_model_leaves_memory_for_another_unless_it_is_in_use(models: Path) -> None:
    limits = dataclasses.replace(Limits(), max_models_bytes=1)
    studio = Studio([models], device="cpu", threads=1, limits=limits)
    stream = studio.generate("babbler", "", GenerationSettings(max_new_tokens=4000, seed=1))
    events = iter(stream)
    next(events)
    assert run(studio, "The ", model="tiny")[1].text  # would drop the babbler if it could
    *_, end = events
    assert isinstance(end, TextEnd)
    assert end.reason == "length"
    babbler = studio.load("babbler")  # the stream has ended, tiny came later: now it may go
    assert run(studio, "The ", model="tiny")[1].text
    with pytest.raises(EngineClosed):
        babbler.generate("", GenerationSettings())
    studio.close()


def test_a_cancelled_stream_gives_its_model_free(models: Path) -> None:
    limits = dataclasses.replace(Limits(), max_models_bytes=1)
    studio = Studio([models], device="cpu", threads=1, limits=limits)
    with studio.generate("babbler", "", GenerationSettings(max_new_tokens=4000)):
        babbler = studio.load("babbler")
    assert run(studio, "The ", model="tiny")[1].text
    with pytest.raises(EngineClosed):
        babbler.generate("", GenerationSettings())
    studio.close()


@pytest.mark.parametrize("text", ["Mira found", "小猫", "x\n\n🌙"])
def test_a_text_is_scored_token_by_token(studio: Studio, text: str) -> None:
    with studio.borrow("tiny") as model:
        scored = model.score(text, top_logprobs=2)
        assert "".join(token.text for token in scored.tokens) == scored.text == text
        assert all(token.logprob < 0.0 and token.alternatives for token in scored.tokens)
        with pytest.raises(InvalidSetting):
            model.score("")


def test_the_best_text_of_a_search_has_its_tokens_too(studio: Studio) -> None:
    end = run(studio, "Mira ", num_beams=3, max_new_tokens=12, top_logprobs=2)[1]
    (best,) = end.samples
    assert "".join(token.text for token in best.tokens) == best.text == end.text
    with studio.borrow("tiny") as model:
        whole = model.score("Mira " + end.text).tokens
    assert best.tokens[-1].logprob == pytest.approx(whole[-1].logprob, abs=1e-9)
    assert run(studio, "Mira ", num_beams=3, max_new_tokens=12, adapt=True)[1].samples == ()


def test_banned_texts_are_never_written(studio: Studio) -> None:
    plain = run(studio, "Mira ", temperature=0.0)[1].text
    word = plain.split()[0]
    banned = run(studio, "Mira ", temperature=0.0, banned=(word,))[1].text
    assert word in plain
    assert word not in banned


def test_what_is_copied_is_told_and_can_be_avoided(studio: Studio, small_text: Path) -> None:
    """The model has learned a small text so well that it recites it."""
    tokenizer, training = studio.load("tiny").tokenizer, open_corpus_ids(small_text, studio)
    known = {tuple(training[place : place + 8]) for place in range(len(training) - 7)}

    def copied_places(prompt: str, text: str) -> set[int]:
        ids = [*tokenizer.encode(prompt), *tokenizer.encode(text)]
        starts = [len(tokenizer.decode(ids[:place])) - len(prompt) for place in range(len(ids) + 1)]
        hits = [place for place in range(len(ids) - 7) if tuple(ids[place : place + 8]) in known]
        return {character for hit in hits for character in range(max(0, starts[hit]), starts[hit + 8])}

    for changes in ({}, {"num_samples": 3}, {"num_beams": 3}, {"num_beams": 4, "num_return": 4}):
        settings: dict[str, Any] = {"temperature": 0.3, "max_new_tokens": 60, **changes}
        _, end = run(studio, "Mira found ", **settings)
        found = [item.copied for item in end.hypotheses]
        assert all(found)
        assert [sample.copied for sample in end.samples] == found[: len(end.samples)]
        assert end.copied_share is not None
        assert end.copied_share > 0.05
        _, end = run(studio, "Mira found ", **settings, avoid_copying=True)
        assert len(end.text) > 20
        assert end.copied_share == 0.0
        assert all(item.copied and not item.copied.spans for item in end.hypotheses)
        assert not any(copied_places("Mira found ", item.text) for item in end.hypotheses)


def open_corpus_ids(small_text: Path, studio: Studio) -> list[int]:
    text = small_text.read_text(encoding="utf-8")
    return studio.load("tiny").tokenizer.encode(text[: int(0.9 * len(text))])


def test_a_quotation_is_continued_in_words_of_its_own(studio: Studio, small_text: Path) -> None:
    quotation = small_text.read_text(encoding="utf-8")[:200]
    found = studio.load("tiny").score(quotation).copied
    assert found is not None
    assert found.spans[0][0] == 0
    assert found.share > 0.9  # where the text is cut, its last tokens may be others
    _, plain = run(studio, quotation, temperature=0.0)
    assert plain.hypotheses[0].copied is not None
    assert plain.hypotheses[0].copied.spans[0][0] == 0  # the passage began in the prompt
    word = plain.text.split()[0]
    _, end = run(studio, quotation, temperature=0.0, avoid_copying=True, banned=(word,))
    assert (end.copied_share, word in end.text, end.tokens > 5) == (0.0, False, True)


def test_a_model_without_an_index_says_nothing_of_copies_and_cannot_avoid_them(studio: Studio) -> None:
    _, end = run(studio, "Mira ", model="babbler")
    assert (end.copied_share, end.samples[0].copied) == (None, None)
    with pytest.raises(InvalidSetting, match="avoid_copying: a model without an index was given"):
        run(studio, "Mira ", model="babbler", avoid_copying=True)


def test_an_index_that_is_damaged_or_of_another_model_is_refused(studio: Studio, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "tiny", tmp_path / "tiny")
    index = tmp_path / "tiny" / "copy_index.safetensors"
    index.write_bytes(index.read_bytes()[:-1] + b"?")
    with pytest.raises(BadCheckpoint, match=r"copy_index\.safetensors, checksum"):
        LoadedModel(tmp_path / "tiny", running=Running(torch.device("cpu")), limits=Limits())


def test_a_text_may_go_on_past_its_end(studio: Studio) -> None:
    eager: dict[str, Any] = {"logit_bias": {EOS_ID: 60.0}}
    assert run(studio, "The ", **eager)[1].reason == "eos"
    assert run(studio, "The ", ignore_eos=True, **eager)[1].reason == "length"


def test_adapting_changes_one_request_and_nothing_else(studio: Studio) -> None:
    strange = "zebra quartz " * 20

    def logprobs(**changes: Any) -> list[float]:
        (sample,) = run(studio, strange, temperature=0.0, **changes)[1].samples
        return [token.logprob for token in sample.tokens]

    before = logprobs()
    assert abs(logprobs(adapt=True)[0] - before[0]) > 0.01
    assert logprobs() == before


def test_adapting_needs_the_weights_that_run(studio: Studio, models: Path, tmp_path: Path) -> None:
    """A checkpoint replaced on disk must not lend its weights to a request to the one before."""
    shutil.copytree(models / "tiny", tmp_path / "changing")
    model = LoadedModel(tmp_path / "changing", running=Running(torch.device("cpu"), threads=1), limits=Limits())
    shutil.rmtree(tmp_path / "changing")
    shutil.copytree(models / "babbler", tmp_path / "changing")
    with pytest.raises(EngineClosed):
        list(model.generate("The ", GenerationSettings(adapt=True)))
    model.close()
