"""Files of the formats that are imported, made by hand, and what becomes of one in this process."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from textgen.limits import Limits
from textgen.text.importing.conversion import Input, convert
from textgen.text.importing.kinds import find_kind
from textgen.text.importing.records import ImportedText
from textgen.text.importing.sink import ImportedDocuments, write_text

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"


class Converted(NamedTuple):
    text: str
    record: ImportedText


def converted(folder: Path, name: str, data: bytes | str, *, limits: Limits = Limits(), **options: Any) -> Converted:
    """What the file becomes, without a process of its own; raises what its reader raises."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(data.encode() if isinstance(data, str) else data)
    file = Input(source, name, options.get("encoding"), options.get("column"), limits)
    kind = find_kind(source, name)
    seen = options.get("seen") or ImportedDocuments()
    record = write_text(convert(file, kind), target, name=name, kind=kind, size_bytes=file.size_bytes, seen=seen)
    return Converted(target.read_bytes().decode(), replace(record, path=target))


def zipped(members: Mapping[str, bytes | str] | Sequence[tuple[Any, bytes | str]]) -> bytes:
    """A zip file of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            archive.writestr(name, data)
    return buffer.getvalue()


def docx(body: str, *, main: str = "word/document.xml", **parts: str) -> bytes:
    """A Word document with this content of its `w:body`, and notes or other parts."""
    relations = f'<Relationships><Relationship Id="r1" Type="{_OFFICE}" Target="{main}"/></Relationships>'
    return zipped(
        {
            "[Content_Types].xml": "<Types/>",
            "_rels/.rels": relations,
            main: f'<w:document xmlns:w="{_W}"><w:body>{body}</w:body></w:document>',
            **{f"word/{name}.xml": f'<w:{name} xmlns:w="{_W}">{content}</w:{name}>' for name, content in parts.items()},
        }
    )


def paragraph(*runs: str) -> str:
    """A paragraph of a Word document with a run for each text."""
    return "<w:p>" + "".join(f"<w:r><w:t>{run}</w:t></w:r>" for run in runs) + "</w:p>"


def epub(chapters: Mapping[str, bytes | str], spine: Sequence[str] | None = None, **extra: bytes | str) -> bytes:
    """A book with these pages by name, in the order of `spine`; a page called nav.xhtml is its table of contents."""
    items = "".join(
        f'<item id="{name}" href="text/{name}" media-type="application/xhtml+xml"'
        f"{' properties=' + chr(34) + 'nav' + chr(34) if name == 'nav.xhtml' else ''}/>"
        for name in chapters
    )
    order = "".join(f'<itemref idref="{name}"/>' for name in (spine or chapters))
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{order}</spine></package>'
    )
    container = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    pages: dict[str, bytes | str] = {f"OEBPS/text/{name}": page for name, page in chapters.items()}
    named = {name.replace("__", "/").replace("_", "."): content for name, content in extra.items()}
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": container,
            "OEBPS/book.opf": package,
            **pages,
            **named,
        }
    )


def pdf(pages: Sequence[Sequence[tuple[float, float, str]]], *, trailer: str = "") -> bytes:
    """A PDF with these texts at x, y in points on each page, set in 12 point Helvetica."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    numbers = [4 + 2 * number for number in range(len(pages))]
    kids = " ".join(f"{number} 0 R" for number in numbers)
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    for number, page in zip(numbers, pages, strict=True):
        drawn = "".join(f"BT /F1 12 Tf {x} {y} Td ({text}) Tj ET\n" for x, y, text in page)
        stream = zlib.compress(drawn.encode("cp1252"))
        resources = "<< /Font << /F1 3 0 R >> >>"
        drawing = f"/Resources {resources} /Contents {number + 1} 0 R"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] {drawing} >>".encode())
        objects.append(b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    out, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    return out + f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
