"""Whatever a file holds, reading it ends in text or in an exception: never in a crash, a hang or unbounded memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.text.importing.files import converted, docx, epub, paragraph, pdf, zipped
from textgen.errors import ArchiveBomb, DamagedFile, HoldsNoText, NotText, TextgenError, UnreadableText
from textgen.limits import Limits
from textgen.text.importing.archives import Archive, check_member
from textgen.text.importing.formats import FORMATS

ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
SOUND = {
    "docx": docx(paragraph("some text") * 20),
    "epub": epub({"a": "<p>some text</p>" * 20, "b": "<p>more"}),
    "pdf": pdf([[(72.0, 700.0, "some text")]] * 2),
    "zip": zipped({"a.txt": "some text", "b.txt": "more"}),
    "html": b"<html><p>some <b>text</b></p><table><tr><td>a</table><pre>x</pre>",
    "csv": b'id,text\n1,"some text"\n2,more\n',
    "jsonl": b'{"text": "some text"}\n{"text": "more"}\n',
    "srt": b"1\n00:00:01,000 --> 00:00:02,000\nsome text\n",
    "md": b"# some\n\n*text*\n\n```\nmore\n```\n",
    "tsv": b'id\ttext\n1\t"some" text\n2\tmore\n',
}


def attempt(name: str, data: bytes) -> None:
    """Converts as the worker does; `Exception` is what it turns into a `DamagedFile`."""
    problem: Exception | None = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            read(Path(folder), name, data)
        except AssertionError:
            raise
        except Exception as error:
            problem = error
    assert not isinstance(problem, UnicodeEncodeError)
    if isinstance(problem, TextgenError):
        assert "a." in str(problem)


def read(folder: Path, name: str, data: bytes) -> None:
    if name.endswith(".zip"):
        path = folder / "a.zip"
        path.write_bytes(data)
        with Archive(path, name, Limits()) as archive:
            for member in archive.members():
                check_member(member, f"{name}/{member.name}")
                list(archive.chunks(member))
    else:
        found = converted(folder, name, data)
        assert found.text.strip()
        assert found.text.endswith("\n")
        assert found.record.kind in FORMATS


@given(st.sampled_from([kind for kind in FORMATS if kind != "pdf"]), st.binary(max_size=200))
def test_wild_bytes(kind: str, data: bytes) -> None:
    attempt(f"a.{kind}", data)


@given(st.sampled_from(sorted(SOUND)), st.data())
def test_sound_files_with_some_bytes_changed(kind: str, data: st.DataObject) -> None:
    content = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=8))
    attempt(f"a.{kind}", bytes(content))


@given(st.sampled_from(["html", "md", "csv", "tsv", "jsonl", "srt", "txt"]), st.text(max_size=100))
def test_wild_text(kind: str, text: str) -> None:
    attempt(f"a.{kind}", text.encode("utf-8", "replace"))


@given(st.lists(st.text(min_size=1, max_size=30).map(lambda name: name.replace("\0", "x")), max_size=5))
def test_wild_names_in_archives(names: list[str]) -> None:
    encoded = [name.encode("utf-8", "replace").decode() for name in names]
    attempt("a.zip", zipped([(name, "x") for name in dict.fromkeys(encoded)]))


@pytest.mark.parametrize("name", ["a.docx", "a.epub", "a.pdf"])
@pytest.mark.parametrize("data", [b"", b"plain text", b"PK\x03\x04 junk", b"%PDF-1.4 junk", b"\0\1\2\3" * 100])
def test_documents_that_are_none(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        converted(tmp_path, name, data)
    assert not isinstance(caught.value, AssertionError)


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    part = (
        f'{ENTITIES}<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">&b;</w:document>'
    )
    bomb = zipped({"[Content_Types].xml": "<Types/>", "word/document.xml": part})
    with pytest.raises(ValueError, match="declares entities"):
        converted(tmp_path, "a.docx", bomb)
    book = zipped({"META-INF/container.xml": f'{ENTITIES}<rootfile full-path="&b;"/>'})
    with pytest.raises(ValueError, match="declares entities"):
        converted(tmp_path, "a.epub", book)
    page = epub({"a": f"{ENTITIES}<html><body><p>&b; text</p></body></html>"})
    assert len(converted(tmp_path, "a.epub", page).text) < 200


def test_a_document_may_be_a_bomb(tmp_path: Path) -> None:
    with pytest.raises(ArchiveBomb, match=r"^a\.docx would unpack to more than 100 times"):
        converted(tmp_path, "a.docx", docx(paragraph("a" * 10_000_000)))


def test_a_document_without_a_main_part_or_spine(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"^a\.docx is damaged, or no DOCX file"):
        converted(tmp_path, "a.docx", zipped({"[Content_Types].xml": "", "word/other.xml": ""}))
    with pytest.raises(DamagedFile, match=r"^a\.epub is damaged, or no EPUB file"):
        converted(tmp_path, "a.epub", zipped({"META-INF/container.xml": "<container/>"}))


@pytest.mark.parametrize("data", [b"\n \t\n", "\ufeff\u3000\n".encode(), b"   "])
def test_only_white_space_is_no_text(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(HoldsNoText, match=r"^a\.txt holds no text\.$"):
        converted(tmp_path, "a.txt", data)


def test_junk_and_wrong_encodings_are_said(tmp_path: Path) -> None:
    with pytest.raises(NotText, match=r"^a\.txt does not look like text"):
        converted(tmp_path, "a.txt", bytes(range(256)) * 10)
    with pytest.raises(UnreadableText, match=r"^a\.txt: byte 1 is not valid utf-8"):
        converted(tmp_path, "a.txt", b"a\xff", encoding="utf-8")


def test_nested_json_and_html_do_not_recurse(tmp_path: Path) -> None:
    assert converted(tmp_path, "a.jsonl", '{"text": "x"}\n' * 3 + "[" * 10**6 + "\n").text == "x\n\nx\n\nx\n"
    assert converted(tmp_path, "a.md", "> " * 10_000 + "x\n\n" + "*" * 10_000 + "\n\nx").record.usable
