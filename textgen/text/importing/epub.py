"""EPUB books → plain text, chapters in the order of the spine (EPUB 3.3, and 2)."""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import dirname, join, normpath
from urllib.parse import unquote

from textgen.errors import DamagedFile, EncryptedFile
from textgen.text.importing.archives import Archive, Member
from textgen.text.importing.conversion import Conversion, Input
from textgen.text.importing.html import declared_encoding, html_text
from textgen.text.importing.xml_events import xml_events

_PAGE_TYPES = frozenset({"application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"})
_PIECE_CHARS = 1 << 18


def convert(file: Input) -> Conversion:
    """Chapters, a blank line between them; the table of contents, which is made for machines, is left out."""
    return Conversion(_texts(file))


def _texts(file: Input) -> Iterator[str]:
    with Archive(file.path, file.name, file.limits, "EPUB") as package:
        chapters = _chapters(package)
        if not chapters:
            raise DamagedFile(file.name, "EPUB")
        locked = _encrypted_parts(package)
        for chapter in chapters:
            if chapter.info.filename in locked:
                raise EncryptedFile(file.name)
            page = _decoded(package.read(chapter))
            pieces = (page[start : start + _PIECE_CHARS] for start in range(0, len(page), _PIECE_CHARS))
            yield from html_text(pieces)
            yield "\n\n"


def _chapters(package: Archive) -> list[Member]:
    """The pages of the spine that are there."""
    book = _book_part(package)
    if book is None:
        return []
    pages: dict[str, str] = {}
    spine: list[str] = []
    for event in xml_events(package.stream(book)):
        values = event.attributes
        if event.kind != "start":
            continue
        if event.name == "item" and values.get("media-type") in _PAGE_TYPES:
            if "nav" not in values.get("properties", "").split():
                pages[values.get("id", "")] = values.get("href", "")
        elif event.name == "itemref":
            spine.append(values.get("idref", ""))
    folder = dirname(book.info.filename)
    paths = (normpath(join(folder, unquote(pages[name].partition("#")[0]))) for name in spine if name in pages)
    return [member for path in paths if (member := package.find(path)) is not None]


def _book_part(package: Archive) -> Member | None:
    container = package.find("META-INF/container.xml")
    if container is None:
        return None
    for event in xml_events(package.stream(container)):
        if event.kind == "start" and event.name == "rootfile":
            return package.find(normpath(event.attributes.get("full-path", "")))
    return None


def _encrypted_parts(package: Archive) -> set[str]:
    """What a key is needed for. Fonts often are: they do not matter."""
    member = package.find("META-INF/encryption.xml")
    if member is None:
        return set()
    events = xml_events(package.stream(member))
    return {
        unquote(event.attributes.get("URI", ""))
        for event in events
        if event.kind == "start" and event.name == "CipherReference"
    }


def _decoded(page: bytes) -> str:
    """UTF-8 or UTF-16, as the standard has it, or what the page declares."""
    if page.startswith((b"\xff\xfe", b"\xfe\xff")):
        return page.decode("utf-16", "replace")
    try:
        return page.decode("utf-8-sig")
    except UnicodeDecodeError:
        return page.decode(declared_encoding(page[:4096]) or "cp1252", "replace")
