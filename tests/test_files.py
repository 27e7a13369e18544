from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from textgen.errors import CannotWrite, NoRoom
from textgen.files import (
    check_free,
    explain_write_errors,
    folder_bytes,
    recover_folder,
    replace_folder,
    runs_folder,
    temporary_folder,
    write_atomically,
)


def filler(content: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "a").write_text(content)
        (folder / "b").write_text(content)

    return fill


def contents(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.iterdir()}


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_replaced_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CannotWrite, match="No space left") as caught:
        write_atomically(path, b"new")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_safetensors_found_full_is_told(tmp_path: Path) -> None:
    def write() -> None:
        with explain_write_errors(tmp_path):
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(CannotWrite, match="No space left"):
        write()


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite):
        write_atomically(tmp_path / "file" / "below", b"")
    with pytest.raises(CannotWrite):
        replace_folder(tmp_path / "file" / "below", filler("x"))


def test_a_temporary_folder_is_gone_afterwards() -> None:
    with temporary_folder() as folder:
        (folder / "file").write_text("a")
    assert not folder.exists()


def test_where_no_temporary_folder_can_be_made_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(CannotWrite, match="gone could not be written: No such file"), temporary_folder():
        pass


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    replace_folder(folder, filler("one"))
    (folder / "stale").write_text("one")
    replace_folder(folder, filler("two"))
    assert contents(folder) == {"two"}
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_while_filling_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    replace_folder(folder, filler("one"))

    def half(new: Path) -> None:
        (new / "a").write_text("two")
        fail()

    with pytest.raises(CannotWrite, match="No space left"):
        replace_folder(folder, half)
    assert contents(folder) == {"one"}
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("rename", [0, 1])
def test_whenever_the_process_dies_one_complete_folder_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: int
) -> None:
    folder = tmp_path / "last"
    replace_folder(folder, filler("one"))
    renames: list[object] = []
    rename_file = os.rename

    def dying(source: Path, target: Path) -> None:
        if len(renames) == rename:
            raise SystemExit
        renames.append(source)
        rename_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dying)
        with pytest.raises(SystemExit):
            replace_folder(folder, filler("two"))
    assert folder.exists() == (rename == 0)
    assert contents(recover_folder(folder)) == {"one"}
    replace_folder(folder, filler("three"))
    assert contents(folder) == {"three"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_reader_who_takes_a_replacement_for_a_crash_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "last"
    replace_folder(folder, filler("one"))
    rename_file = os.rename
    recovered: list[set[str]] = []

    def watched(source: Path, target: Path) -> None:
        rename_file(source, target)
        if source == folder and not recovered:
            recovered.append(set())  # `recover_folder` renames, too
            recovered.append(contents(recover_folder(folder)))

    monkeypatch.setattr(os, "rename", watched)
    replace_folder(folder, filler("two"))
    assert recovered[1] == {"one"}
    assert contents(folder) == {"two"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_replacement_that_is_done_first_is_no_error_to_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "last"
    replace_folder(folder, filler("one"))
    rename_file = os.rename
    rename_file(folder, tmp_path / ".last.old")

    def late(source: Path, target: Path) -> None:
        folder.mkdir()
        filler("two")(folder)
        rename_file(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert contents(recover_folder(folder)) == {"two"}


def test_the_folder_that_one_is_in_needs_no_recovery() -> None:
    assert recover_folder(Path()) == Path()
    assert recover_folder(Path("/")) == Path("/")


def test_nothing_to_recover_is_left_alone(tmp_path: Path) -> None:
    assert not recover_folder(tmp_path / "missing").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_full_is_told_with_what_is_free_and_what_is_needed(tmp_path: Path) -> None:
    check_free(tmp_path / "new", 10, min_free_bytes=1)
    assert (tmp_path / "new").is_dir()
    with pytest.raises(NoRoom) as caught:
        check_free(tmp_path, 10**18, min_free_bytes=5_000_000)
    free, needed = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) MB", str(caught.value)))
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free / 1e6, rel=0.1)
    assert needed == 10**12 + 5


def test_a_folder_that_goes_while_it_is_measured_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kept", "goes"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "file").write_bytes(bytes(10))
    assert folder_bytes(tmp_path) == 20
    scan = os.scandir

    def scan_late(path: Any) -> Any:
        # shutil.rmtree scans what it has opened, by number.
        if isinstance(path, str | Path) and Path(path).name == "goes":
            shutil.rmtree(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_late)
    assert folder_bytes(tmp_path) == 10


def test_runs_are_where_one_says(tmp_path: Path) -> None:
    assert runs_folder({}, tmp_path) == tmp_path / "runs"
    assert runs_folder({"TEXTGEN_RUNS": "/data/runs"}, tmp_path) == Path("/data/runs")
    assert runs_folder({"TEXTGEN_RUNS": "/data/runs"}, tmp_path, Path("/asked")) == Path("/asked")
