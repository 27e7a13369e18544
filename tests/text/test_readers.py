from __future__ import annotations

import codecs
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.text.samples import (
    CHINESE,
    ENGLISH,
    FRENCH,
    GERMAN,
    JAPANESE,
    KOREAN,
    POLISH,
    RUSSIAN,
    TRADITIONAL,
)
from textgen.errors import InvalidSetting, MissingFile, NotText, UnreadableText
from textgen.text.encodings import READ_BYTES, decoded
from textgen.text.readers import ReportBuilder, SeenDocuments, Segment, TextFile, open_text, report_text

GUESSED = [
    (ENGLISH, "cp1252"),
    (GERMAN, "cp1252"),
    (GERMAN.replace("„", '"').replace("“", '"'), "latin-1"),
    (FRENCH, "cp1252"),
    (POLISH, "cp1250"),
    (RUSSIAN.replace("«", '"').replace("»", '"').replace("—", "-"), "koi8-r"),
    (RUSSIAN, "cp1251"),
    (CHINESE, "gb18030"),
    (CHINESE, "gb2312"),
    (TRADITIONAL, "big5"),
    (JAPANESE, "shift_jis"),
    (JAPANESE, "euc_jp"),
    (JAPANESE, "iso2022_jp"),
    (KOREAN, "euc_kr"),
    (ENGLISH, "utf-16-le"),
    (ENGLISH, "utf-16-be"),
    (ENGLISH, "utf-32-le"),
    (CHINESE, "utf-16-le"),
    (CHINESE, "utf-16-be"),
    (JAPANESE, "utf-16-le"),
    (RUSSIAN, "utf-16-be"),
]
MARKED = [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
]


def write(folder: Path, data: bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read(file: TextFile) -> str:
    return "".join(file.blocks())


@pytest.mark.parametrize(("text", "encoding"), GUESSED)
def test_encoding_is_guessed(tmp_path: Path, text: str, encoding: str) -> None:
    file = open_text(write(tmp_path, text.encode(encoding)))
    assert read(file) == text
    assert file.guessed


@pytest.mark.parametrize(("text", "encoding"), [(CHINESE, "gb18030"), (GERMAN, "cp1252"), (JAPANESE, "shift_jis")])
def test_encoding_of_a_large_file_is_guessed_from_samples(tmp_path: Path, text: str, encoding: str) -> None:
    data = b"Plain words to begin with.\n" * 20_000 + text.encode(encoding) * 3_000
    assert read(open_text(write(tmp_path, data))).endswith(text)


def test_encoding_of_a_large_file_without_line_ends_is_guessed(tmp_path: Path) -> None:
    text = CHINESE.replace("\n", "") * 1_000
    for odd in ("", "a"):
        assert read(open_text(write(tmp_path, (odd + text).encode("gb18030")))) == odd + text


@pytest.mark.parametrize("text", ["plain", ENGLISH, CHINESE, "é", "👩‍👩‍👧‍👦"], ids=ascii)
def test_utf8_is_known_not_guessed(tmp_path: Path, text: str) -> None:
    file = open_text(write(tmp_path, text.encode()))
    assert (file.encoding, file.guessed, read(file)) == ("utf-8", False, text)


@pytest.mark.parametrize(("mark", "encoding"), MARKED)
@pytest.mark.parametrize("text", ["", "é", ENGLISH], ids=ascii)
def test_byte_order_mark_decides_and_is_no_text(tmp_path: Path, mark: bytes, encoding: str, text: str) -> None:
    path = write(tmp_path, mark + text.encode(encoding))
    file = open_text(path)
    assert (file.encoding, file.guessed, read(file)) == (encoding, False, text)
    assert read(open_text(path, encoding)) == text


@pytest.mark.parametrize("asked", ["utf-8-sig", "UTF8", "utf_8"])
def test_given_encoding_is_not_a_guess(tmp_path: Path, asked: str) -> None:
    file = open_text(write(tmp_path, b"abc"), asked)
    assert (file.encoding, file.guessed) == ("utf-8", False)
    assert open_text(file.path, "latin-1").encoding == "iso8859-1"


@pytest.mark.parametrize(
    "name", ["utf-9", "", "hex", "rot13", "base64", "idna", "unicode_escape", "utf-7", "a\0b", "x" * 999]
)
def test_unknown_encoding_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSetting, match="encoding"):
        open_text(write(tmp_path, b"abc"), name)


@pytest.mark.parametrize(
    "data",
    [bytes(range(256)) * 40, b"\0" * 1000, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(0, 256, 3)) * 50, b"a\0b"],
    ids=["bytes", "zeros", "png", "nul"],
)
def test_binary_files_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(NotText, match=r"junk\.bin"):
        open_text(write(tmp_path, data, "junk.bin"))


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused_in_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp(), data, "any.bin")
    try:
        text = read(open_text(path))
    except (NotText, UnreadableText) as error:
        text = str(error)
        event(type(error).__name__)
    assert "\r" not in text


def test_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"gone\.txt"):
        open_text(tmp_path / "gone.txt")
    with pytest.raises(MissingFile):
        open_text(tmp_path)
    file = open_text(write(tmp_path, b"abc"))
    file.path.unlink()
    with pytest.raises(MissingFile):
        read(file)


