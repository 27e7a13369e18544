"""Which encoding the bytes of a file are in."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import charset_normalizer

from textgen.errors import InvalidSetting, NotText, UnreadableText

READ_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 16

# The 32-bit marks begin with the 16-bit ones, so they come first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What one family's texts are read as, most usual first. Each list begins with the widest encoding in everyday use.
_FAMILIES = (
    ("gb18030", ("gb2312", "gbk", "gb18030", "hz")),
    ("big5", ("big5", "cp950", "big5hkscs")),
    ("cp932", ("shift_jis", "cp932", "shift_jis_2004", "shift_jisx0213")),
    ("euc_jp", ("euc_jp", "euc_jis_2004", "euc_jisx0213")),
    ("cp949", ("euc_kr", "cp949")),
    ("koi8_r", ("koi8_r", "koi8_u", "koi8_t")),
    ("cp1251", ("cp1251", "kz1048", "ptcp154")),
    ("cp1252", ("cp1252", "latin_1", "iso8859_15")),
)
# Letters beyond ASCII, one language each: a text that keeps to one of them is Western European.
_WESTERN_LETTERS = (
    "äöüß",
    "àâæçèéêëîïôùûüÿœ",
    "áéíñóúüïç",
    "àáâãçéêíóôõúü",
    "àáèéìíîòóùú",
    "åäöéæøèòóôüáà",
    "áðéíóúýþæö",
    "áéèëêïíîóöôúüûà",
)
_TYPOGRAPHY = frozenset("“”‘’‚„‹›«»–—…•·¡¿§©®™°€£¢¥†‡\u00a0\u00ad×÷±½¼¾²³ªº´¨¸")
_AFTER_LETTER_ONLY_ELSEWHERE = re.compile(r"[^\W\d_][¡¿²³½¼¾¢£¥×÷±´¨¸§]+[^\W\d_]")
_NOT_FOR_TEXT = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7"})


class Encoding(NamedTuple):
    """A codec's name and whether it was guessed rather than known."""

    name: str
    guessed: bool


def check_encoding(name: str) -> str:
    """The canonical name of a text encoding; raises `InvalidSetting` for others."""
    allowed = "a text encoding that Python knows, such as utf-8, utf-16, gb18030, big5, shift_jis, cp1252"
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        raise InvalidSetting("encoding", name, allowed) from None
    canonical = "utf-8" if info.name == "utf-8-sig" else info.name
    if not info._is_text_encoding or canonical in _NOT_FOR_TEXT or info.incrementaldecoder is None:
        raise InvalidSetting("encoding", name, allowed)
    return canonical


def detect_encoding(path: Path, file: str) -> Encoding:
    """Byte-order mark, else strict UTF-8 over the whole file, else a guess from samples of it.

    `file` names it in errors. Raises `NotText` for bytes that look like no text in any encoding, and the `OSError` of
    a file that cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_SAMPLE_BYTES)
    for mark, name in _MARKS:
        if head.startswith(mark) and not (name == "utf-32-le" and path.stat().st_size % 4):
            return Encoding(name, False)
    if b"\0" in head:
        return Encoding(_wide_encoding(head, path.stat().st_size, file), True)
    offset = first_undecodable(path, "utf-8")
    if offset is None:
        seven_bit = "iso2022_jp" if b"\x1b$B" in head or b"\x1b$@" in head else "utf-8"
        return Encoding(seven_bit, seven_bit != "utf-8")
    sample = _sample(path, head, offset)
    candidates = _candidates(sample, head, file)
    # When none fits, reading the file as the best guess says where the trouble is.
    fitting = (name for name in candidates if first_undecodable(path, name) is None)
    return Encoding(codecs.lookup(next(fitting, candidates[0])).name, True)


def first_undecodable(path: Path, encoding: str) -> int | None:
    """Offset in the file of the first byte that does not decode; None when all do."""
    try:
        with path.open("rb") as stream:
            for _ in decoded(iter(lambda: stream.read(READ_BYTES), b""), encoding, path.name):
                pass
    except UnreadableText as error:
        return int(str(error.params["offset"]))
    return None


def decoded(chunks: Iterator[bytes], encoding: str, file: str) -> Iterator[str]:
    """Strictly decoded text without byte-order mark; raises `UnreadableText` with the offset in all chunks together."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    fed, first = 0, True
    try:
        for chunk in chunks:
            fed += len(chunk)
            text = decoder.decode(chunk)
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            yield text
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        # The decoder also holds bytes of earlier chunks; the bytes it complains about always end where we are.
        raise UnreadableText(file, fed - len(error.object) + error.start, encoding) from None
    except UnicodeError:
        raise UnreadableText(file, fed, encoding) from None


