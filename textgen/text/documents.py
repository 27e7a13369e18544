"""Where documents end: streams text blocks into segments that know whether their document ends with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# One line end, then lines with nothing but white space.
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_MAX_HELD_CHARS = 1 << 16


class Segment(NamedTuple):
    """A part of a document, never empty; a document is one or more of them."""

    text: str
    ends_document: bool


def split_documents(blocks: Iterable[str], split: str = "file") -> Iterator[Segment]:
    """Cuts the blocks of one file into documents.

    `split` is "file" (all is one document, nothing is changed), "blank-line", "line", or the separator text itself.
    Separators and the line ends around documents belong to none; documents without a visible character are skipped.
    Memory is bounded by the size of a block, however long the documents are.
    """
    if split == "file":
        return _whole(blocks)
    if split == "blank-line":
        return _assembled(_blank_line_pieces(blocks))
    separator = "\n" if split == "line" else split.replace("\r\n", "\n").replace("\r", "\n")
    return _assembled(_separated_pieces(blocks, separator))


def _whole(blocks: Iterable[str]) -> Iterator[Segment]:
    held = ""
    for block in blocks:
        if held and block:
            yield Segment(held, False)
        held = block or held
    if held:
        yield Segment(held, True)


def _separated_pieces(blocks: Iterable[str], separator: str) -> Iterator[str | None]:
    """Text between separators; None where a document ends."""
    carry = ""
    for block in blocks:
        *complete, rest = (carry + block).split(separator)
        for text in complete:
            yield text
            yield None
        # A separator may have begun at the end of this block.
        keep = min(len(rest), len(separator) - 1)
        yield rest[: len(rest) - keep]
        carry = rest[len(rest) - keep :]
    yield carry
    yield None


def _blank_line_pieces(blocks: Iterable[str]) -> Iterator[str | None]:
    """Text between blank lines; None where a document ends."""
    # The line end in front lets a blank first line be seen as one.
    carry = "\n"
    for block in blocks:
        *complete, rest = _BLANK_LINES.split(carry + block)
        for text in complete:
            yield text
            yield None
        # White space at the end of the block may turn out to be a blank line, unless there is too much of it to wait.
        text = rest.rstrip()
        if len(rest) - len(text) > _MAX_HELD_CHARS:
            text = rest
        yield text
        carry = rest[len(text) :]
        if complete and not text:
            carry = "\n" + carry
    yield carry
    yield None


def _assembled(pieces: Iterable[str | None]) -> Iterator[Segment]:
    """Drops line ends around documents and documents without visible characters.

    A segment is held back until it is known whether more of its document follows.
    """
    held, visible, newlines = "", False, 0
    for piece in pieces:
        if piece is None:
            if visible:
                yield Segment(held, True)
            held, visible, newlines = "", False, 0
            continue
        if not held:
            piece = piece.lstrip("\n")
        text = piece.rstrip("\n")
        if not text:
            newlines += len(piece)
            continue
        # Only a count is kept of line ends that may be the document's last: there may be very many.
        text, newlines = "\n" * newlines + text, len(piece) - len(text)
        if visible and held:
            yield Segment(held, False)
            held = text
        else:
            held += text
        visible = visible or len(held) > _MAX_HELD_CHARS or not text.isspace()
