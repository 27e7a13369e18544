"""The formats that are read: what their files are called and which module reads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """`suffixes` are those of its files; `module` is the one of this package whose `convert` reads them.

    Of a `binary` format every file that is called so is one, or damaged; what is called a text may be another kind.
    """

    suffixes: tuple[str, ...]
    module: str | None = None
    binary: bool = False


FORMAT_TABLE = {
    "txt": Format((".txt", ".text")),
    "md": Format((".md", ".markdown"), "markdown"),
    "html": Format((".html", ".htm", ".xhtml"), "html"),
    "csv": Format((".csv",), "tables"),
    "tsv": Format((".tsv", ".tab"), "tables"),
    "jsonl": Format((".jsonl", ".ndjson"), "json_lines"),
    "docx": Format((".docx",), "docx", binary=True),
    "epub": Format((".epub",), "epub", binary=True),
    "pdf": Format((".pdf",), "pdf", binary=True),
    "srt": Format((".srt",), "subtitles"),
    "zip": Format((".zip",), binary=True),  # what is in it is read, see `archives`
}
FORMATS = tuple(FORMAT_TABLE)
ALLOWED = ", ".join(FORMATS)
