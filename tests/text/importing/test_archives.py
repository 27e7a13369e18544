from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from tests.text.importing.files import zipped
from textgen.errors import (
    ArchiveBomb,
    DamagedFile,
    EncryptedFile,
    FileTooLarge,
    TextgenError,
    UnsafeMember,
    UnsupportedFile,
)
from textgen.limits import Limits
from textgen.text.importing.archives import Archive, Member, check_member
from textgen.text.importing.member_names import decode_names


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    return path


def read_all(path: Path, limits: Limits = Limits()) -> list[bytes]:
    with Archive(path, "a.zip", limits) as archive:
        return [b"".join(archive.chunks(member)) for member in archive.members()]


def patched(data: bytes, old: bytes, new: bytes, *, central: bool = True) -> bytes:
    """The archive with bytes of its central directory (or of what comes before it) replaced."""
    start = data.index(b"PK\x01\x02")
    before, after = data[:start], data[start:]
    assert old in (after if central else before)
    return before + after.replace(old, new) if central else before.replace(old, new) + after


def test_members_come_without_folders_and_notes_of_systems(tmp_path: Path) -> None:
    names = ["b/", "b/two.txt", "a.txt", "__MACOSX/._a.txt", ".DS_Store", "x/Thumbs.db", "desktop.ini"]
    with Archive(write(tmp_path, zipped(dict.fromkeys(names, "x"))), "a.zip", Limits()) as archive:
        assert [member.name for member in archive.members()] == ["b/two.txt", "a.txt"]
        assert archive.find("a.txt") is not None
        assert archive.find("c.txt") is None


def test_a_ratio_no_honest_text_has_is_refused_before_reading(tmp_path: Path) -> None:
    path = write(tmp_path, zipped({"a.txt": b"a" * 3_000_000}))
    with pytest.raises(ArchiveBomb, match=r"^a\.zip would unpack to more than 100 times its size"):
        read_all(path)
    assert read_all(path, Limits(max_import_ratio=2000.0)) == [b"a" * 3_000_000]
    assert read_all(write(tmp_path, zipped({"a.txt": b"a" * 100_000}))) == [b"a" * 100_000]


def test_sizes_that_lie_are_found_out(tmp_path: Path) -> None:
    size = struct.pack("<I", 3_000_000)
    bomb = zipped({"a.txt": b"a" * 3_000_000})
    with pytest.raises(DamagedFile):
        read_all(write(tmp_path, patched(bomb, size, struct.pack("<I", 5))))
    # A compressed size that makes the ratio look well does not fit into the file.
    compressed = len(zlib.compress(b"a" * 3_000_000, 6)) - 6
    with pytest.raises(ArchiveBomb):
        read_all(write(tmp_path, patched(bomb, struct.pack("<I", compressed), struct.pack("<I", 1_000_000))))


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """As in Fifield, "A better zip bomb" (2019): many entries name the same bytes."""
    data = zipped({"a.txt": bytes(range(256)) * 40})
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry, count = data[start:end], 50
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, count * len(entry), start, 0)
    with pytest.raises((ArchiveBomb, DamagedFile)):
        read_all(write(tmp_path, data[:start] + entry * count + tail))


def test_limits_of_size(tmp_path: Path) -> None:
    path = write(tmp_path, zipped({"a.txt": "abc" * 100, "b.txt": "def" * 100}))
    with pytest.raises(FileTooLarge, match=r"a\.zip is too large: at most 0\.0002 MB of one file are read"):
        read_all(path, Limits(max_import_member_bytes=200))
    with Archive(path, "a.docx", Limits(max_import_member_bytes=500)) as package:
        one, two = package.members()
        assert package.read(one) == b"abc" * 100
        # Parts of a document count together.
        with pytest.raises(FileTooLarge):
            package.read(two)


