"""Models as people have them: whose they are, what they are called, and how they go."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from tests.grammar import make_text
from tests.hub_server import WRITER, hub_server
from textgen.errors import BadCheckpoint, InvalidSetting, NoRoom, NotFound
from textgen.jobs.model_zip import pack_model
from textgen.jobs.run_folder import RunFolder, resolve_checkpoint
from textgen.limits import Limits
from textgen.model.checkpoint import load_checkpoint, save_checkpoint
from textgen.shelf import Shelf
from textgen.studio import Studio
from textgen.workshop import EVERYBODY, Person, RunRequest, Workshop

ANNA, BO = Person("anna"), Person("bo")
LIMITS = Limits(max_runs_training_per_device=0, min_free_disk_bytes=1)
RUN = "20260101-000000-abc"


class Place:
    """A folder with a model that ships, and one of runs, in which Anna has one."""

    def __init__(self, root: Path, limits: Limits = LIMITS, hub: str | None = None) -> None:
        self.runs = root / "runs"
        self.studio = Studio([root / "shipped", self.runs], device="cpu", limits=limits)
        titles = self.studio.shared_titles
        self.workshop = Workshop(self.runs, device="cpu", limits=limits, hub=hub, shared_titles=titles)
        self.shelf = Shelf(self.studio, self.workshop)

    def titles(self, person: Person) -> list[str]:
        return [model.title for model in self.shelf.models(person)]

    def start_from(self, name: str, person: Person, title: str) -> str:
        """A run that waits, to start from a model."""
        upload = self.workshop.uploads.receive([], make_text(characters=5_000), person)
        request = RunRequest(base=self.shelf.model(name, person).checkpoint)
        return self.workshop.start(upload.upload_id, request, person, title=title)


@pytest.fixture
def root(trained_run: Path, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "shipped" / "small", load_checkpoint(resolve_checkpoint(trained_run)))
    shutil.copytree(trained_run, tmp_path / "runs" / RUN)
    RunFolder(tmp_path / "runs" / RUN).write_about(title="Tales", owner="anna", created=1.0)
    return tmp_path


@pytest.fixture
def place(root: Path) -> Iterator[Place]:
    place = Place(root)
    yield place
    place.studio.close()


@pytest.fixture
def zipped(trained_run: Path, tmp_path: Path) -> Path:
    (tmp_path / "zips").mkdir()
    return pack_model(trained_run, "River", tmp_path / "zips")


def test_people_see_their_own_first_and_what_ships(place: Place, zipped: Path) -> None:
    name = place.workshop.import_zip(zipped, "River.zip", ANNA)
    river, tales, small = place.shelf.models(ANNA)
    assert (river.name, river.title, river.origin, river.source) == (name, "River", "zip", "River.zip")
    assert (tales.name, tales.title, tales.origin, small.origin) == (RUN, "Tales", "run", "ships")
    assert [model.own for model in (river, tales, small)] == [True, True, False]
    assert river.num_parameters == load_checkpoint(river.checkpoint).model.num_parameters
    assert river.nats_per_char == load_checkpoint(river.checkpoint).figures["nats_per_char"]
    assert tales.disk_bytes > 3 * river.disk_bytes > 0  # of the run everything
    assert river.changed == pytest.approx((river.checkpoint / "config.json").stat().st_mtime)
    assert place.titles(BO) == ["small"]
    assert place.titles(EVERYBODY) == ["River", "Tales", "small"]


def test_a_model_that_was_pulled_says_from_where(root: Path, trained_run: Path) -> None:
    checkpoint = load_checkpoint(resolve_checkpoint(trained_run))
    lineage = {"hub": {"repo": "ann/river", "commit": "0" * 40}}
    save_checkpoint(root / "shipped" / "pulled", replace(checkpoint, lineage=lineage, figures={"nats_per_char": "1"}))
    place = Place(root)
    pulled = place.shelf.model("pulled")
    assert (pulled.origin, pulled.source, pulled.nats_per_char) == ("hub", "ann/river", None)
    place.studio.close()


def test_an_imported_model_can_be_written_with_by_its_owner_only(place: Place, zipped: Path) -> None:
    name = place.workshop.import_zip(zipped, "River.zip", ANNA)
    stream = place.studio.generate(name, "Mira ", place.studio.load(name, ANNA).defaults, ANNA)
    stream.cancel()
    assert place.shelf.card(name, ANNA).startswith("# ")
    for act in (place.shelf.card, place.shelf.model, place.shelf.remove):
        with pytest.raises(NotFound):
            act(name, BO)
    with pytest.raises(NotFound):
        place.shelf.rename(name, "Mine", BO)
    with pytest.raises(NotFound):
        place.shelf.archive(name, BO, zipped.parent)
    with pytest.raises(NotFound):
        place.shelf.push(name, "bo/river", BO, token=WRITER, private=True)
    assert place.titles(ANNA) == ["River", "Tales", "small"]


def test_what_is_downloaded_is_imported_again(place: Place, tmp_path: Path) -> None:
    for number, name in enumerate((RUN, "small")):
        (tmp_path / str(number)).mkdir()
        archive = place.shelf.archive(name, ANNA, tmp_path / str(number))
        again = place.workshop.import_zip(archive, archive.name, ANNA)
        assert place.shelf.card(again, ANNA) == place.shelf.card(name, ANNA)


def test_a_zip_holds_a_model_that_loads(place: Place, trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "zip").mkdir()
    path = place.shelf.archive(RUN, ANNA, tmp_path / "zip")
    assert path.name == "Tales.zip"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    (folder,) = (tmp_path / "unpacked").iterdir()
    ours, theirs = load_checkpoint(folder), load_checkpoint(trained_run / "checkpoints" / "best")
    assert ours.model.settings == theirs.model.settings
    assert ours.tokenizer_sha256 == theirs.tokenizer_sha256
    for name, weights in theirs.model.state_dict().items():
        assert ours.model.state_dict()[name].sub(weights).abs().max() < 1e-2
    size, before = ((at / "model.safetensors").stat().st_size for at in (folder, trained_run / "checkpoints/best"))
    assert size < 0.6 * before


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("../../etc/passwd", "etc-passwd.zip"),
        ("月亮 童话", "月亮-童话.zip"),
        ("…", "model.zip"),
        ("x" * 80, "x" * 60 + ".zip"),
    ],
)
def test_any_title_makes_a_file_name(place: Place, tmp_path: Path, title: str, name: str) -> None:
    place.shelf.rename(RUN, title, ANNA)
    path = place.shelf.archive(RUN, ANNA, tmp_path)
    assert (path.name, path.parent) == (name, tmp_path)


def test_of_a_run_without_a_checkpoint_nothing_can_be_had(place: Place, tmp_path: Path) -> None:
    shutil.rmtree(place.runs / RUN / "checkpoints")
    with pytest.raises(NotFound):
        place.shelf.archive(RUN, ANNA, tmp_path)


def test_a_model_is_handed_on_as_export_makes_it(place: Place, tmp_path: Path) -> None:
    with zipfile.ZipFile(place.shelf.archive_onnx(RUN, ANNA, tmp_path)) as archive:
        names = {PurePosixPath(name).name for name in archive.namelist() if name.startswith("Tales-onnx/")}
        assert {"model.onnx", "model_int8.onnx", "tokenizer.json", "example.html", "README.md"} <= names
        assert archive.testzip() is None
    with pytest.raises(NotFound):
        place.shelf.archive_onnx(RUN, BO, tmp_path)


def test_a_title_changes_and_nothing_else(place: Place, zipped: Path) -> None:
    name = place.workshop.import_zip(zipped, "River.zip", ANNA)
    run = place.start_from(name, ANNA, "Tuned")
    place.shelf.rename(name, "  Old river ", ANNA)
    place.shelf.rename(RUN, "Old tales", ANNA)
    assert [(model.name, model.title) for model in place.shelf.models(ANNA)][:2] == [
        (name, "Old river"),
        (RUN, "Old tales"),
    ]
    assert place.workshop.jobs.view(RUN, ANNA).title == "Old tales"
    view = place.workshop.jobs.view(run, ANNA)
    assert Path(view.folder.settings().base or "").is_dir()
    assert view.folder.read_about()["lineage"][0] == "River"
    for title in ("", " ", "x" * 81):
        for model in (name, RUN):
            with pytest.raises(InvalidSetting, match="1 to 80 characters"):
                place.shelf.rename(model, title, ANNA)


def test_titles_are_told_apart_from_all_that_is_seen_beside_them(place: Place, zipped: Path) -> None:
    names = [place.workshop.import_zip(zipped, file, ANNA) for file in ("River.zip", "river.zip", "small.zip")]
    assert [place.shelf.model(name, ANNA).title for name in names] == ["River", "river (2)", "small (2)"]
    bos = place.workshop.import_zip(zipped, "River.zip", BO)
    assert place.shelf.model(bos, BO).title == "River"
    for title in ("small", "Tales", "RIVER"):
        with pytest.raises(InvalidSetting, match="one that no other model or run has"):
            place.shelf.rename(names[1], title, ANNA)
    with pytest.raises(InvalidSetting, match=r"U\+202E was given"):
        place.shelf.rename(names[1], "\u202eselaT", ANNA)
    place.shelf.rename(names[1], "River (2)", ANNA)


def test_what_ships_is_nobodys_to_change(place: Place) -> None:
    for person in (ANNA, EVERYBODY):
        with pytest.raises(InvalidSetting, match="one of your own: trained, fetched or imported"):
            place.shelf.rename("small", "Mine", person)
        with pytest.raises(InvalidSetting, match="one of your own"):
            place.shelf.remove("small", person)
    assert place.shelf.model("small").title == "small"


def test_models_go_and_leave_nothing(place: Place, zipped: Path) -> None:
    name = place.workshop.import_zip(zipped, "River.zip", ANNA)
    place.shelf.remove(name, ANNA)
    place.shelf.remove(RUN, ANNA)
    assert place.titles(ANNA) == ["small"]
    assert [path.name for path in place.runs.glob("[!.]*") if path.is_dir()] == []
    for gone in (name, RUN, "", "..", f"../runs/{RUN}"):
        with pytest.raises(NotFound):
            place.shelf.remove(gone, ANNA)


def test_a_model_stays_while_a_run_needs_it(place: Place, zipped: Path) -> None:
    name = place.workshop.import_zip(zipped, "River.zip", ANNA)
    waiting = [place.start_from(base, ANNA, f"From {base[:3]}") for base in (name, RUN)]
    with pytest.raises(InvalidSetting, match="one that “From imp” is to start from"):
        place.shelf.remove(name, ANNA)
    with pytest.raises(InvalidSetting, match="one that “From 202” is to start from"):
        place.shelf.remove(RUN, ANNA)
    assert place.titles(ANNA) == ["River", "Tales", "small"]
    for run in waiting:
        place.workshop.jobs.discard(run, ANNA)
    place.shelf.remove(name, ANNA)
    place.shelf.remove(RUN, ANNA)


def test_a_model_stays_while_its_run_goes_on(place: Place) -> None:
    place.workshop.longer(RUN, 1, ANNA)
    with pytest.raises(InvalidSetting, match="one that is queued was given; allowed: one whose run has ended"):
        place.shelf.remove(RUN, ANNA)
    place.workshop.jobs.stop(RUN, ANNA)
    place.workshop.forget()
    place.shelf.remove(RUN, ANNA)


def test_what_cannot_be_imported_leaves_nothing(place: Place, zipped: Path) -> None:
    before = sorted(place.runs.rglob("*"))
    zipped.write_bytes(zipped.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"River\.zip is damaged"):
        place.workshop.import_zip(zipped, "River.zip", ANNA)
    assert sorted(path for path in place.runs.rglob("*") if path.name != ".fetched") == before


@pytest.mark.parametrize(
    ("limits", "error", "match"),
    [
        (replace(LIMITS, max_runs_per_person=1), InvalidSetting, "1 kept already"),
        (replace(LIMITS, max_upload_bytes=1_000), InvalidSetting, "at most 0 MB at once"),
        (replace(LIMITS, max_person_bytes=1_000), InvalidSetting, "kept already"),
        (replace(LIMITS, max_hub_bytes=1_000), InvalidSetting, "at most 0.0 MB at once"),
        (replace(LIMITS, max_config_bytes=10), BadCheckpoint, "where at most 10 are allowed"),
        (replace(LIMITS, min_free_disk_bytes=10**18), NoRoom, "must be free"),
    ],
)
def test_quotas_count(root: Path, zipped: Path, limits: Limits, error: type[Exception], match: str) -> None:
    place = Place(root, limits)
    with pytest.raises(error, match=match):
        place.workshop.import_zip(zipped, "River.zip", ANNA)
    place.studio.close()


def test_any_model_one_sees_is_pushed_with_ones_own_token(root: Path) -> None:
    with hub_server() as hub:
        place = Place(root, hub=hub.address)
        address = place.shelf.push("small", "anna/small", ANNA, token=WRITER, private=True)
        assert address == f"{hub.address}/anna/small"
        fetched = place.workshop.fetch("anna/small", ANNA, token=WRITER, revision="main")
        model = place.shelf.model(fetched, ANNA)
        assert (model.origin, model.source, model.own) == ("hub", "anna/small", True)
        place.studio.close()


def test_without_a_workshop_models_are_only_looked_at(root: Path, tmp_path: Path) -> None:
    studio = Studio([root / "shipped"], device="cpu")
    shelf = Shelf(studio)
    assert [(model.title, model.own) for model in shelf.models(ANNA)] == [("small", False)]
    assert shelf.archive("small", ANNA, tmp_path).name == "small.zip"
    with pytest.raises(InvalidSetting, match="one of your own"):
        shelf.remove("small", EVERYBODY)
    studio.close()
