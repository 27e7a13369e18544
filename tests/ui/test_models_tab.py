"""The Models tab as its handlers answer, and what of it is there at all."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from textgen.config import ModelSettings
from textgen.jobs.model_zip import pack_model
from textgen.jobs.run_folder import RunFolder, resolve_checkpoint
from textgen.limits import Limits
from textgen.model import LanguageModel
from textgen.model.checkpoint import load_checkpoint, save_checkpoint
from textgen.shelf import Shelf
from textgen.studio import Studio
from textgen.ui.build import build_page
from textgen.ui.i18n import build_i18n, languages, say
from textgen.ui.long_work import cancel_all
from textgen.ui.model_download import ModelDownload
from textgen.ui.model_sources import ZipImport
from textgen.ui.models_html import card_html, list_html
from textgen.ui.models_tab import ModelsTab
from textgen.ui.people import People
from textgen.workshop import Workshop

LIMITS = Limits(max_runs_training_per_device=0, min_free_disk_bytes=1)
RUN = "20260101-000000-abc"


class Place:
    """The tab on one folder with a run of Anna's and one with models that ship, where people are told apart."""

    def __init__(self, models: Path, runs: Path) -> None:
        self.people = People(runs)
        self.studio = Studio([models, runs], device="cpu", limits=LIMITS)
        self.workshop = Workshop(runs, device="cpu", limits=LIMITS)
        with gr.Blocks() as self.page:
            i18n, language = build_i18n(), gr.Textbox("en")
            shelf = Shelf(self.studio, self.workshop)
            self.tab = ModelsTab(shelf, self.workshop, self.people, i18n, language)
            self.importing = ZipImport(self.workshop, self.people, i18n, language)
            self.download = ModelDownload(shelf.archive, self.people, i18n, elem_id="test")
        self.anna, self.bo = self.somebody("anna"), self.somebody("bo")

    def somebody(self, name: str) -> Any:
        cookie = self.people.cookie(name, secure=False).partition("=")[2].partition(";")[0]
        return SimpleNamespace(cookies={"textgen_owner": cookie}, session_hash="x")

    def look(self, who: Any, name: str = "", seen: str = "", language: str = "en") -> Look:
        return Look(self.tab.look(who, language, seen, name))

    def bring(self, who: Any, path: Path, language: str = "en") -> tuple[list[str], str]:
        """What was told, one after the other, and the name of the model that came; the field is then empty."""
        updates = list(self.importing.bring(who, language, str(path)))
        # With the button in one update: of two at once the page loses one.
        assert (updates[-1][self.importing.file], updates[-1][self.importing.task.outputs[1]].visible) == (None, False)
        status, brought = self.importing.task.status, self.importing.brought
        told = [update[status] for update in updates if status in update]
        return told, next((update[brought] for update in updates if brought in update), "")


class Look:
    """An answer to a look, by the names of what it changes."""

    def __init__(self, updates: list[Any]) -> None:
        names = ("list", "head", "card", "try_it", "download", "onnx", "push", "change", "shown", "timer", "seen")
        self.updates = dict(zip(names, updates, strict=True))

    def __getattr__(self, name: str) -> Any:
        return self.updates[name]


@pytest.fixture
def place(models: Path, trained_run: Path, tmp_path: Path) -> Iterator[Place]:
    runs = tmp_path / "runs"
    shutil.copytree(trained_run, runs / RUN)
    RunFolder(runs / RUN).write_about(title="Tales <of> the river", owner="anna", created=1.0)
    place = Place(models, runs)
    yield place
    place.studio.close()


@pytest.fixture
def zipped(trained_run: Path, tmp_path: Path) -> Path:
    (tmp_path / "zips").mkdir()
    return pack_model(trained_run, "River", tmp_path / "zips")


def test_ones_own_model_is_shown_first_with_all_that_can_be_done(place: Place) -> None:
    look = place.look(place.anna)
    assert look.shown == RUN
    assert look.list.count("<li>") == 4
    assert f'data-model="{RUN}" aria-pressed="true"' in look.list
    assert look.list.count('aria-pressed="true"') == 1
    for told in ("Tales &lt;of&gt; the river", "Trained here", "LSTM 1 × 64", "83 K parameters", "360 pieces", "nats/"):
        assert told in look.list
    assert "82,632" in look.head
    assert "its run included" in look.head
    assert "<h1>tiny</h1>" in look.card
    assert [look.updates[name].visible for name in ("try_it", "download", "onnx", "push", "change")] == [True] * 5
    assert look.timer.active is False