def damaged(data: bytes) -> dict[str, tuple[bytes, type[TextgenError]]]:
    central = data.index(b"PK\x01\x02")
    content = data.index(b"a.txt") + 5
    return {
        "nothing": (b"", DamagedFile),
        "junk": (b"PK\x03\x04" + b"junk" * 50, DamagedFile),
        "cut": (data[:-10], DamagedFile),
        "no content": (data[:content] + data[central:], DamagedFile),
        "wrong content": (data[:content] + b"\xff" * 8 + data[content + 8 :], DamagedFile),
        "wrong checksum": (patched(data, struct.pack("<I", zlib.crc32(b"hello, hello")), b"\1\2\3\4"), DamagedFile),
        "encrypted": (patched(data, b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"), EncryptedFile),
        "strange method": (
            patched(data, b"PK\x01\x02\x14\x03\x14\0\0\0\x08\0", b"PK\x01\x02\x14\x03\x14\0\0\0\x63\0"),
            UnsupportedFile,
        ),
    }


@pytest.mark.parametrize("how", damaged(zipped({"a.txt": "hello, hello"})))
def test_damaged_and_locked_archives_are_said_to_be(tmp_path: Path, how: str) -> None:
    data, error = damaged(zipped({"a.txt": "hello, hello"}))[how]
    with pytest.raises(error, match=r"^a\.zip[ :]"):
        read_all(write(tmp_path, data))


@pytest.mark.parametrize("name", ["../a.txt", "a/../../b.txt", "/etc/passwd", "C:\\a.txt", "..\\a.txt", "\\\\host\\a"])
def test_names_that_lead_out_are_unsafe(name: str) -> None:
    with pytest.raises(UnsafeMember):
        check_member(Member(name, zipfile.ZipInfo("x")), "a.zip/x")


def test_links_and_devices_are_unsafe() -> None:
    for mode, safe in [(stat.S_IFLNK, False), (stat.S_IFCHR, False), (stat.S_IFREG, True), (0, True)]:
        info = zipfile.ZipInfo("a..b.txt")
        info.external_attr = (mode | 0o644) << 16
        if safe:
            check_member(Member(info.filename, info), "a")
        else:
            with pytest.raises(UnsafeMember):
                check_member(Member(info.filename, info), "a")


@pytest.mark.parametrize(
    ("names", "encoding"),
    [
        (["短篇小说/第一章 开始.txt", "说明.txt"], "gb18030"),
        (["小説/第一章　はじまり.txt", "テスト.txt"], "cp932"),
        (["短篇小說/第一章 開始.txt", "繁體字說明.txt"], "big5"),
        (["단편 소설/첫 번째 장.txt", "설명.txt"], "cp949"),
        (["Рассказы/Первая глава.txt", "Описание.txt"], "cp866"),
        (["Рассказы/Первая глава.txt", "Описание.txt"], "cp1251"),
        (["Größe/übung.txt", "plain.txt"], "cp437"),
        (["Größe/übung.txt", "短篇"], "utf-8"),
    ],
)
def test_names_in_any_encoding_are_found(names: list[str], encoding: str) -> None:
    infos = []
    for name in names:
        info = zipfile.ZipInfo()
        info.orig_filename = info.filename = name.encode(encoding).decode("cp437")
        infos.append(info)
    assert decode_names(infos) == names


def test_names_that_an_entry_tells_itself() -> None:
    flagged, extra = zipfile.ZipInfo("é\x1b[2J\u202e"), zipfile.ZipInfo("?")
    flagged.flag_bits = 0x800
    extra.orig_filename = "\x81.txt".encode("latin-1").decode("cp437")
    content = b"\x01" + struct.pack("<I", zlib.crc32(b"\x81.txt")) + "中.txt".encode()
    extra.extra = struct.pack("<HH", 1, 2) + b"xx" + struct.pack("<HH", 0x7075, len(content)) + content
    assert decode_names([flagged, extra]) == ["é\ufffd[2J\ufffd", "中.txt"]


def test_long_names_keep_their_end() -> None:
    (name,) = decode_names([zipfile.ZipInfo("x" * 1000 + "/a.txt")])
    assert len(name) == 255
    assert name.endswith("x/a.txt")
