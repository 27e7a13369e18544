"""What the form answers, without a browser. Nothing is trained here: the queue starts nobody."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from tests.grammar import make_text
from textgen.limits import Limits
from textgen.studio import Studio
from textgen.training.presets import can_mogrify
from textgen.ui.i18n import EXPERT_FIELDS, build_i18n, say_cell
from textgen.ui.people import NOBODY_ELSE
from textgen.ui.train_form import TrainForm
from textgen.workshop import RunView, Workshop

CHOICE = {"base": "", "vocabulary": "keep", "preset": "quick", "minutes": ""}
NOTHING_TYPED = [""] * len(EXPERT_FIELDS)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "runs", device="cpu", limits=Limits(max_runs_training_per_device=0), threads=1)


class Form:
    """The form as a page uses it: it remembers the updates of hidden boxes, and what is in the visible ones."""

    def __init__(self, studio: Studio, workshop: Workshop) -> None:
        with gr.Blocks():
            self._form = TrainForm(studio, workshop, NOBODY_ELSE, build_i18n(), gr.Textbox("en"))
        self._workshop = workshop
        self.files: list[str] = []
        self.pasted = ""
        self._boxes: dict[Any, Any] = {}
        self.updates: dict[str, Any] = {}

    def _box(self, name: str) -> Any:
        return self._boxes.get(getattr(self._form, name), "")

    @property
    def upload_id(self) -> str:
        return str(self._boxes.get(self._form.text.upload_id, ""))

    @property
    def brought(self) -> list[Any]:
        return [self.upload_id, self._boxes.get(self._form.text.brought[1], ""), self.files, self.pasted]

    def _take(self, updates: Iterator[dict[Any, Any]]) -> None:
        self.updates = {}
        for update in updates:
            self._boxes |= update
            self.updates |= {component.elem_id: value for component, value in update.items() if component.elem_id}

    @property
    def status(self) -> str:
        return str(self._box("_status"))

    def read(self, language: str = "en") -> None:
        self._take(self._form.text.read(None, language, self.upload_id, self.files, self.pasted))  # type: ignore[arg-type]

    def read_again(self, file: str, *, encoding: str = "", column: str = "") -> None:
        asked: list[Any] = [None, "en", *self.brought, file, encoding, column]
        self._take(self._form.text.read_again(*asked))

    def starting(self, *expert: str, title: str = "", language: str = "en") -> Iterator[dict[Any, Any]]:
        choice = ["", "keep", "quick", "", *(expert or NOTHING_TYPED)]
        return self._form.start(
            None,  # type: ignore[arg-type]
            self._box("started"),
            title,
            language,
            *self.brought,
            *choice,
        )

    def start(self, *expert: str, title: str = "", language: str = "en") -> None:
        self._take(self.starting(*expert, title=title, language=language))
        if self.updates.get("train-paste") == "":
            self.files, self.pasted = [], ""

    def estimate(self) -> str:
        *_, last = self._form.estimate(None, "en", *self.brought, "", "keep", "quick", "", *NOTHING_TYPED)  # type: ignore[arg-type]
        return last

    def suit(self, language: str = "en", **choice: str) -> dict[str, Any]:
        """The updates by the name of the field; every one of them may come late."""
        asked = {**CHOICE, **choice}
        answered = self._form.suit(None, language, self.upload_id, *asked.values())  # type: ignore[arg-type]
        return dict(zip([*EXPERT_FIELDS, "vocabulary", "fit"], answered, strict=True))

    def runs(self) -> list[RunView]:
        self._workshop.forget()
        return self._workshop.jobs.runs()


@pytest.fixture
def form(studio: Studio, workshop: Workshop) -> Form:
    return Form(studio, workshop)


def uploads(workshop: Workshop) -> list[str]:
    return sorted(path.name for path in (workshop.jobs.root / ".uploads").iterdir())


def given(update: Any) -> set[str]:
    """What an update changes in the browser."""
    return set(update.constructor_args)


class TestSuit:
    @pytest.mark.slow
    @pytest.mark.parametrize("choice", [{}, {"base": "tiny"}, {"base": "tiny", "vocabulary": "new"}, {"minutes": "9"}])
    def test_no_answer_sets_a_value(self, form: Form, choice: dict[str, str]) -> None:
        form.pasted = make_text(characters=3_000)
        for _ in range(2):
            suited = form.suit(**choice)
            suited.pop("fit")
            for name, update in suited.items():
                assert given(update) <= {"visible", "placeholder", "choices"}, name
            form.read()

    def test_an_empty_field_shows_what_the_preset_says(self, form: Form) -> None:
        form.pasted = make_text(characters=3_000)
        form.read()
        suited = form.suit()
        shown = {name: suited[name].placeholder for name in ("minutes", "learning_rate", "window", "split")}
        assert shown == {"minutes": "3", "learning_rate": "0.007", "window": "40", "split": "file"}
        cell = "mogrifier-lstm" if can_mogrify({}, lambda: "cpu") else "lstm"
        assert suited["cell"].choices[0] == (f"as the preset: {say_cell(cell, 'en')}", "")
        assert suited["cell"].choices[1] == ("LSTM", "lstm")
        assert form.suit("zh")["tokenizer"].choices[0] == ("按预设：unigram", "")
        assert form.suit(preset="balanced")["minutes"].placeholder == "15"

    def test_a_budget_counts_in_what_suits(self, form: Form) -> None:
        form.pasted = make_text(characters=3_000)
        form.read()
        short, long = (form.suit(base="tiny", minutes=minutes) for minutes in ("0.01", "60"))
        assert float(short["learning_rate"].placeholder) > float(long["learning_rate"].placeholder)
        assert "placeholder" not in given(long["minutes"])
        assert "allowed: above 0" in form.suit(minutes="-1")["fit"]

    def test_a_vocabulary_that_is_not_kept_is_not_judged(self, form: Form) -> None:
        form.pasted = "Ёлка и ещё одна ёлка. " * 100
        form.read()
        assert "Cyrillic" in form.suit(base="tiny")["fit"]
        assert form.suit(base="tiny", vocabulary="extend")["fit"] == ""

    def test_a_model_that_knows_the_script_is_suggested(self, form: Form) -> None:
        form.pasted = make_text(characters=3_000)
        form.read()
        assert re.search("“(tiny|endless)” knows this script", form.suit()["fit"])
        assert re.search("“(tiny|endless)”认识这种文字", form.suit("zh")["fit"])
        form.pasted = "Ёлка и ещё одна ёлка. " * 100
        form.read()
        assert form.suit()["fit"] == ""

    def test_a_model_that_cannot_be_read_is_not_suggested(
        self, models: Path, workshop: Workshop, tmp_path: Path
    ) -> None:
        for name in ("broken", "tiny"):
            shutil.copytree(models / "tiny", tmp_path / "models" / name)
        (tmp_path / "models" / "broken" / "tokenizer.model").write_bytes(b"damaged")
        with Studio([tmp_path / "models"], device="cpu") as studio:
            form = Form(studio, workshop)
            form.pasted = make_text(characters=3_000)
            form.read()
            assert "tiny" in form.suit()["fit"]

    def test_what_goes_wrong_is_told(self, form: Form, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
        form.pasted = make_text(characters=3_000)
        form.read()

        def refuse(path: Path) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr(Path, "iterdir", refuse)
        assert 'role="alert"' in form.suit()["fit"]

    def test_what_a_base_fixes_is_hidden(self, form: Form) -> None:
        def hidden(**choice: str) -> set[str]:
            suited = form.suit(**choice)
            return {name for name in EXPERT_FIELDS if suited[name].visible == "hidden"}

        shape = {"cell", "hidden_size", "num_layers", "members", "embedding_size"}
        assert hidden() == set()
        assert hidden(base="tiny") == shape | {"vocab_size", "tokenizer"}
        assert hidden(base="tiny", vocabulary="extend") == shape
        assert form.suit()["vocabulary"].visible is False
        assert form.suit(base="tiny")["vocabulary"].visible is True


class TestStart:
    def test_only_what_was_typed_differs_from_the_preset(self, form: Form) -> None:
        form.pasted = make_text(characters=3_000)
        form.start(*("48" if name == "hidden_size" else " " for name in EXPERT_FIELDS), title="Mine")
        (view,) = form.runs()
        settings = view.folder.settings()
        assert view.title == "Mine"
        assert (settings.model.hidden_size, settings.model.embedding_size) == (48, 192)
        assert settings.training.minutes == 3.0

    @pytest.mark.parametrize(("typed", "meant"), [("0,5", 0.5), ("１２", 12.0), (" 2.5 ", 2.5)])
    def test_figures_are_read_as_people_write_them(self, form: Form, typed: str, meant: float) -> None:
        form.pasted = make_text(characters=3_000)
        form.start(*(typed if name == "minutes" else "" for name in EXPERT_FIELDS))
        assert form.runs()[0].folder.settings().training.minutes == meant

    @pytest.mark.slow
    def test_a_few_characters_are_too_little(self, form: Form) -> None:
        form.pasted = "Hi."
        form.start()
        assert "3 characters found; at least 200 characters needed" in form.status
        assert form.runs() == []

    def test_words_for_a_number_are_told(self, form: Form) -> None:
        form.pasted = make_text(characters=3_000)
        form.start(*("many" if name == "window" else "" for name in EXPERT_FIELDS))
        assert "Window: many was given; allowed: a whole number." in form.status
        assert form.runs() == []
        # What was read for it is not read again.
        upload_id = form.upload_id
        form.start()
        assert upload_id
        assert len(form.runs()) == 1

    def test_another_press_says_that_the_run_has_started(self, form: Form) -> None:
        form.start()
        assert "Drop files or paste text first." in form.status
        form.pasted = make_text(characters=3_000)
        form.start()
        for _ in range(2):
            form.start()
            assert "That run has started." in form.status
            assert "problem" not in form.status
        form.start(language="zh")
        assert "已经开始" in form.status
        assert len(form.runs()) == 1
        form.pasted = make_text(characters=2_000)
        form.start()
        assert len(form.runs()) == 2

    def test_the_text_of_a_run_is_that_in_the_form(self, form: Form, workshop: Workshop) -> None:
        form.pasted = make_text(characters=2_000)
        form.read()
        form.pasted = "Another text altogether. " * 40
        assert "read it first" in form.estimate()
        form.start()
        (view,) = form.runs()
        (file,) = view.folder.settings().files
        assert Path(file).read_text(encoding="utf-8").startswith("Another text")
        assert uploads(workshop) == []

    def test_text_is_read_on_the_way_and_that_shows(self, form: Form) -> None:
        form.pasted = make_text(characters=2_000)
        updates = list(form.starting())
        told = [str(value) for update in updates for value in update.values()]
        assert any("Reading" in text for text in told)
        switched = [
            value.interactive for update in updates for value in update.values() if isinstance(value, gr.Button)
        ]
        assert (switched[0], switched[-1]) == (False, True)
        assert len(form.runs()) == 1

    def test_text_that_was_swept_away_is_read_once_more(self, form: Form, workshop: Workshop) -> None:
        form.pasted = make_text(characters=2_000)
        form.read()
        workshop.uploads.remove(workshop.uploads.get(form.upload_id, NOBODY_ELSE.of(None)))
        form.start()
        assert len(form.runs()) == 1


class TestReading:
    def test_a_reading_takes_the_place_of_the_one_before(self, form: Form, workshop: Workshop) -> None:
        for number in range(3):
            form.pasted = f"words {number} " * 30
            form.read()
            assert uploads(workshop) == [form.upload_id]

    def test_a_failed_reading_leaves_the_one_before(self, form: Form, workshop: Workshop) -> None:
        form.pasted = "words " * 30
        form.read()
        form.pasted = ""
        form.read()
        assert "problem" in form.status
        assert uploads(workshop) == [form.upload_id]
        assert form.updates["train-start"].interactive is True

    def test_a_reading_writes_nothing_into_the_title(self, form: Form, tmp_path: Path) -> None:
        (tmp_path / "river.txt").write_text(make_text(characters=500))
        form.files = [str(tmp_path / "river.txt")]
        form.read()
        assert form.updates["train-title"].placeholder == "river"
        assert given(form.updates["train-title"]) == {"placeholder"}
        form.start()
        assert form.runs()[0].title == "river"

    def test_a_chosen_column_is_the_one_that_is_trained_on(self, form: Form, tmp_path: Path) -> None:
        rows = "a note of some length,a longer poem about the river\n" * 30
        (tmp_path / "b.csv").write_text("note,poem\n" + rows)
        (tmp_path / "a.txt").write_text(make_text(characters=500))
        form.files = [str(tmp_path / name) for name in ("a.txt", "b.csv")]
        form.read()
        form.read_again("b.csv", column="note")
        form.files = form.files[1:]
        form.start()
        (view,) = form.runs()
        (file,) = view.folder.settings().files
        assert "poem" not in Path(file).read_text(encoding="utf-8")

    def test_reading_again_stays_on_its_file(self, form: Form, tmp_path: Path) -> None:
        for name in ("a.txt", "b.csv"):
            (tmp_path / name).write_text("note,poem\n" + "a note,a poem about the river\n" * 9)
        form.files = [str(tmp_path / name) for name in ("a.txt", "b.csv")]
        form.read()
        assert form.updates["again-file"].value == "a.txt"
        form.read_again("b.csv", column="note")
        assert [choice[1] for choice in form.updates["again-file"].choices] == ["a.txt", "b.csv"]
        assert given(form.updates["again-file"]) == given(form.updates["again-column"]) == {"choices"}
        assert "column “note”" in form.updates["import-report"]

    def test_only_what_was_read_is_read_again(self, form: Form) -> None:
        form.read_again("a.txt")
        assert "Drop files or paste text first." in form.status
        form.pasted = "words " * 30
        form.read_again("pasted")
        assert "read it first" in form.status

    @pytest.mark.parametrize(
        ("name", "content", "language", "sentence"),
        [
            ("setup.exe", b"MZ\x90\0\3\0\0\0" + bytes(range(256)) * 40, "en", "does not look like text"),
            ("photo.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200), "en", "files of the kind PNG are not read"),
            ("photo.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200), "zh", "是 PNG 文件，无法读取"),
        ],
    )
    def test_a_file_that_is_no_text_is_told_in_the_language_of_the_page(
        self, form: Form, tmp_path: Path, name: str, content: bytes, language: str, sentence: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        form.files = [str(tmp_path / name)]
        form.read(language)
        assert sentence in form.updates["import-report"]
