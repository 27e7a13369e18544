from __future__ import annotations

from pathlib import Path

import pytest

from tests.text.importing.files import docx, epub, paragraph, pdf, zipped
from textgen.errors import EncryptedFile, NestedArchive, UnsupportedFile
from textgen.text.importing.kinds import find_kind, kind_by_name

SRT = "1\n00:00:01,000 --> 00:00:02,000\nHello\n"
DOCX, EPUB, PDF = docx(paragraph("x")), epub({"a": "<p>x"}), pdf([[(72.0, 700.0, "x")]])


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.txt", b"text", "txt"),
        ("no suffix", b"text", "txt"),
        ("a.log", b"text", "txt"),
        ("folder\\A.MarkDown", b"# text", "md"),
        ("a.htm", b"<p>text", "html"),
        ("a.html", b"no tag < here", "txt"),
        ("a.txt", b"\xef\xbb\xbf \n<!DOCTYPE html><p>text", "html"),
        ("a.txt", '<?xml version="1.0"?><!-- x --><html lang="a">'.encode("utf-16"), "html"),
        ("a.txt", b"<html is what I want to write about", "html"),
        ("a.txt", b"I write about <html> here", "txt"),
        ("a.txt", SRT.encode(), "srt"),
        ("a.csv", SRT.encode(), "csv"),
        ("a.txt", DOCX, "docx"),
        ("a.zip", DOCX, "docx"),
        ("a.docx", EPUB, "epub"),
        ("a.md", PDF, "pdf"),
        ("a.pdf", b"junk before\n" + PDF, "pdf"),
        ("a.txt", b"In a PDF, %PDF-1.4 comes first", "txt"),
        ("a.txt", zipped({"x.txt": "x"}), "zip"),
        ("a.docx", b"not a document", "docx"),
        ("a.docx", DOCX[:200], "docx"),
        ("a.txt", DOCX[:200], "zip"),
        ("a.tab", b"a\tb", "tsv"),
        ("a.ndjson", b"{}", "jsonl"),
    ],
)
def test_content_decides_where_it_is_certain(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert find_kind(path, name) == kind


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n....", "PNG"),
        (b"{\\rtf1 text}", "RTF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1....", "DOC"),
        (zipped({"[Content_Types].xml": "", "xl/workbook.xml": ""}), "XLSX"),
        (zipped({"content.xml": "", "mimetype": "x"}), "OpenDocument"),
        (b"\0" * 257 + b"ustar", "tar"),
    ],
)
def test_what_is_not_read_is_called_by_its_name(tmp_path: Path, data: bytes, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(
        UnsupportedFile, match=rf"^a\.txt: files of the kind {kind} are not read; allowed: txt, md, html"
    ):
        find_kind(path, "a.txt")


def test_locked_office_files_and_archives_in_archives(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"))
    with pytest.raises(EncryptedFile):
        find_kind(path, "a.docx")
    path.write_bytes(zipped({"a.txt": ""}))
    with pytest.raises(NestedArchive, match=r"a\.zip/b\.txt is an archive within an archive"):
        find_kind(path, "a.zip/b.txt", inside_archive=True)


def test_names_of_any_form_have_a_kind() -> None:
    assert [kind_by_name(name) for name in ("", ".", "a.", ".txt", "a.tar.gz", "ä/ö.PDF")] == [
        "txt", "txt", "txt", "txt", "txt", "pdf",
    ]  # fmt: skip
