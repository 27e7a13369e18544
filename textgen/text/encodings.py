"""Which encoding a file is in: its byte order mark, else strict UTF-8, else the judgement of charset-normalizer."""

from __future__ import annotations

import codecs
from typing import BinaryIO

from charset_normalizer import from_bytes

from textgen.errors import NotText

_CHUNK_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 16

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What is guessed, and the larger encoding that reads the same bytes the same way and more: real files use both.
_SUPERSETS = {
    "ascii": "utf-8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "hz": "gb18030",
    "big5": "cp950",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859-1": "cp1252",
    "latin_1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-7": "cp1253",
    "tis_620": "cp874",
}
_MAX_CONTROL_SHARE = 0.02


def byte_order_mark(start: bytes) -> tuple[bytes, str | None]:
    """The byte order mark that a file begins with and the encoding it names; (b"", None) when there is none."""
    return next(((mark, name) for mark, name in _MARKS if start.startswith(mark)), (b"", None))


def guess_encoding(stream: BinaryIO, size: int, name: str) -> str:
    """Reads a file of `size` bytes as far as needed; raises `NotText` when nothing fits."""
    sample = _sample(stream, size)
    wide = _wide_encoding(sample)
    if wide is not None:
        return wide
    if _is_utf8(stream):
        if _control_share(sample.decode("utf-8", "ignore")) > _MAX_CONTROL_SHARE:
            raise NotText(name)
        return "utf-8"
    match = from_bytes(sample).best()
    if match is None or _control_share(str(match)) > _MAX_CONTROL_SHARE:
        raise NotText(name)
    encoding = codecs.lookup(match.encoding).name
    wider = _SUPERSETS.get(encoding, _SUPERSETS.get(match.encoding))
    return wider if wider is not None and _decodes(sample, wider) else encoding


def _sample(stream: BinaryIO, size: int) -> bytes:
    """The start, the middle and the end, each of whole lines where there are lines."""
    stream.seek(0)
    if size <= 3 * _SAMPLE_BYTES:
        return stream.read(3 * _SAMPLE_BYTES)
    parts = []
    for start in (0, size // 2, size - _SAMPLE_BYTES):
        # Even offsets: a sample of UTF-16 must not begin inside a character.
        stream.seek(start // 2 * 2)
        part = stream.read(_SAMPLE_BYTES)
        first = part.find(b"\n") + 1 if start else 0
        last = part.rfind(b"\n") + 1
        parts.append(part[first:last] if 0 <= first < last and b"\x00" not in part else part)
    return b"".join(parts)


def _is_utf8(stream: BinaryIO) -> bool:
    stream.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _wide_encoding(sample: bytes) -> str | None:
    """UTF-16 without a mark. Its spaces, newlines and Latin letters have a zero byte, which other text never has."""
    zeros = sample.count(0)
    if len(sample) < 4 or zeros < len(sample) / 200:
        return None
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = sample[: len(sample) // 2 * 2].decode(encoding)
        except UnicodeDecodeError:
            continue
        if _control_share(text) <= _MAX_CONTROL_SHARE and _plain_share(text) > 0.02:
            return encoding
    return None


def _plain_share(text: str) -> float:
    """Share of spaces, newlines and the commonest punctuation: in the wrong byte order there is hardly any."""
    return sum(text.count(mark) for mark in " \n,.。，") / max(1, len(text))


def _control_share(text: str) -> float:
    controls = sum(1 for character in text if character < " " and character not in "\t\n\r\f\x1b")
    unassigned = sum(1 for character in text if "\x7f" <= character < "\xa0" and character != "\x85")
    return (controls + unassigned) / max(1, len(text))


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