def test_what_ships_can_be_taken_but_not_changed(place: Place) -> None:
    look = place.look(place.anna, "tiny")
    assert (look.shown, look.push.visible, look.change.visible) == ("tiny", True, False)
    assert "Ships with the studio" in look.head
    assert say("origin_ships", "zh") in place.look(place.anna, "tiny", language="zh").head
    for told in (place.tab.rename(place.anna, "en", "tiny", "Mine"), place.tab.delete(place.anna, "en", "tiny")):
        assert told[0] == ""
        assert "one of your own: trained, fetched or imported" in told[1]
    assert "你自己的模型" in place.tab.rename(place.anna, "zh", "tiny", "Mine")[1]


def test_a_damaged_model_is_told_where_it_is_shown(place: Place, models: Path, tmp_path: Path) -> None:
    assert escape(say("model_card_none", "en")) in place.look(place.anna, "endless").card
    shutil.copytree(models / "tiny", tmp_path / "runs" / "large-card")
    (tmp_path / "runs" / "large-card" / "README.md").write_bytes(b"x" * 1_000_001)
    assert 'role="alert"' in place.look(place.anna, "large-card").card


def test_a_page_is_told_only_what_is_new(place: Place) -> None:
    look = place.look(place.anna)
    assert all(update == gr.skip() for update in place.look(place.anna, RUN, look.seen).updates.values())
    event = gr.EventData(None, {"value": "tiny"})
    told, *updates = place.tab.choose(place.anna, "en", look.seen, event)
    chosen = Look(updates)
    assert told == ""
    assert chosen.list == gr.skip()  # it marks the chosen one itself
    assert chosen.shown == "tiny"
    gone = Look(place.tab.choose(place.anna, "en", chosen.seen, gr.EventData(None, {"value": "gone"}))[1:])
    assert gone.shown == RUN
    assert 'aria-pressed="true"' in gone.list
    assert Look(place.tab.choose(place.anna, "en", gone.seen, gr.EventData(None, "x"))[1:]).shown == gr.skip()


def test_a_list_follows_the_runs_that_train(place: Place) -> None:
    look = place.look(place.anna, "tiny")
    assert place.tab.follow(place.anna, "en", look.seen, "tiny") == (gr.skip(),) * 3
    place.workshop.longer(RUN, 1, place.people.of(place.anna))
    place.workshop.forget()
    _, timer, seen = place.tab.follow(place.anna, "en", look.seen, "tiny")
    assert timer.active is True
    place.workshop.jobs.rename(RUN, "Other tales", place.people.of(place.anna))
    place.workshop.forget()
    listed, _, again = place.tab.follow(place.anna, "en", seen, "tiny")
    assert "Other tales" in listed
    assert 'data-model="tiny" aria-pressed="true"' in listed
    assert place.tab.follow(place.anna, "en", again, "tiny") == (gr.skip(),) * 3
    assert "one that is queued was given" in place.tab.delete(place.anna, "en", RUN)[1]
    place.workshop.jobs.stop(RUN, place.people.of(place.anna))


def test_a_zip_becomes_a_model_of_ones_own(place: Place, zipped: Path) -> None:
    told, name = place.bring(place.anna, zipped)
    assert "“River” is yours" in told[-1]
    assert any("Reading the model" in step for step in told)
    look = Look(place.tab.show(place.anna, "en", "", name))
    assert (look.shown, look.change.visible) == (name, True)
    assert "Imported: River.zip" in look.head
    assert place.tab.title_of(place.anna, name) == "River"
    assert "It is called “Old river” now." in place.tab.rename(place.anna, "en", name, " Old river ")[1]
    assert "Old river" in place.look(place.anna, name).list
    assert "1 to 80 characters" in place.tab.rename(place.anna, "en", name, "")[1]
    assert place.tab.delete(place.anna, "en", "") == (gr.skip(), gr.skip())  # thought better of it
    assert "Old river" in place.look(place.anna, name).list
    assert "“Old river” was deleted." in place.tab.delete(place.anna, "en", name)[0]
    assert "Old river" not in place.look(place.anna).list


def test_what_is_brought_is_marked_also_where_a_look_has_listed_it_before(place: Place, zipped: Path) -> None:
    _, name = place.bring(place.anna, zipped)
    listed = place.look(place.anna, RUN)
    assert f'data-model="{name}" aria-pressed="false"' in listed.list
    brought = place.tab._sources[0]
    (wired,) = [fn for fn in place.page.fns.values() if (brought._id, "change") in fn.targets]
    assert wired.fn is not None
    shown = Look(wired.fn(place.anna, "en", listed.seen, name))
    assert f'data-model="{name}" aria-pressed="true"' in shown.list


