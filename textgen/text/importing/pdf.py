"""PDF with a text layer → plain text (pdfminer.six), lines joined again that were wrapped."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise

from pdfminer.high_level import extract_pages
from pdfminer.layout import LAParams, LTTextBox, LTTextLine
from pdfminer.pdfdocument import PDFEncryptionError, PDFPasswordIncorrect

from textgen.errors import EncryptedFile, PicturesOfText
from textgen.text.importing.conversion import Conversion, Input
from textgen.text.importing.wrapping import is_wide, join_wrapped

# Glyphs for which the file does not say which characters they are.
_UNKNOWN_GLYPH = re.compile(r"\(cid:\d+\)")
_PAGE_NUMBER = re.compile(r"\W*(\d{1,5}|[ivxlc]{1,8})\W*")
_DIGITS = re.compile(r"\d+")
# Left and right pages have their own.
_REMEMBERED_PAGES = 2
# Lines of verse and of lists begin with one; lines of prose do so by chance.
_MOST_CAPITALS = 0.8


def convert(file: Input) -> Conversion:
    """Text boxes with a blank line between them, page after page.

    Left out: numbers of pages, and what stands at the top or bottom of one page as on one of the two before it. A line
    goes on in the next one if that one's first word would not have fitted behind it. Raises `EncryptedFile`
    where a password is needed and `PicturesOfText` where no page has text.
    """
    return Conversion(_texts(file))


def _texts(file: Input) -> Iterator[str]:
    found = False
    before: deque[set[str]] = deque(maxlen=_REMEMBERED_PAGES)
    try:
        for page in extract_pages(file.path, laparams=LAParams()):
            boxes = [box for box in page if isinstance(box, LTTextBox)]
            running = {box: _DIGITS.sub("", box.get_text()).strip() for box in _edges(boxes)}
            known = set().union(*before)
            before.append(set(running.values()))
            repeated = {box for box, text in running.items() if text in known or _PAGE_NUMBER.fullmatch(box.get_text())}
            for text in _texts_of([box for box in boxes if box not in repeated]):
                found = True
                yield text + "\n\n"
    except (PDFPasswordIncorrect, PDFEncryptionError):
        raise EncryptedFile(file.name) from None
    if not found:
        raise PicturesOfText(file.name)


def _edges(boxes: Sequence[LTTextBox]) -> Iterator[LTTextBox]:
    """The boxes of one line that nothing stands above, or nothing below."""
    for box in boxes:
        if len(box) == 1:
            highest = all(other.y0 < box.y1 for other in boxes)
            lowest = all(box.y0 < other.y1 for other in boxes)
            if highest or lowest:
                yield box


def _texts_of(boxes: Sequence[LTTextBox]) -> Iterator[str]:
    for box in boxes:
        # The text may go as far to the right as it does above and below.
        right = max(other.x1 for other in boxes if other.x0 < box.x1 and box.x0 < other.x1)
        text = _box_text(list(box), right)
        if text.strip():
            yield text


def _box_text(lines: Sequence[LTTextLine], right: float) -> str:
    """The lines of a box. Where most of them go on, the other breaks are those of paragraphs; else all stay: verse."""
    texts = [_UNKNOWN_GLYPH.sub("", line.get_text()).strip() for line in lines]
    wrapped = [
        _would_not_fit(line, following, following_text, right)
        for (line, following), following_text in zip(pairwise(lines), texts[1:], strict=True)
    ]
    capitals = sum(text[:1].isupper() for text in texts[1:])
    is_prose = sum(wrapped) > len(wrapped) / 2 and capitals < _MOST_CAPITALS * len(wrapped)
    paragraphs = texts[:1]
    for text, goes_on in zip(texts[1:], wrapped, strict=True):
        if goes_on and is_prose:
            paragraphs[-1] = join_wrapped(paragraphs[-1], text)
        else:
            paragraphs.append(text)
    return ("\n\n" if is_prose else "\n").join(filter(None, paragraphs)).replace("\u00ad", "")


def _would_not_fit(line: LTTextLine, following: LTTextLine, text: str, right: float) -> bool:
    """Whether the first word of the following line is wider than the room behind this one."""
    if not text:
        return False
    word = 1 if is_wide(text[0]) else len(text.split(maxsplit=1)[0]) + 1
    return right - line.x1 < word * following.width / len(text)
