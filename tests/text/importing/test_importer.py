"""Imports as the page and the command line do them: in real processes that may be killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.text.importing.files import docx, epub, paragraph, pdf, zipped
from tests.text.samples import CHINESE, ENGLISH, GERMAN, RUSSIAN, TRADITIONAL
from textgen.errors import (
    ArchiveBomb,
    CannotWrite,
    DamagedFile,
    HoldsNoText,
    ImportFailed,
    ImportTooBig,
    ImportTooLarge,
    ImportTooSlow,
    InvalidSetting,
    MissingFile,
    NestedArchive,
    NoSuchColumn,
    NotText,
    PicturesOfText,
    TextgenError,
    TooManyFiles,
    UnreadableText,
    UnsafeMember,
    UnsupportedFile,
)
from textgen.limits import Limits
from textgen.progress import Progress
from textgen.text.importing import ImportedText, ImportSource, import_texts, write_pasted
from textgen.text.readers import open_text

Given = dict[str, bytes | str]
needs_rlimits = pytest.mark.skipif(sys.platform != "linux", reason="bounds of address space are Linux's")


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., list[ImportedText]]:
    """Imports files given by name and content into tmp_path/"out"."""

    def run(given: Given, *, limits: Limits = Limits(), **options: Any) -> list[ImportedText]:
        uploads = tmp_path / "uploads"
        uploads.mkdir(exist_ok=True)
        sources = []
        for number, (name, data) in enumerate(given.items()):
            path = uploads / f"upload-{number}"
            path.write_bytes(data.encode() if isinstance(data, str) else data)
            sources.append(ImportSource(path, name))
        progress = options.pop("progress", lambda _progress: None)
        sources = [replace(source, **options) for source in sources]
        results = import_texts(sources, tmp_path / "out", limits=limits, progress=progress)
        assert [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []
        return results

    return run


Bring = Callable[..., list[ImportedText]]


def text_of(result: ImportedText) -> str:
    assert result.path is not None, result.problem
    return result.path.read_text(encoding="utf-8")


def test_files_of_every_kind_at_once(bring: Bring, tmp_path: Path) -> None:
    inner: Given = {"в.txt": "inner", "table.csv": "id,text\n1,one\n2,two\n"}
    given: Given = {
        "../up.txt": ENGLISH,
        "gb.txt": CHINESE.encode("gb18030"),
        "big5.txt": TRADITIONAL.encode("big5"),
        "a.docx": docx(paragraph("In a document")),
        "a.epub": epub({"a": "<p>In a book</p>"}),
        "a.pdf": pdf([[(72.0, 700.0, "On a page")]]),
        "wrong.txt": docx(paragraph("In a document")),
        "more.zip": zipped(inner),
        "again.txt": ENGLISH,
        "a.md": "# In *Markdown*",
    }
    results = bring(given)
    assert [(result.name, result.kind) for result in results] == [
        ("../up.txt", "txt"),
        ("gb.txt", "txt"),
        ("big5.txt", "txt"),
        ("a.docx", "docx"),
        ("a.epub", "epub"),
        ("a.pdf", "pdf"),
        ("wrong.txt", "docx"),
        ("more.zip/в.txt", "txt"),
        ("more.zip/table.csv", "csv"),
        ("again.txt", "txt"),
        ("a.md", "md"),
    ]
    assert all(result.problem is None for result in results)
    assert [text_of(result) for result in results[:2]] == [ENGLISH, CHINESE]
    assert [text_of(result).strip() for result in results[2:]] == [
        TRADITIONAL.strip(), "In a document", "In a book", "On a page", "In a document", "inner", "one\n\ntwo",
        ENGLISH.strip(), "In Markdown",
    ]  # fmt: skip
    names = [result.path.name for result in results if result.path]
    assert names == [f"{number:04d}.txt" for number in range(1, 12)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert [result.name for result in results if result.duplicate] == ["wrong.txt", "again.txt"]
    assert (results[1].encoding, results[1].guessed, results[1].scripts) == ("gb18030", True, (("Han", 1.0),))
    assert (results[8].documents, results[8].columns, results[8].column) == (2, ("id", "text"), "text")
    assert results[0].first_lines[0].startswith("The miller's daughter")
    for result in results:
        assert ImportedText.from_dict(json.loads(json.dumps(result.as_dict()))) == result
        assert result.path is not None
        assert open_text(result.path, "utf-8").encoding == "utf-8"


HOSTILE: dict[str, tuple[bytes | str, type[TextgenError]]] = {
    "junk.txt": (bytes(range(256)) * 9, NotText),
    "empty.txt": (b"", HoldsNoText),
    "blank.txt": (" \n\n", HoldsNoText),
    "picture.txt": (b"\x89PNG\r\n\x1a\n", UnsupportedFile),
    "cut.docx": (docx(paragraph("x"))[:-30], DamagedFile),
    "cut.epub": (epub({"a": "<p>x"})[:100], DamagedFile),
    "cut.pdf": (pdf([[(72.0, 700.0, "x")]])[:60], DamagedFile),
    "fake.pdf": (b"text", DamagedFile),
    "scan.pdf": (pdf([[]]), PicturesOfText),
    "bomb.docx": (docx(paragraph("a" * 5_000_000)), ArchiveBomb),
    "empty.zip": (zipped({}), HoldsNoText),
    "bad.zip": (b"PK\x03\x04", DamagedFile),
}


def test_bad_files_are_told_and_harm_no_other(bring: Bring, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    members: list[tuple[Any, bytes | str]] = [
        ("a.txt", "fine"),
        ("../b.txt", "x"),
        (link, "/etc/passwd"),
        ("c.zip", zipped({"d": "x"})),
    ]
    members += [("bomb.txt", b"a" * 5_000_000), ("z.txt", "fine too")]
    results = bring({**{name: data for name, (data, _) in HOSTILE.items()}, "mixed.zip": zipped(members), "last": "ok"})
    for result, (name, (_, kind)) in zip(results, HOSTILE.items(), strict=False):
        assert isinstance(result.problem, kind), (name, result.problem)
        assert str(result.problem).startswith(name)
        assert (result.path, result.characters, result.documents) == (None, 0, 0)
    archive = results[len(HOSTILE) :]
    assert [(result.name, type(result.problem)) for result in archive] == [
        ("mixed.zip/a.txt", type(None)),
        ("mixed.zip/../b.txt", UnsafeMember),
        ("mixed.zip/link", UnsafeMember),
        ("mixed.zip/c.zip", NestedArchive),
        ("mixed.zip/bomb.txt", ArchiveBomb),
        ("mixed.zip/z.txt", type(None)),
        ("last", type(None)),
    ]
    assert [text_of(result).strip() for result in archive if result.usable] == ["fine", "fine too", "ok"]
    assert {path.name for path in tmp_path.rglob("*.txt")} == {"0001.txt", "0002.txt", "0003.txt"}
    assert all(ImportedText.from_dict(result.as_dict()).as_dict() == result.as_dict() for result in results)


def test_what_is_asked_for_a_file_holds_for_it(bring: Bring) -> None:
    text = GERMAN.replace("„", '"').replace("“", '"').replace("”", '"')
    (result,) = bring({"a.txt": text.encode("cp850")}, encoding="cp850")
    assert (text_of(result), result.encoding, result.guessed) == (text, "cp850", False)
    (result,) = bring({"a.txt": RUSSIAN.encode("cp1251")}, encoding="utf-8")
    assert isinstance(result.problem, UnreadableText)
    table = {"a.csv": "title,text\nOne,first text\nTwo,second text\n"}
    (result,) = bring(table, column="title")
    assert (text_of(result), result.column) == ("One\n\nTwo\n", "title")
    (result,) = bring(table, column="author")
    assert isinstance(result.problem, NoSuchColumn)
    assert (result.columns, result.column) == (("title", "text"), None)


def test_a_folder_that_has_texts_gets_more(bring: Bring, tmp_path: Path) -> None:
    bring({"a": "one"})
    (result,) = bring({"b": "two"})
    assert result.path == tmp_path / "out" / "0002.txt"
    pasted = write_pasted("three\r\nfour\ud800 \ud83d\ude00\0", tmp_path / "out", name="pasted")
    assert pasted.path == tmp_path / "out" / "0003.txt"
    assert text_of(pasted) == "three\nfour\ufffd 😀\n"
    assert (pasted.name, pasted.kind, pasted.documents, pasted.encoding) == ("pasted", "txt", 1, "utf-8")
    nothing = write_pasted(" \n", tmp_path / "out", name="pasted")
    assert isinstance(nothing.problem, HoldsNoText)
    assert len(list((tmp_path / "out").iterdir())) == 3
    with pytest.raises(InvalidSetting, match="text: 10 bytes was given; allowed: at most 9 bytes"):
        write_pasted("x" * 10, tmp_path / "out", name="pasted", limits=Limits(max_import_member_bytes=9))


def test_what_is_no_files_fault_is_raised(bring: Bring, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="files: 3 was given; allowed: at most 2"):
        bring({"a": "x", "b": "x", "c": "x"}, limits=Limits(max_import_files=2))
    with pytest.raises(InvalidSetting, match="encoding: nonsense"):
        bring({"a": "x"}, encoding="nonsense")
    with pytest.raises(InvalidSetting, match="name"):
        import_texts([ImportSource(tmp_path / "x", "")], tmp_path / "out")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotWrite):
        import_texts([], tmp_path / "file" / "out")
    with pytest.raises(CannotWrite):
        write_pasted("x", tmp_path / "file", name="pasted")
    (result,) = import_texts([ImportSource(tmp_path / "nothing.txt", "n.txt")], tmp_path / "out")
    assert isinstance(result.problem, MissingFile)
    assert str(tmp_path) not in str(result.problem)


def test_limits_hold_for_all_files_together(bring: Bring) -> None:
    archive = zipped({"a": "x" * 50, "b": "x" * 50, "c": "x" * 50})
    results = bring({"a.zip": archive, "d": "yes"}, limits=Limits(max_import_total_bytes=110))
    assert [type(result.problem) for result in results] == [type(None), type(None), ImportTooLarge, type(None)]
    results = bring({"a.zip": archive, "d": "no"}, limits=Limits(max_import_files=2))
    assert [(result.name, type(result.problem)) for result in results[1:]] == [
        ("a.zip/b", type(None)), ("a.zip/c", TooManyFiles), ("d", TooManyFiles),
    ]  # fmt: skip


def test_progress_is_told_in_bytes_and_may_end_the_import(bring: Bring, tmp_path: Path) -> None:
    told: list[Progress] = []
    given: Given = {"a": "x" * 100, "b.zip": zipped({"c": "y" * 1000, "d": "z" * 1000})}
    bring(given, progress=told.append)
    amounts = [progress.done for progress in told]
    assert amounts == sorted(amounts)
    assert told[-1].done == told[-1].total == sum(len(data) for data in given.values())
    assert {(progress.stage, progress.unit) for progress in told} == {("importing", "bytes")}

    def cancel(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(given, progress=cancel)
    assert not any(path.name.startswith(".") for path in (tmp_path / "out").iterdir())


@contextmanager
def meeting_workers(act: Callable[[int], None]) -> Iterator[None]:
    """Calls `act` with the id of every converting process that this process starts, as soon as it is seen."""
    met: set[int] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            for pid in _children() - met:
                met.add(pid)
                act(pid)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _children() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread or a process may end meanwhile
            for pid in (task / "children").read_text().split():
                if b"importing.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(int(pid))
    return found


@cache
def slow_page() -> bytes:
    """A page over which a reader works for many seconds."""
    return pdf([[(x, float(y), "a") for x in range(40, 560, 6) for y in range(40, 800, 14)]] * 200)


@pytest.mark.slow
def test_a_file_that_takes_too_long_is_given_up(bring: Bring) -> None:
    archive = zipped({"1.txt": "one", "2.pdf": slow_page(), "3.txt": "one"})
    results = bring({"a.zip": archive, "b.txt": "two"}, limits=Limits(max_import_file_seconds=2.0))
    assert [(result.name, type(result.problem)) for result in results] == [
        ("a.zip/1.txt", type(None)),
        ("a.zip/2.pdf", ImportTooSlow),
        ("a.zip/3.txt", type(None)),
        ("b.txt", type(None)),
    ]
    assert str(results[1].problem).startswith("a.zip/2.pdf could not be read within 2 seconds")
    assert results[2].duplicate, "the second process knows what the first has seen"


@pytest.mark.slow
def test_an_import_has_an_end(bring: Bring) -> None:
    started = time.monotonic()
    results = bring({"a.txt": "fine", "b.pdf": slow_page(), "c.txt": "late"}, limits=Limits(max_import_seconds=2.0))
    # On a busy machine even the first may come too late.
    assert [type(result.problem) for result in results[1:]] == [ImportTooSlow, ImportTooSlow]
    assert "within 2 seconds" in str(results[2].problem)
    assert time.monotonic() - started < 30


@pytest.mark.slow
@needs_rlimits
def test_a_file_that_takes_too_much_memory_is_given_up(bring: Bring) -> None:
    limits = Limits(max_import_memory_bytes=250_000_000, max_import_field_chars=100_000_000)
    field = 'text\n"' + "x" * 60_000_000 + '"\n'
    results = bring({"a.txt": "fine", "b.csv": field, "c.txt": "fine, too"}, limits=limits)
    assert [type(result.problem) for result in results] == [type(None), ImportTooBig, type(None)]
    assert str(results[1].problem).startswith("b.csv takes more than 250 MB of memory")


@pytest.mark.slow
@needs_rlimits
def test_a_line_of_100_megabytes_is_text(bring: Bring, tmp_path: Path) -> None:
    line = b"all one line, " * 7_200_000
    limits = Limits(max_import_memory_bytes=400_000_000)
    (result,) = bring({"a.txt": line}, limits=limits)
    assert result.problem is None
    assert result.characters == len(line)
    assert result.path is not None
    assert result.path.stat().st_size == len(line) + 1


@needs_rlimits
@pytest.mark.parametrize(("number", "error"), [(signal.SIGSEGV, ImportFailed), (signal.SIGKILL, ImportTooBig)])
def test_a_process_that_dies_takes_one_file_with_it(
    bring: Bring, number: signal.Signals, error: type[TextgenError]
) -> None:
    killed: list[int] = []

    def kill_first(progress: Progress) -> None:
        # The first file is done, the second begun.
        if progress.done >= 4 and not killed:
            killed.extend(_children())
            os.kill(killed[0], number)

    results = bring({"a.txt": "fine", "b.pdf": slow_page()[:-1], "c.txt": "fine, too"}, progress=kill_first)
    assert [(result.name, type(result.problem)) for result in results] == [
        ("a.txt", type(None)), ("b.pdf", error), ("c.txt", type(None)),
    ]  # fmt: skip


@needs_rlimits
def test_no_process_can_start(bring: Bring) -> None:
    results = bring({"a.txt": "x", "b.txt": "x"}, limits=Limits(max_import_memory_bytes=1_000_000))
    assert len(results) == 2
    assert all(isinstance(result.problem, (ImportFailed, ImportTooBig)) for result in results)


@pytest.mark.slow
@needs_rlimits
def test_nothing_is_left_running_and_no_secret_is_handed_on(
    bring: Bring, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "a secret")
    seen: list[bytes] = []

    def look(pid: int) -> None:
        seen.append(Path(f"/proc/{pid}/environ").read_bytes())

    with meeting_workers(look):
        bring({"b.pdf": slow_page()}, limits=Limits(max_import_file_seconds=1.0))
    assert seen
    assert not any(b"a secret" in environment for environment in seen)
    assert _children() == set()


def test_the_worker_needs_nothing_heavy() -> None:
    check = (
        "import sys, textgen.text.importing.worker; "
        "assert not {'torch', 'numpy', 'gradio', 'sentencepiece', 'pdfminer'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(__file__).parents[3])