def test_what_is_wrong_with_a_zip_is_told(place: Place, zipped: Path, tmp_path: Path) -> None:
    zipped.write_bytes(b"PK" * 40)
    told, name = place.bring(place.anna, zipped)
    assert "River.zip is damaged, or no ZIP file." in told[-1]
    assert 'role="alert"' in told[-1]
    assert name == ""
    assert "River.zip" in place.bring(place.anna, zipped, "zh")[0][-1]
    assert place.bring(place.anna, tmp_path / "gone.zip")[0][-1].count("gone.zip cannot be read") == 1


@pytest.mark.slow
@pytest.mark.parametrize("server_ends", [False, True])
def test_an_import_that_is_cancelled_leaves_nothing(
    place: Place, trained_run: Path, tmp_path: Path, server_ends: bool
) -> None:
    small = load_checkpoint(resolve_checkpoint(trained_run))
    shape = ModelSettings(vocab_size=small.model.settings.vocab_size, embedding_size=256, hidden_size=1024)
    large = replace(small, model=LanguageModel(shape))
    large.model.reset_parameters(0)
    save_checkpoint(tmp_path / "large", large)
    importing, before = place.importing, place.look(place.anna).list
    updates = importing.bring(place.anna, "en", str(pack_model(tmp_path / "large", "Large", tmp_path)))
    assert "Reading the model" in next(updates)[importing.task.status]
    if server_ends:
        cancel_all()
    else:
        importing.task.cancel(place.anna)
    *_, last = updates
    assert "Cancelled." in last[importing.task.status]
    assert last[importing.file] is None
    for worker in [worker for worker in threading.enumerate() if worker.name == "textgen-import-zip"]:
        worker.join(60.0)
    assert place.look(place.anna).list == before
    assert list((tmp_path / "runs" / ".fetched").iterdir()) == []


def test_what_is_anothers_is_neither_seen_nor_touched(place: Place, zipped: Path) -> None:
    _, name = place.bring(place.anna, zipped)
    look = place.look(place.bo)
    for told in (look.list, look.head):
        assert "River" not in told
        assert "Tales" not in told
    for model in (name, RUN):
        assert place.look(place.bo, model).shown == "endless"
        assert place.tab.title_of(place.bo, model) == ""
        # Below the list: with a model that is gone what was told beside it goes too.
        for told, beside in (place.tab.rename(place.bo, "en", model, "Mine"), place.tab.delete(place.bo, "en", model)):
            assert "This model is not there, or not any longer. There is: endless, spoilt, tiny." in told
            assert beside == ""
        assert "not there" in list(place.download.pack(place.bo, "en", model))[-1][1]
    first, (file, told) = place.download.pack(place.anna, "en", name)
    assert say("packing", "en") in first[1]
    assert Path(file.value["path"]).name == "River.zip"
    assert say("downloading", "en") in told


def test_a_list_without_models_says_what_to_do() -> None:
    for language in languages():
        assert say("models_empty", language) in list_html([], "", language, can_add=True)
        assert say("models_none", language) in list_html([], "", language, can_add=False)


def test_a_card_is_text() -> None:
    assert "&lt;img" in card_html("<img src=x onerror=alert(1)>", "en")


def test_a_queue_that_cannot_be_read_is_told_and_all_is_drawn_once_it_can(place: Place) -> None:
    before = place.look(place.anna)
    queue = place.workshop.jobs.root / "queue.sqlite3"
    queue.rename(queue.with_name("aside"))
    queue.mkdir()
    place.workshop.forget()
    told = place.look(place.anna, seen=before.seen)
    assert "could not be written" in told.head
    assert told.seen == ""
    listed, _, seen = place.tab.follow(place.anna, "en", before.seen, before.shown)
    assert "could not be written" in listed
    assert seen == ""
    queue.rmdir()
    place.workshop.forget()
    after = place.look(place.anna, seen=told.seen)
    assert (after.list, after.head, after.seen) == (before.list, before.head, before.seen)
    listed, _, seen = place.tab.follow(place.anna, "en", seen, before.shown)
    assert listed == before.list
    assert place.tab.follow(place.anna, "en", seen, before.shown) == (gr.skip(),) * 3


def test_where_nobody_can_train_what_cannot_be_done_is_absent(studio: Studio) -> None:
    config = build_page(studio).get_config_file()
    ids = {item["props"].get("elem_id") for item in config["components"]}
    assert {"models-list", "model-head", "model-card", "model-try", "model-download"} <= ids
    assert ids.isdisjoint({"import-zip", "fold-zip", "hub-model-models", "push-model", "fold-change", "model-delete"})
    public = {item["api_name"] for item in config["dependencies"] if item.get("api_visibility") != "private"}
    assert public == {"generate", "score", "models"}
    assert "tab-models" in json.dumps(config, default=str)
