"""The façade of training: what is asked for becomes a queued run. Nothing is trained here: the queue starts nobody."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.grammar import make_text
from textgen.cli import main
from textgen.errors import BadCheckpoint, CannotWrite, InvalidSetting, NoRoom, NotFound
from textgen.jobs.checkpoints import open_checkpoint
from textgen.jobs.run_folder import RunFolder, resolve_checkpoint
from textgen.limits import Limits
from textgen.model.checkpoint import load_checkpoint, save_checkpoint
from textgen.workshop import EVERYBODY, Person, RunHistory, RunRequest, RunView, Upload, Workshop

ANNA, BO = Person("anna"), Person("bo")
NOTHING_STARTS = Limits(max_runs_training_per_device=0)

Changes = dict[str, dict[str, Any]]


class Clock:
    """Seconds, moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workshop(tmp_path: Path, clock: Clock) -> Workshop:
    return Workshop(tmp_path / "runs", device="cpu", limits=NOTHING_STARTS, threads=1, clock=clock)


@pytest.fixture
def upload(workshop: Workshop) -> Upload:
    return workshop.uploads.receive([], make_text(characters=20_000), ANNA)


@pytest.fixture
def finished(workshop: Workshop, trained_run: Path) -> str:
    """The id of a finished run of Anna's."""
    return add_run(workshop, trained_run, "20260101-000000-abc", title="Tales, old & new", owner="anna")


def add_run(workshop: Workshop, trained_run: Path, name: str, **about: Any) -> str:
    shutil.copytree(trained_run, workshop.jobs.root / name)
    RunFolder(workshop.jobs.root / name).write_about(created=1.0, **about)
    return name


def view_of(workshop: Workshop, run_id: str) -> RunView:
    return workshop.jobs.view(run_id)


