"""What a file is: its content decides where that is certain, else its name."""

from __future__ import annotations

import codecs
import re
import zipfile
from pathlib import Path, PurePosixPath

from textgen.errors import EncryptedFile, NestedArchive, UnsupportedFile
from textgen.text.importing.formats import ALLOWED, FORMAT_TABLE

_HEAD_BYTES = 1 << 16
_BY_SUFFIX = {suffix: name for name, form in FORMAT_TABLE.items() for suffix in form.suffixes}
_BINARY_KINDS = frozenset(name for name, form in FORMAT_TABLE.items() if form.binary)
# First bytes of what people drop by mistake.
_OTHERS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"{\\rtf", "RTF"),
    (b"ID3", "MP3"),
    (b"\x7fELF", "ELF"),
    (b"%!PS", "PostScript"),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# What else is a zip inside, by a name in it.
_PACKAGES = (
    ("xl/workbook.xml", "XLSX"),
    ("ppt/presentation.xml", "PPTX"),
    ("META-INF/MANIFEST.MF", "JAR"),
    ("content.xml", "OpenDocument"),
)
_HTML = re.compile(r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype\s+html\b|<html[\s>])", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[a-zA-Z!/?][^<>]*>")
_CUE = re.compile(r"\s*\d+[ \t]*\r?\n\d+:\d\d:\d\d[,.]\d{1,3}[ \t]+-->[ \t]+\d+:\d\d:\d\d[,.]\d")


def kind_by_name(name: str) -> str:
    """The format that a file's name promises; "txt" for any other."""
    return _BY_SUFFIX.get(PurePosixPath(name.replace("\\", "/")).suffix.lower(), "txt")


def find_kind(path: Path, name: str, *, inside_archive: bool = False) -> str:
    """One of `FORMATS`. Whether the content is sound is not looked at.

    Raises `UnsupportedFile`, `EncryptedFile` for a locked Office file, `NestedArchive`, and the `OSError` of a file
    that cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    promised = kind_by_name(name)
    if head.startswith(_ZIP):
        kind = _package_kind(path, name, promised)
    elif b"%PDF-" in head[:1024] and (promised in _BINARY_KINDS or head.startswith(b"%PDF-")):
        kind = "pdf"
    else:
        _refuse_others(head, name)
        kind = promised if promised in _BINARY_KINDS else _text_kind(_readable(head), promised)
    if kind == "zip" and inside_archive:
        raise NestedArchive(name)
    return kind


def _package_kind(path: Path, name: str, promised: str) -> str:
    try:
        with zipfile.ZipFile(path) as package:
            names = set(package.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return promised if promised in _BINARY_KINDS else "zip"
    if "META-INF/container.xml" in names:
        return "epub"
    if "[Content_Types].xml" in names and any(name.startswith("word/") for name in names):
        return "docx"
    for inner, kind in _PACKAGES:
        if inner in names:
            raise UnsupportedFile(name, kind, ALLOWED)
    return promised if promised in ("docx", "epub") else "zip"


def _refuse_others(head: bytes, name: str) -> None:
    if head.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in head:
            raise EncryptedFile(name)
        raise UnsupportedFile(name, "DOC", ALLOWED)
    for beginning, kind in _OTHERS:
        if head.startswith(beginning):
            raise UnsupportedFile(name, kind, ALLOWED)
    if head[257:262] == b"ustar":
        raise UnsupportedFile(name, "tar", ALLOWED)


def _text_kind(text: str, promised: str) -> str:
    if _HTML.match(text):
        return "html"
    if promised == "html" and not _TAG.search(text):
        return "txt"
    return "srt" if promised == "txt" and _CUE.match(text) else promised


def _readable(head: bytes) -> str:
    """The head as far as its ASCII characters go."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return head.decode("utf-16", "replace")
    return head.removeprefix(codecs.BOM_UTF8).decode("latin-1")
