"""Uploads are imported in real processes, as the page does it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.text.samples import CHINESE
from textgen.errors import CannotWrite, InvalidSetting, MissingFile, NoSuchColumn, NotFound
from textgen.jobs.people import EVERYBODY, Person
from textgen.jobs.uploads import Upload, UploadStore
from textgen.limits import Limits
from textgen.progress import Progress

ANNA, BO = Person("anna"), Person("bo")
DAY = 86_400.0


class Clock:
    """Seconds since 1970, moved by hand."""

    ahead = 0.0

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> float:
        return self._path.stat().st_mtime + self.ahead


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> UploadStore:
    return UploadStore(tmp_path / "runs", limits=Limits(), wall_clock=clock)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, bytes], tuple[Path, str]]:
    """A file as the page hands it over: where it lies, and what the person calls it."""

    def make(name: str, content: bytes) -> tuple[Path, str]:
        path = tmp_path / f"given-{len(list(tmp_path.iterdir()))}"
        path.write_bytes(content)
        return path, name

    return make


def contents(upload: Upload) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in upload.files]


def uploads_in(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "runs" / ".uploads").glob("*"))


File = Callable[[str, bytes], tuple[Path, str]]


def test_files_and_pasted_text_become_texts(store: UploadStore, file: File) -> None:
    told: list[Progress] = []
    upload = store.receive(
        [file("tale.txt", b"Once upon a time.\n"), file("../../evil.md", b"# Title\n\nA line.\n")],
        "Pasted words.",
        ANNA,
        told.append,
    )
    assert [text.name for text in upload.texts] == ["tale.txt", "../../evil.md", "pasted"]
    assert "Once upon a time." in contents(upload)[0]
    assert "Pasted words." in contents(upload)[2]
    assert upload.documents == 3
    assert upload.characters == sum(text.characters for text in upload.texts) > 30
    assert told
    # Whatever a file is called, it lies inside the upload.
    assert all(path.resolve().is_relative_to(upload.folder.resolve()) for path in upload.files)
    assert store.get(upload.upload_id, ANNA) == upload


def test_only_pasted_text_is_enough(store: UploadStore) -> None:
    upload = store.receive([], "A poem,\r\nof two lines.", ANNA)
    assert contents(upload)[0].strip() == "A poem,\nof two lines."


def test_a_file_that_cannot_be_read_is_told_beside_the_others(store: UploadStore, file: File) -> None:
    upload = store.receive([file("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), file("a.txt", b"words")], "", ANNA)
    assert [text.usable for text in upload.texts] == [False, True]
    assert upload.texts[0].problem is not None
    assert len(upload.files) == 1


def test_the_given_file_is_not_needed_again(store: UploadStore, file: File) -> None:
    path, name = file("a.txt", CHINESE.encode("gb18030"))
    upload = store.receive([(path, name)], "", ANNA)
    path.unlink()
    again = store.read_again(upload.upload_id, ANNA, "a.txt", encoding="latin-1")
    assert again.upload_id == upload.upload_id
    assert (again.texts[0].encoding or "").replace("_", "-") in ("latin-1", "iso8859-1", "iso-8859-1")
    assert contents(again) != [CHINESE]
    right = store.read_again(upload.upload_id, ANNA, "a.txt", encoding="gb18030")
    assert CHINESE.strip() in contents(right)[0]
    assert store.get(upload.upload_id, ANNA) == right


def test_another_column_of_a_table_is_taken(store: UploadStore, file: File) -> None:
    table = "id,poem,note\n" + "".join(f"{i},a poem about the river {i},note {i}\n" for i in range(9))
    upload = store.receive([file("t.csv", table.encode()), file("b.txt", b"beside")], "and pasted", ANNA)
    assert upload.texts[0].column == "poem"
    again = store.read_again(upload.upload_id, ANNA, "t.csv", column="note")
    assert again.texts[0].column == "note"
    assert "note 3" in contents(again)[0]
    assert "river" not in contents(again)[0]
    assert contents(again)[1:] == contents(upload)[1:]
    missing = store.read_again(upload.upload_id, ANNA, "t.csv", column="title").texts[0]
    assert isinstance(missing.problem, NoSuchColumn)


@pytest.mark.slow
def test_how_a_file_was_to_be_read_goes_on_when_others_come(store: UploadStore, file: File) -> None:
    table = file("t.csv", b"note,poem\n" + b"a note,a poem of some length about the river\n" * 3)
    text = file("a.txt", "Вчера и сегодня. ".encode("windows-1251") * 9)
    first = store.receive([table, text], "", ANNA)
    store.read_again(first.upload_id, ANNA, "t.csv", column="note")
    store.read_again(first.upload_id, ANNA, "a.txt", encoding="windows-1251")
    both = store.receive([text, file("b.txt", b"Another text."), table], "", ANNA, before=first.upload_id)
    assert [item.column for item in both.texts] == [None, None, "note"]
    assert both.texts[0].encoding == "cp1251"
    assert not both.texts[0].guessed
    # Not for another content of that name, nor for somebody else.
    changed = store.receive(
        [file("t.csv", b"note,poem\nx,a poem of some length about the sea\n")], "", ANNA, before=both.upload_id
    )
    assert changed.texts[0].column == "poem"
    assert store.receive([table], "", BO, before=both.upload_id).texts[0].column == "poem"


def test_a_failed_second_reading_leaves_the_first(store: UploadStore, file: File) -> None:
    upload = store.receive([file("a.txt", b"words and words")], "", ANNA)
    with pytest.raises(InvalidSetting, match="encoding"):
        store.read_again(upload.upload_id, ANNA, "a.txt", encoding="no-such-encoding")
    kept = store.get(upload.upload_id, ANNA)
    assert kept == upload
    assert "words and words" in contents(kept)[0]
    assert sorted(path.name for path in upload.folder.iterdir()) == ["raw", "texts", "upload.json"]


def test_uploads_are_their_owners_alone(store: UploadStore) -> None:
    upload = store.receive([], "secret", ANNA)
    for act in (
        lambda: store.get(upload.upload_id, BO),
        lambda: store.read_again(upload.upload_id, BO, "pasted"),
        lambda: store.get("0123456789abcdef", ANNA),
    ):
        with pytest.raises(NotFound):
            act()
    assert store.get(upload.upload_id, EVERYBODY).pasted == "secret"
    # An administrator who reads it again does not take it away.
    store.read_again(upload.upload_id, EVERYBODY, "pasted")
    assert store.get(upload.upload_id, ANNA).pasted == "secret"


def test_a_folder_that_cannot_be_made_is_told(store: UploadStore, tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(CannotWrite):
        store.receive([], "text", ANNA)


def test_an_id_is_never_a_path(store: UploadStore, tmp_path: Path) -> None:
    upload = store.receive([], "text", EVERYBODY)
    name = upload.upload_id
    (tmp_path / "runs" / "upload.json").write_bytes((upload.folder / "upload.json").read_bytes())
    for path in ("", ".", "..", "../.uploads/" + name, f"{name}/", f"./{name}", str(upload.folder), f"{name}\0", "*"):
        with pytest.raises(NotFound):
            store.get(path, EVERYBODY)


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"{", b"[]", b"{}", b"\xff", b'{"owner": "anna"}', b'{"sources": []}'),
        b'{"owner": "anna", "pasted": "", "sources": [{"path": null}], "texts": []}',
        b'{"owner": "anna", "pasted": "", "sources": [], "texts": [{"name": "a"}]}',
    ],
)
def test_a_damaged_upload_is_not_found(store: UploadStore, damage: bytes) -> None:
    upload = store.receive([], "text", ANNA)
    (upload.folder / "upload.json").write_bytes(damage)
    with pytest.raises(NotFound):
        store.get(upload.upload_id, ANNA)


def test_what_nobody_trains_on_goes_after_a_day(store: UploadStore, clock: Clock, tmp_path: Path) -> None:
    old = store.receive([], "old", ANNA)
    fresh = store.receive([], "fresh", ANNA)
    os.utime(old.folder, (clock() - DAY - 60, clock() - DAY - 60))
    store.sweep()
    assert uploads_in(tmp_path) == [fresh.folder]
    clock.ahead = DAY + 3_600
    later = store.receive([], "later", ANNA)
    # By the clock of the test this one came a day ago too; a new upload sweeps first.
    assert uploads_in(tmp_path) == [later.folder]


def test_sweeping_before_anything_came_is_fine(store: UploadStore) -> None:
    store.sweep()


def test_a_removed_upload_is_gone(store: UploadStore, tmp_path: Path) -> None:
    store.remove(store.receive([], "text", ANNA))
    assert uploads_in(tmp_path) == []


def test_an_upload_goes_when_another_takes_its_place(store: UploadStore, tmp_path: Path) -> None:
    upload, other = store.receive([], "text", ANNA), store.receive([], "other text", ANNA)
    store.replaced(upload.upload_id, BO)
    store.replaced("", ANNA)
    assert len(uploads_in(tmp_path)) == 2
    store.replaced(upload.upload_id, ANNA)
    assert uploads_in(tmp_path) == [other.folder]


def test_an_upload_in_use_is_not_replaced(store: UploadStore) -> None:
    upload = store.receive([], "text", ANNA)
    with store.using(upload.upload_id, ANNA) as one, store.using(upload.upload_id, ANNA):
        assert one == upload
        store.replaced(upload.upload_id, ANNA)
    assert contents(store.get(upload.upload_id, ANNA)) == contents(upload)
    store.replaced(upload.upload_id, ANNA)
    with pytest.raises(NotFound), store.using(upload.upload_id, ANNA):
        pass


def test_an_upload_in_use_is_not_swept(store: UploadStore, clock: Clock) -> None:
    upload = store.receive([], "text", ANNA)
    os.utime(upload.folder, (clock() - DAY - 60, clock() - DAY - 60))
    with store.using(upload.upload_id, ANNA):
        store.sweep()
        assert contents(upload) == ["text\n"]
    store.sweep()
    with pytest.raises(NotFound):
        store.get(upload.upload_id, ANNA)


def test_an_upload_that_is_read_again_is_not_replaced_meanwhile(store: UploadStore, file: File) -> None:
    upload = store.receive([file("a.txt", b"caf\xe9 " * 50)], "", ANNA)
    told = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        store.replaced(upload.upload_id, ANNA)

    again = store.read_again(upload.upload_id, ANNA, "a.txt", encoding="latin-1", progress=tell)
    assert told
    assert "café" in contents(again)[0]


def test_nothing_of_a_run_goes_with_the_upload_that_it_came_from(store: UploadStore, tmp_path: Path) -> None:
    upload = store.receive([], "text", ANNA)
    os.replace(upload.folder / "texts", tmp_path / "taken")
    store.remove(upload)
    assert uploads_in(tmp_path) == []
    assert list((tmp_path / "taken").iterdir()) != []


@pytest.mark.parametrize(
    ("names", "title"),
    [(["a tale.txt"], "a tale"), (["picture.png", "b.tar.md"], "b.tar"), (["picture.png"], ""), ([], "pasted")],
)
def test_an_upload_is_called_like_the_first_file_that_could_be_read(
    store: UploadStore, file: File, names: list[str], title: str
) -> None:
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    files = [file(name, png if name.endswith("png") else b"some words") for name in names]
    assert store.receive(files, "" if files else "pasted words", ANNA).title == title


@pytest.mark.parametrize("pasted", ["", "  \n\t "])
def test_nothing_is_refused(store: UploadStore, tmp_path: Path, pasted: str) -> None:
    with pytest.raises(InvalidSetting, match="files: none was given"):
        store.receive([], pasted, ANNA)
    assert uploads_in(tmp_path) == []


def test_too_much_is_refused_before_it_is_copied(tmp_path: Path, file: File) -> None:
    store = UploadStore(tmp_path / "runs", limits=Limits(max_upload_bytes=2_000_000))
    with pytest.raises(InvalidSetting, match="3 MB was given; allowed: at most 2 MB at once"):
        store.receive([file("a.txt", b"a" * 1_500_000), file("b.txt", b"b" * 1_500_000)], "", ANNA)
    with pytest.raises(InvalidSetting, match="at most 2 MB"):
        store.receive([], "x" * 2_000_001, ANNA)
    assert not (tmp_path / "runs" / ".uploads").exists()


@pytest.mark.parametrize(
    ("limits", "names"), [(Limits(max_import_files=1), ("a.txt", "b.txt")), (Limits(), ("a.txt", ""))]
)
def test_a_failure_leaves_nothing(tmp_path: Path, file: File, limits: Limits, names: tuple[str, ...]) -> None:
    store = UploadStore(tmp_path / "runs", limits=limits)
    with pytest.raises(InvalidSetting):
        store.receive([file(name, b"words") for name in names], "", ANNA)
    assert uploads_in(tmp_path) == []


def test_too_much_pasted_text_leaves_nothing(tmp_path: Path) -> None:
    store = UploadStore(tmp_path / "runs", limits=replace(Limits(), max_import_member_bytes=1_000))
    with pytest.raises(InvalidSetting, match="at most 1,000 bytes"):
        store.receive([], "x" * 2_000, ANNA)
    assert uploads_in(tmp_path) == []


def test_a_file_that_is_gone_again_is_a_sentence(store: UploadStore, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"a\.txt cannot be read"):
        store.receive([(tmp_path / "gone", "a.txt")], "", ANNA)
    assert uploads_in(tmp_path) == []


def test_halves_of_characters_in_pasted_text_do_no_harm(store: UploadStore) -> None:
    upload = store.receive([], "before \ud83d after", ANNA)
    assert "before \ufffd after" in contents(upload)[0]
    again = store.read_again(upload.upload_id, ANNA, "pasted")
    assert contents(again) == contents(upload)
    assert store.get(upload.upload_id, ANNA) == again


def test_what_a_person_keeps_in_runs_counts_too(tmp_path: Path) -> None:
    limits = replace(Limits(), max_person_bytes=1_000_000)
    kept = {"anna": 999_990, "bo": 0}
    store = UploadStore(tmp_path / "runs", limits=limits, kept_elsewhere=lambda person: kept[person.key])
    with pytest.raises(InvalidSetting, match=r"files: 1 MB was given; allowed: at most 1 MB in all"):
        store.receive([], "Eleven bytes and some more.", ANNA)
    assert store.receive([], "Eleven bytes and some more.", BO).characters > 0