def _wide_encoding(head: bytes, size: int, file: str) -> str:
    """UTF-16 or UTF-32 without mark: the one whose characters look like text. Other bytes with NULs are no text."""
    units = {"utf-32-le": 4, "utf-32-be": 4, "utf-16-le": 2, "utf-16-be": 2}
    scores = {name: _plausibility(head, name) for name, unit in units.items() if size % unit == 0}
    best = max(scores, key=lambda name: scores[name], default="")
    if scores.get(best, 0.0) < 0.01:
        raise NotText(file)
    return best


def _plausibility(data: bytes, encoding: str) -> float:
    """Share of spaces, line ends and usual punctuation; 0 for what cannot be text in this encoding."""
    try:
        text = codecs.getincrementaldecoder(encoding)("strict").decode(data)
    except UnicodeDecodeError:
        return 0.0
    strange = sum(
        unicodedata.category(character) in ("Cn", "Co", "Cc") for character in text if character not in "\t\n\r\f"
    )
    if not text or strange > len(text) / 100:
        return 0.0
    usual = sum(character in " \n\r\t.,;:!?、。，！？「」" or "a" <= character <= "z" for character in text)
    return usual / len(text)


def _sample(path: Path, head: bytes, offset: int) -> bytes:
    """Passages from the start, around the byte at `offset`, the middle and the end of the file."""
    size = path.stat().st_size
    if size <= len(head):
        return head
    parts = [head[: max(_boundaries(head), default=len(head))]]
    with path.open("rb") as stream:
        for start in (offset - _SAMPLE_BYTES // 2, size // 2, size - _SAMPLE_BYTES):
            stream.seek(max(len(head), start))
            passage = stream.read(_SAMPLE_BYTES)
            boundaries = _boundaries(passage)
            parts.append(passage[min(boundaries) : max(boundaries)] if boundaries else b"")
    return b"".join(parts)


def _boundaries(data: bytes) -> list[int]:
    """First and last line ends and spaces: bytes that are half of no character in any multi-byte encoding."""
    return [position for byte in (b"\n", b" ") for position in (data.find(byte), data.rfind(byte)) if position >= 0]


def _candidates(sample: bytes, head: bytes, file: str) -> list[str]:
    if _is_western(sample):
        return ["cp1252"]
    guesses = [charset_normalizer.from_bytes(sample).best()]
    if b"\n" not in sample and b" " not in sample:
        # Nothing told where characters end: the sample may stop within one of up to four bytes.
        sample = head[: _SAMPLE_BYTES // 4]
        guesses = [charset_normalizer.from_bytes(sample[: len(sample) - cut]).best() for cut in range(4)]
    guess = next((guess for guess in guesses if guess), None)
    found = [guess.encoding, *guess.could_be_from_charset] if guess else []
    if not found or _is_junk(sample, found[0]):
        raise NotText(file)
    for preferred, members in _FAMILIES:
        if found[0] in members or (preferred in found and preferred == "cp1252"):
            return [preferred, *(name for name in (*members, *found) if name != preferred)]
    return found


def _is_junk(data: bytes, encoding: str) -> bool:
    text = data.decode(encoding, "replace")
    controls = sum(unicodedata.category(character) == "Cc" for character in text if character not in "\t\n\r\f\x1b\x1a")
    return controls > len(text) / 100


def _is_western(sample: bytes) -> bool:
    """Whether the sample, read as cp1252, has the letters of one Western European language only.

    Statistics of short texts with few accents mistake these for Central European and DOS encodings.
    """
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    special = [character for character in text if character > "\x7f"]
    if len(special) > len(text) / 4 or _is_junk(sample, "cp1252") or _AFTER_LETTER_ONLY_ELSEWHERE.search(text):
        return False
    letters = [character for character in special if character not in _TYPOGRAPHY]
    return any(
        sum(character.lower() in alphabet for character in letters) >= 0.99 * len(letters)
        for alphabet in _WESTERN_LETTERS
    )
