from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from textgen.errors import InvalidSetting, NotFound
from textgen.jobs.fetched import FetchedModels
from textgen.jobs.manager import JobManager
from textgen.jobs.people import EVERYBODY, Person
from textgen.limits import Limits
from textgen.studio import Studio

ANNA, BO = Person("anna"), Person("bo")


def fetching(run: Path, commit: str | None = None) -> Callable[[Path], str | None]:
    def fetch(folder: Path) -> str | None:
        shutil.copytree(run / "checkpoints" / "best", folder)
        return commit

    return fetch


@pytest.fixture
def models(tmp_path: Path) -> FetchedModels:
    return FetchedModels(tmp_path / "runs")


@pytest.fixture
def name(models: FetchedModels, trained_run: Path) -> str:
    """A fetched model of Anna's."""
    return models.add("ann/tales", ANNA, fetching(trained_run))


def test_a_fetched_model_is_its_owners(models: FetchedModels, name: str, tmp_path: Path) -> None:
    studio = Studio([tmp_path / "runs"], device="cpu")
    try:
        assert [(info.name, info.title) for info in studio.models(ANNA)] == [(name, "ann/tales")]
        assert [info.name for info in studio.models(EVERYBODY)] == [name]
        assert studio.models(BO) == []
        assert studio.load(name, ANNA).tokenizer.vocab_size > 0
        with pytest.raises(NotFound):
            studio.load(name, BO)
    finally:
        studio.close()
    assert (models.names(ANNA), models.names(BO)) == ([name], [])


def test_it_is_no_run_and_counts_among_what_its_owner_keeps(name: str, tmp_path: Path) -> None:
    jobs = JobManager(tmp_path / "runs", device="cpu", limits=Limits(max_runs_per_person=1))
    assert jobs.runs() == []
    weights = tmp_path / "runs" / name / "checkpoints" / "best" / "model.safetensors"
    assert jobs.person_bytes(ANNA) > weights.stat().st_size
    assert jobs.person_bytes(BO) == 0
    jobs.check_room(BO)
    with pytest.raises(InvalidSetting, match="1 kept already"):
        jobs.check_room(ANNA)


def test_only_its_owner_removes_it(models: FetchedModels, name: str, tmp_path: Path) -> None:
    for person, asked in ((BO, name), (ANNA, "other"), (ANNA, ""), (ANNA, f"../{name}")):
        with pytest.raises(NotFound):
            models.remove(asked, person)
    models.remove(name, ANNA)
    assert models.names(ANNA) == []
    assert left(tmp_path / "runs") == []


def test_what_is_no_fetched_model_is_not_removed(models: FetchedModels, trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "runs" / "a-run")
    assert models.names(EVERYBODY) == []
    with pytest.raises(NotFound):
        models.remove("a-run", EVERYBODY)


def test_a_model_that_two_remove_at_once_is_not_there_for_one_of_them(
    models: FetchedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = models.add("ann/tales", ANNA, lambda folder: folder.mkdir(parents=True))
    check_own = models.check_own

    def late(name: str, person: Person) -> None:
        check_own(name, person)
        monkeypatch.undo()
        models.remove(name, person)

    monkeypatch.setattr(models, "check_own", late)
    with pytest.raises(NotFound):
        models.remove(name, ANNA)


def test_nothing_stays_of_one_that_could_not_be_fetched(models: FetchedModels, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
        raise NotFound("model", "x", "")

    with pytest.raises(NotFound):
        models.add("ann/tales", ANNA, fail)
    assert left(tmp_path / "runs") == []


def test_what_a_dead_server_has_left_goes_after_a_day(models: FetchedModels, tmp_path: Path) -> None:
    for age, name in ((1.0, "old"), (None, "new")):
        folder = tmp_path / "runs" / ".fetched" / name
        folder.mkdir(parents=True)
        if age is not None:
            os.utime(folder, (age, age))
    models.add("ann/tales", ANNA, lambda folder: folder.mkdir(parents=True))
    assert left(tmp_path / "runs" / ".fetched") == ["new"]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*"))


def test_what_is_there_at_a_commit_is_the_answer_where_nothing_new_came(
    models: FetchedModels, trained_run: Path
) -> None:
    name = models.add("ann/tales", ANNA, fetching(trained_run, "c1"))
    assert models.is_there("ann/tales", "c1", ANNA)
    assert not models.is_there("ann/tales", "c1", BO)
    assert not models.is_there("ann/tales", "c2", ANNA)
    assert not models.is_there("bo/tales", "c1", ANNA)
    assert models.add("ann/tales", ANNA, lambda _: "c1") == name
    assert models.names(ANNA) == [name]
    with pytest.raises(NotFound):
        models.add("ann/tales", BO, lambda _: "c1")