@pytest.mark.parametrize(
    ("encoding", "bad"), [("utf-8", b"\xff"), ("gb18030", b"\xff"), ("euc_jp", b"\xff"), ("ascii", b"\xff")]
)
@pytest.mark.parametrize("before", [0, 1, 5, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 2 * READ_BYTES])
def test_undecodable_byte_is_named_with_its_offset_in_the_file(
    tmp_path: Path, encoding: str, bad: bytes, before: int
) -> None:
    file = open_text(write(tmp_path, b"a" * before + bad + b"\nmore"), encoding)
    with pytest.raises(UnreadableText, match=rf"text\.txt: byte {before} "):
        read(file)


@pytest.mark.parametrize(
    ("encoding", "character"), [("utf-8", "中"), ("gb18030", "𠀀"), ("big5", "中"), ("utf-16-le", "😀")]
)
@pytest.mark.parametrize("shift", range(4))
def test_offset_is_right_for_a_character_cut_off_at_the_end(
    tmp_path: Path, encoding: str, character: str, shift: int
) -> None:
    whole = "ab".encode(encoding) * (READ_BYTES // 4) + character.encode(encoding) * shift
    file = open_text(write(tmp_path, whole + character.encode(encoding)[:-1]), encoding)
    with pytest.raises(UnreadableText) as caught:
        read(file)
    assert len(whole) <= int(str(caught.value.params["offset"])) < len(whole) + len(character.encode(encoding))


@given(st.text(min_size=1), st.sampled_from(["utf-8", "utf-16-le", "gb18030"]), st.integers(1, 5), st.integers(0, 20))
def test_offset_does_not_depend_on_chunks(text: str, encoding: str, size: int, cut: int) -> None:
    data = text.encode(encoding, "ignore")
    data = data[:cut] + b"\xff\xff\xff\xff\xff" + data[cut:]
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    with pytest.raises(UnicodeDecodeError) as reference:
        data.decode(encoding)
    with pytest.raises(UnreadableText) as caught:
        list(decoded(iter(chunks), encoding, "file"))
    assert caught.value.params["offset"] == reference.value.start


def test_a_guess_that_fails_later_says_where(tmp_path: Path) -> None:
    data = CHINESE.encode("gb18030") * 3_000
    data = data[:400_000].rsplit(b"\n", 1)[0] + b"\n\xff\xff" + data
    offset = data.index(b"\xff\xff")
    file = open_text(write(tmp_path, data))
    with pytest.raises(UnreadableText, match=f"byte {offset} "):
        read(file)


def test_all_line_ends_become_one_kind(tmp_path: Path) -> None:
    text = "a\r\nb\rc\n\r\n\r\rd\r"
    assert read(open_text(write(tmp_path, text.encode()))) == "a\nb\nc\n\n\n\nd\n"
    data = b"x" * (READ_BYTES - 1) + b"\r\ny" + b"\r"
    assert read(open_text(write(tmp_path, data))) == "x" * (READ_BYTES - 1) + "\ny\n"


@given(st.text(alphabet="ab \n中"), st.integers(1, 30))
def test_blocks_are_short_and_lose_nothing(tmp_path_factory: pytest.TempPathFactory, text: str, max_chars: int) -> None:
    path = write(tmp_path_factory.getbasetemp(), text.encode(), "blocks.txt")
    blocks = list(open_text(path).blocks(max_chars))
    assert "".join(blocks) == text
    assert all(0 < len(block) <= max_chars for block in blocks)
    for block, following in pairwise(blocks):
        whole = block + following[:1] if len(block) < max_chars else block
        assert block.endswith("\n") or following.startswith(" ") or ("\n" not in whole and " " not in whole[1:-1])


def test_empty_file_has_no_blocks(tmp_path: Path) -> None:
    file = open_text(write(tmp_path, b""))
    assert (list(file.blocks()), file.encoding, file.size_bytes) == ([], "utf-8", 0)


def test_report_tells_what_was_found(tmp_path: Path) -> None:
    path = write(tmp_path, b"One\r\n\r\n  Two \r\n" + b"x" * 500 + b"\r\n\r\nOne\r\n")
    report = report_text(open_text(path, name="my text"), "blank-line")
    assert (report.name, report.encoding, report.guessed, report.bytes) == ("my text", "utf-8", False, 524)
    assert (report.documents, report.duplicates, report.not_compared, report.newlines) == (3, 1, 0, "\r\n")
    assert report.characters == len("One") + len("  Two \n") + 500 + len("One")
    assert report.first_lines[:2] == ("One", "  Two")
    assert len(report.first_lines[2]) == 120


@pytest.mark.parametrize(("data", "kind"), [(b"a\nb", "\n"), (b"a\rb", "\r"), (b"a", "none"), (b"a\nb\r\n", "mixed")])
def test_report_names_the_line_ends(tmp_path: Path, data: bytes, kind: str) -> None:
    assert report_text(open_text(write(tmp_path, data))).newlines == kind


def test_duplicates_are_compared_across_files_within_bounds(tmp_path: Path) -> None:
    seen = SeenDocuments(max_documents=2)
    builders = [ReportBuilder(open_text(write(tmp_path, b"")), seen) for _ in range(2)]
    for builder in builders:
        for text in ("a", "b", "c"):
            builder.add(Segment(text, True))
    first, second = (builder.report() for builder in builders)
    assert (first.duplicates, first.not_compared) == (0, 1)
    assert (second.duplicates, second.not_compared) == (2, 1)