class TestSettings:
    def test_a_preset_suits_the_text(self, workshop: Workshop, upload: Upload) -> None:
        settings = workshop.settings(upload, RunRequest())
        assert settings.files == tuple(map(str, upload.files))
        assert settings.training.minutes == 3.0
        assert settings.base is None
        assert settings.text.vocab_size < 1000
        assert settings.sample_prompts == ("",)
        assert workshop.settings(upload, RunRequest(preset="balanced")).training.minutes == 15.0

    def test_a_base_is_found_from_any_folder(self, workshop: Workshop, upload: Upload) -> None:
        settings = workshop.settings(upload, RunRequest(base=Path("checkpoints") / "shakespeare"))
        assert settings.base == str(Path.cwd() / "checkpoints" / "shakespeare")

    def test_changes_win_over_the_preset(self, workshop: Workshop, upload: Upload) -> None:
        changes: Changes = {
            "model": {"hidden_size": 77},
            "text": {"vocab_size": 400},
            "training": {"learning_rate": 1e-3},
        }
        request = RunRequest(sample_prompts=("Mira ", "月"), changes=changes)
        settings, plain = workshop.settings(upload, request), workshop.settings(upload, RunRequest())
        assert (settings.model.hidden_size, settings.text.vocab_size) == (77, 400)
        assert settings.training.learning_rate == 1e-3
        assert settings.model.embedding_size == plain.model.embedding_size
        assert settings.training.minutes == plain.training.minutes
        assert settings.sample_prompts == ("Mira ", "月")

    @pytest.mark.parametrize("budget", [{"steps": 12}, {"epochs": 2.5}, {"minutes": 7.0}])
    def test_one_budget_replaces_another(self, workshop: Workshop, upload: Upload, budget: dict[str, Any]) -> None:
        training = workshop.settings(upload, RunRequest(changes={"training": budget})).training
        given = {name: getattr(training, name) for name in ("steps", "epochs", "minutes")}
        assert {name: value for name, value in given.items() if value is not None} == budget

    def test_a_base_brings_how_it_learns(self, workshop: Workshop, upload: Upload, trained_run: Path) -> None:
        request = RunRequest(base=trained_run, base_vocabulary="extend")
        settings = workshop.settings(upload, request)
        assert settings.base == str(trained_run)
        assert settings.text.base_vocabulary == "extend"
        assert settings.training.layer_decay < 1.0

    def test_how_a_base_learns_depends_on_the_budget(
        self, workshop: Workshop, upload: Upload, trained_run: Path
    ) -> None:
        def training(epochs: float) -> Any:
            request = RunRequest(base=trained_run, changes={"training": {"epochs": epochs}})
            return workshop.settings(upload, request).training

        # A text that is read often is learned more gently.
        assert training(50.0).learning_rate < training(1.0).learning_rate
        assert training(50.0).weight_dropout > training(1.0).weight_dropout

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            (RunRequest(preset="eternal"), "preset"),
            (RunRequest(changes={"training": {"learning_rate": -1}}), "learning_rate"),
            (RunRequest(changes={"training": {"minutes": "long"}}), "minutes"),
            (RunRequest(changes={"training": {"steps": 5, "minutes": 5}}), "budget"),
            (RunRequest(changes={"model": {"cell": "transformer"}}), "model.cell"),
            (RunRequest(changes={"text": {"speed": 9}}), "text.speed"),
            (RunRequest(sample_prompts=("a",) * 17), "sample_prompts"),
            (RunRequest(base_vocabulary="burn", base=Path("x")), "base_vocabulary"),
        ],
    )
    def test_what_is_wrong_is_named(self, workshop: Workshop, upload: Upload, request_: RunRequest, field: str) -> None:
        with pytest.raises(InvalidSetting, match=field):
            workshop.settings(upload, request_)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"text": {"vocab_size": 263}}, "vocab_size: 263 was given; allowed: at least 264"),
            ({"model": {"hidden_size": 9000, "num_layers": 20}}, "parameters: .*; allowed: at most 500,000,000"),
        ],
    )
    def test_what_only_training_would_find_is_told_before(
        self, workshop: Workshop, upload: Upload, changes: Changes, sentence: str
    ) -> None:
        with pytest.raises(InvalidSetting, match=sentence):
            workshop.settings(upload, RunRequest(changes=changes))

    def test_a_vocabulary_that_is_kept_has_the_size_it_has(
        self, workshop: Workshop, upload: Upload, trained_run: Path
    ) -> None:
        changes: Changes = {"text": {"vocab_size": 100}}
        workshop.settings(upload, RunRequest(base=trained_run, changes=changes))
        for choice in ("extend", "new"):
            with pytest.raises(InvalidSetting, match="vocab_size: 100"):
                workshop.settings(upload, RunRequest(base=trained_run, base_vocabulary=choice, changes=changes))

    def test_a_vocabulary_that_cannot_be_extended_is_told(
        self, workshop: Workshop, upload: Upload, trained_run: Path, tmp_path: Path
    ) -> None:
        checkpoint = load_checkpoint(resolve_checkpoint(trained_run))
        # Field 3 of field 2 of sentencepiece_model.proto: words, a kind that is none of ours.
        words = replace(checkpoint, tokenizer_bytes=b"\x12\x02\x18\x03" + checkpoint.tokenizer_bytes)
        save_checkpoint(tmp_path / "words", words)
        request = RunRequest(base=tmp_path / "words", base_vocabulary="extend")
        with pytest.raises(InvalidSetting, match="base_vocabulary: extend was given; allowed: keep or new"):
            workshop.settings(upload, request)
        workshop.settings(upload, replace(request, base_vocabulary="keep"))

    def test_a_host_bounds_the_size_of_models(self, tmp_path: Path, trained_run: Path) -> None:
        checkpoint = load_checkpoint(resolve_checkpoint(trained_run))
        parameters = checkpoint.model.num_parameters
        limits = replace(NOTHING_STARTS, max_model_parameters=parameters)
        workshop = Workshop(tmp_path / "runs", device="cpu", limits=limits)
        upload = workshop.uploads.receive([], make_text(characters=2_000), ANNA)
        workshop.settings(upload, RunRequest(base=trained_run))
        for request in (RunRequest(), RunRequest(base=trained_run, base_vocabulary="extend")):
            with pytest.raises(InvalidSetting, match=f"parameters: .* at most {parameters:,}"):
                workshop.settings(upload, request)

    def test_an_upload_without_text_is_refused(self, workshop: Workshop, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
        upload = workshop.uploads.receive([(tmp_path / "a.png", "a.png")], "", ANNA)
        with pytest.raises(InvalidSetting, match="at least one file with text"):
            workshop.settings(upload, RunRequest())

    def test_rows_are_documents_and_files_are_held_out_whole(self, workshop: Workshop, tmp_path: Path) -> None:
        rows = "poem\n" + "".join(f"a poem of the river, number {number}\n" for number in range(60))
        given_files = {"table.csv": rows, "a.txt": make_text(characters=400), "b.txt": make_text(characters=500)}
        for name, content in given_files.items():
            (tmp_path / name).write_text(content)

        def text(*names: str) -> Any:
            upload = workshop.uploads.receive([(tmp_path / name, name) for name in names], "", ANNA)
            return workshop.settings(upload, RunRequest()).text

        assert (text("table.csv").split, text("table.csv").heldout_by) == ("blank-line", "document")
        assert (text("a.txt", "b.txt").split, text("a.txt", "b.txt").heldout_by) == ("file", "file")
        assert text("a.txt").heldout_by == "text"


class TestStart:
    def test_the_upload_becomes_the_run(self, workshop: Workshop, upload: Upload) -> None:
        before = upload.files[0].read_bytes()
        request = RunRequest(preset="balanced", sample_prompts=("Mira ",))
        run_id = workshop.start(upload.upload_id, request, ANNA, title=" My tales ")
        view = workshop.jobs.view(run_id, ANNA)
        assert (view.title, view.owner, view.state, view.position) == ("My tales", "anna", "queued", 1)
        (file,) = view.folder.settings().files
        assert Path(file).is_relative_to(view.folder.texts)
        assert Path(file).read_bytes() == before
        assert view.folder.settings().sample_prompts == ("Mira ",)
        about = view.folder.read_about()
        assert about["preset"] == "balanced"
        assert [text["name"] for text in about["texts"]] == ["pasted"]
        assert not upload.folder.exists()
        with pytest.raises(NotFound):
            workshop.start(upload.upload_id, request, ANNA)

    def test_whoever_still_asks_about_the_text_of_a_run_that_began_is_told(
        self, workshop: Workshop, upload: Upload, trained_run: Path
    ) -> None:
        workshop.start(upload.upload_id, RunRequest(), ANNA)
        with pytest.raises(NotFound):
            workshop.settings(upload, RunRequest())
        with pytest.raises(NotFound):
            workshop.fit(upload, resolve_checkpoint(trained_run))

    def test_a_run_without_a_name_is_called_like_its_text(self, workshop: Workshop, tmp_path: Path) -> None:
        (tmp_path / "x").write_text(make_text(characters=500))
        upload = workshop.uploads.receive([(tmp_path / "x", "天方夜谭.txt")], "", ANNA)
        run_id = workshop.start(upload.upload_id, RunRequest(), ANNA)
        assert view_of(workshop, run_id).title == "天方夜谭"

    @pytest.mark.parametrize("minutes", [20_000, 1e9, "1e9", float("inf")])
    def test_too_many_minutes_have_one_answer(self, workshop: Workshop, upload: Upload, minutes: object) -> None:
        request = RunRequest(changes={"training": {"minutes": minutes}})
        with pytest.raises(InvalidSetting, match=r"^minutes: .+ was given; allowed: at most 10000\.$"):
            workshop.start(upload.upload_id, request, ANNA)

    def test_a_wrong_setting_leaves_the_upload(self, workshop: Workshop, upload: Upload) -> None:
        too_long = RunRequest(changes={"training": {"minutes": 20_000}})
        for request in (RunRequest(changes={"training": {"window": 0}}), too_long):
            with pytest.raises(InvalidSetting):
                workshop.start(upload.upload_id, request, ANNA)
        assert workshop.uploads.get(upload.upload_id, ANNA) == upload
        assert upload.files[0].is_file()
        assert workshop.runs(EVERYBODY) == []

    def test_without_room_the_upload_stays(self, tmp_path: Path) -> None:
        roomy = Workshop(tmp_path / "runs", device="cpu", limits=NOTHING_STARTS)
        upload = roomy.uploads.receive([], make_text(characters=500), ANNA)
        limits = replace(NOTHING_STARTS, min_free_disk_bytes=10**18)
        workshop = Workshop(tmp_path / "runs", device="cpu", limits=limits)
        with pytest.raises(NoRoom):
            workshop.start(upload.upload_id, RunRequest(), ANNA)
        assert workshop.uploads.get(upload.upload_id, ANNA).files[0].is_file()

    def test_nobody_trains_on_what_another_brought(self, workshop: Workshop, upload: Upload) -> None:
        with pytest.raises(NotFound):
            workshop.start(upload.upload_id, RunRequest(), BO)
        with pytest.raises(NotFound):
            workshop.estimate(upload.upload_id, RunRequest(), BO)

    def test_a_run_knows_what_it_came_from(self, workshop: Workshop, upload: Upload, trained_run: Path) -> None:
        second = workshop.uploads.receive([], make_text(characters=20_000), ANNA)
        first = workshop.start(upload.upload_id, RunRequest(base=trained_run), ANNA, title="First")
        folder = workshop.jobs.root / first
        assert RunFolder(folder).read_about()["lineage"] == ["tiny"]
        shutil.copytree(trained_run / "checkpoints" / "best", folder / "checkpoints" / "best")
        again = workshop.start(second.upload_id, RunRequest(base=folder / "checkpoints" / "best"), ANNA)
        assert RunFolder(workshop.jobs.root / again).read_about()["lineage"] == ["First", "tiny"]

    def test_what_a_model_came_from_stands_in_its_checkpoint(
        self, workshop: Workshop, upload: Upload, trained_run: Path, tmp_path: Path
    ) -> None:
        checkpoint, _ = open_checkpoint(trained_run)
        checkpoint.lineage["base"] = {"name": "plays", "lineage": {"base": {"name": "verse", "lineage": {}}}}
        save_checkpoint(tmp_path / "tuned", checkpoint)
        run_id = workshop.start(upload.upload_id, RunRequest(base=tmp_path / "tuned"), ANNA)
        assert RunFolder(workshop.jobs.root / run_id).read_about()["lineage"] == ["tuned", "plays", "verse"]

    def test_a_new_run_is_seen_at_once(self, workshop: Workshop, upload: Upload) -> None:
        assert workshop.runs(ANNA) == []
        run_id = workshop.start(upload.upload_id, RunRequest(), ANNA)
        assert [view.run_id for view in workshop.runs(ANNA)] == [run_id]


class TestRuns:
    def test_everyone_sees_their_own(self, workshop: Workshop, finished: str, trained_run: Path) -> None:
        other = add_run(workshop, trained_run, "20260102-000000-def", title="Bo's", owner="bo")
        assert [view.run_id for view in workshop.runs(ANNA)] == [finished]
        assert [view.run_id for view in workshop.runs(BO)] == [other]
        assert {view.run_id for view in workshop.runs(EVERYBODY)} == {finished, other}
        assert workshop.runs(Person("nobody")) == []

    def test_many_pages_share_one_look(
        self, workshop: Workshop, clock: Clock, finished: str, trained_run: Path
    ) -> None:
        assert len(workshop.runs(ANNA)) == 1
        add_run(workshop, trained_run, "20260102-000000-def", title="second", owner="anna")
        assert len(workshop.runs(ANNA)) == 1
        clock.now += 1.0
        assert len(workshop.runs(ANNA)) == 2
        workshop.jobs.rename(finished, "New name", ANNA)
        assert "New name" not in [view.title for view in workshop.runs(ANNA)]
        workshop.forget()
        assert "New name" in [view.title for view in workshop.runs(ANNA)]

    def test_the_mark_changes_with_what_is_shown(self, workshop: Workshop, finished: str) -> None:
        def mark(options: Any = "en") -> str:
            workshop.forget()
            views = workshop.runs(ANNA)
            return workshop.mark(views, views[:1], options)

        folder = view_of(workshop, finished).folder
        changes: list[Callable[[], Any]] = [
            lambda: folder.append_metrics("step", {"step": 1}),
            lambda: folder.append_samples({"step": 1}),
            lambda: folder.write_status("stopped"),
            lambda: folder.write_about(title="Another"),
            lambda: shutil.rmtree(folder.best),
        ]
        seen = [mark()]
        assert mark() == seen[0]
        assert mark("zh") != seen[0]
        for change in changes:
            change()
            seen.append(mark())
            assert seen[-1] == mark()
        assert len(set(seen)) == len(seen)

    def test_a_run_that_writes_all_the_time_is_drawn_once_a_second(
        self, workshop: Workshop, clock: Clock, finished: str
    ) -> None:
        views = workshop.runs(ANNA)
        before = workshop.mark(views, views, "en")
        views[0].folder.append_metrics("step", {"step": 1})
        assert workshop.mark(views, views, "en") == before
        clock.now += 1.0
        assert workshop.mark(views, views, "en") != before

    def test_the_mark_of_runs_that_are_not_shown_in_full(self, workshop: Workshop, finished: str) -> None:
        views = workshop.runs(ANNA)
        before = workshop.mark(views, [], "en")
        view_of(workshop, finished).folder.append_metrics("step", {"step": 1})
        assert workshop.mark(views, [], "en") == before
        assert workshop.mark([], [], "en") != before

    def test_what_many_pages_show_is_made_once(self, workshop: Workshop) -> None:
        made: list[int] = []

        def make(number: int) -> int:
            made.append(number)
            return number

        assert [workshop.remembered("a", lambda: make(1)), workshop.remembered("a", lambda: make(2))] == [1, 1]
        for number in range(100):
            workshop.remembered(number, lambda number=number: make(number))  # type: ignore[misc]
        assert workshop.remembered("a", lambda: make(3)) == 3
        assert workshop.remembered(99, lambda: make(4)) == 99
        # What cannot be made is tried again.
        with pytest.raises(ZeroDivisionError):
            workshop.remembered("b", lambda: 1 // 0)
        assert workshop.remembered("b", lambda: make(5)) == 5


class TestFollowing:
    def test_the_history_of_a_run(self, workshop: Workshop, finished: str) -> None:
        view = view_of(workshop, finished)
        history = workshop.history(view)
        losses = len(history.losses)
        assert losses > 0
        assert history.best is not None
        line = {"step": 151, "loss": 1.0, "epoch": 1.0, "tokens_per_second": 1.0}
        view.folder.append_metrics("step", {**line, "seconds_left": 0.0, "elapsed_seconds": 9.0})
        assert len(workshop.history(view).losses) == losses + 1

    def test_many_runs_can_be_followed(self, workshop: Workshop, finished: str, tmp_path: Path) -> None:
        first = view_of(workshop, finished)
        steps = len(workshop.history(first).losses)
        for number in range(80):
            other = RunView(f"r{number}", "", "", 0.0, "failed", first.status, None, RunFolder(tmp_path / f"{number}"))
            assert workshop.history(other).losses == []
        assert len(workshop.history(first).losses) == steps

    def test_a_verdict_judges_training_by_the_token(self, workshop: Workshop) -> None:
        # Four characters make a token: half a nat a character are two nats a token, and that is divergence.
        losses = [(float(step), 1.0 if step < 10 else 1.5) for step in range(30)]
        history = RunHistory(losses=losses, held_out=[(5.0, 1.2), (20.0, 1.2)], tokens_per_char=0.25)
        assert workshop.verdict(history).kind == "diverged"
        history.tokens_per_char = 1.0
        assert workshop.verdict(history).kind != "diverged"

    def test_verdicts_of_what_is_known(self, workshop: Workshop, finished: str) -> None:
        assert workshop.verdict(RunHistory()).kind == "too_early"
        assert workshop.verdict(workshop.history(view_of(workshop, finished))).kind in ("improving", "flat")
        rising = RunHistory(held_out=[(1.0, 2.0), (2.0, 1.0), (3.0, 1.2), (4.0, 1.3)], tokens_per_char=1.0)
        assert (workshop.verdict(rising).kind, workshop.verdict(rising).since_step) == ("overfitting", 2)

    def test_sample_prompts_change_while_it_trains(self, workshop: Workshop, finished: str) -> None:
        folder = view_of(workshop, finished).folder
        workshop.change_prompts(finished, ["月亮", ""], ANNA)
        assert folder.sample_prompts(folder.settings()) == ("月亮", "")
        with pytest.raises(InvalidSetting):
            workshop.change_prompts(finished, ["x"] * 17, ANNA)
        with pytest.raises(NotFound):
            workshop.change_prompts(finished, ["x"], BO)
        assert folder.sample_prompts(folder.settings()) == ("月亮", "")
        workshop.change_prompts(finished, ["half \ud83d"], ANNA)
        assert folder.sample_prompts(folder.settings()) == ("half ?",)


class TestLonger:
    def test_a_finished_run_is_queued_again(self, workshop: Workshop, finished: str) -> None:
        workshop.longer(finished, 5, ANNA)
        view = view_of(workshop, finished)
        assert (view.state, view.position) == ("queued", 1)
        assert view.status.details["task"] == {"longer": {"minutes": 5.0}}

    @pytest.mark.parametrize(
        "minutes", [None, 0, -1, float("nan"), float("inf"), "soon", 10_001, 10**9, [5], {"minutes": 5}]
    )
    def test_no_sensible_time_changes_nothing(self, workshop: Workshop, finished: str, minutes: object) -> None:
        with pytest.raises(InvalidSetting):
            workshop.longer(finished, minutes, ANNA)
        assert view_of(workshop, finished).state == "finished"

    def test_only_ones_own(self, workshop: Workshop, finished: str) -> None:
        with pytest.raises(NotFound):
            workshop.longer(finished, 5, BO)
        with pytest.raises(NotFound):
            workshop.longer("", 5, ANNA)


class TestUse:
    def test_the_best_checkpoint_is_used_or_else_the_last(self, workshop: Workshop, finished: str) -> None:
        view = view_of(workshop, finished)
        assert workshop.checkpoint(view) == view.folder.best
        shutil.rmtree(view.folder.best)
        assert workshop.checkpoint(view) == view.folder.last
        shutil.rmtree(view.folder.last)
        assert workshop.checkpoint(view) is None

    def test_the_command_names_the_settings_of_the_run(
        self, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        workshop = Workshop(tmp_path / "my runs; $(x)", device="cpu", limits=NOTHING_STARTS)
        run_id = add_run(workshop, trained_run, "run")
        program, *arguments = shlex.split(workshop.command(view_of(workshop, run_id), own_machine=True)[0])
        assert program == "textgen"
        assert arguments[2] == str(view_of(workshop, run_id).folder.config)
        # It gets as far as the only value that does not fit.
        assert main([*arguments, "--window", "0"]) == 2
        assert "training.window: 0" in capsys.readouterr().err

    def test_how_well_the_vocabulary_of_a_base_fits(self, workshop: Workshop, trained_run: Path) -> None:
        known = workshop.fit(workshop.uploads.receive([], make_text(characters=3_000), ANNA), trained_run)
        unknown = workshop.fit(workshop.uploads.receive([], "Жили-были старик со старухой. " * 40, ANNA), trained_run)
        assert known.byte_fallback_share < 0.05
        assert known.unknown_scripts == ()
        assert unknown.byte_fallback_share > 0.5
        assert unknown.unknown_scripts == ("Cyrillic",)
        assert unknown.tokens_per_character > known.tokens_per_character


class TestTitles:
    @pytest.mark.slow
    @hypothesis_settings(max_examples=30)
    @given(name=st.text(st.characters(categories=("Cs", "Cc", "Cf", "L", "So", "Z")), max_size=100))
    @example(name="\ud83d and half of it")
    def test_the_name_of_any_file_becomes_a_title(self, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("titles")
        (folder / "text").write_text("Some words to learn. " * 20)
        workshop = Workshop(folder / "runs", device="cpu", limits=NOTHING_STARTS)
        upload = workshop.uploads.receive([(folder / "text", f"{name}.txt")], "", ANNA)
        kept = view_of(workshop, workshop.start(upload.upload_id, RunRequest(), ANNA)).title
        kept.encode()  # whatever a browser can be told
        assert 1 <= len(kept) <= NOTHING_STARTS.max_run_title_chars

    @pytest.mark.parametrize("title", ["x" * 81, "Ta\u202eles"])
    def test_a_title_is_taken_as_it_is_or_refused(self, workshop: Workshop, upload: Upload, title: str) -> None:
        with pytest.raises(InvalidSetting, match="title: "):
            workshop.start(upload.upload_id, RunRequest(), ANNA, title=title)
        assert workshop.uploads.get(upload.upload_id, ANNA) == upload

    def test_runs_of_one_title_are_told_apart(self, workshop: Workshop, finished: str) -> None:
        titles = []
        for person in (ANNA, ANNA, BO):
            upload = workshop.uploads.receive([], "Some words to learn. " * 20, person)
            run_id = workshop.start(upload.upload_id, RunRequest(), person, title="Tales, old & NEW")
            titles.append(view_of(workshop, run_id).title)
        assert titles == ["Tales, old & NEW (2)", "Tales, old & NEW (3)", "Tales, old & NEW"]
        with pytest.raises(InvalidSetting, match="one that no other model or run has"):
            workshop.jobs.rename(finished, titles[0], ANNA)
        workshop.jobs.rename(finished, "Tales, Old & New", ANNA)


@pytest.mark.slow
class TestEstimate:
    def test_real_steps_are_timed_and_nothing_stays(self, workshop: Workshop, upload: Upload) -> None:
        changes: Changes = {
            "model": {"embedding_size": 8, "hidden_size": 12},
            "text": {"tokenizer": "char"},
        }
        figures = workshop.estimate(upload.upload_id, RunRequest(changes=changes), ANNA)
        assert figures["training"]["seconds"] > 0
        assert figures["training"]["tokens_per_second"] > 0
        assert figures["free_bytes"] > 0
        json.dumps(figures)
        assert workshop.uploads.get(upload.upload_id, ANNA) == upload
        assert not (workshop.jobs.root / "estimate").exists()

    def test_what_is_wrong_is_a_sentence(self, workshop: Workshop) -> None:
        upload = workshop.uploads.receive([], "Some words to learn.", ANNA)
        with pytest.raises(BadCheckpoint, match="gone, folder: there is no such folder"):
            workshop.estimate(upload.upload_id, RunRequest(base=Path("gone")), ANNA)

    def test_a_full_disk_for_temporary_files_is_a_sentence(
        self, workshop: Workshop, upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(CannotWrite, match="gone could not be written"):
            workshop.estimate(upload.upload_id, RunRequest(), ANNA)
