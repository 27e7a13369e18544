"""The names of files in a zip, which are in any encoding where nothing says UTF-8."""

from __future__ import annotations

import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Sequence

_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075
_MAX_CHARS = 255
# A character beyond ASCII alone among letters of ASCII: half of an accented word that is read as Chinese, say.
_LONELY = re.compile(r"(?<![^\x00-\x7f])[^\x00-\x7f](?=[a-zA-Z])|(?<=[a-zA-Z])[^\x00-\x7f](?![^\x00-\x7f])")
# No Russian word, but what accents of other languages look like when read as Cyrillic.
_MIXED_WORD = re.compile("[a-zA-Z][А-яЁё]|[А-яЁё][a-zA-Z]")


def decode_names(infos: Sequence[zipfile.ZipInfo]) -> list[str]:
    """A name fit to be shown for each entry: its UTF-8 name, else what all names together look like."""
    raw = [_raw_name(info) for info in infos]
    told = [_told_name(info, data) for info, data in zip(infos, raw, strict=True)]
    encoding = _guess([data for data, name in zip(raw, told, strict=True) if name is None])
    return [
        _showable(name if name is not None else data.decode(encoding, "replace"))
        for data, name in zip(raw, told, strict=True)
    ]


def _raw_name(info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & _UTF8_FLAG:
        return info.orig_filename.encode("utf-8", "surrogatepass")
    try:
        # zipfile reads names without the flag as cp437, which has a character for every byte.
        return info.orig_filename.encode("cp437")
    except UnicodeEncodeError:
        return info.orig_filename.encode("utf-8", "surrogatepass")


def _told_name(info: zipfile.ZipInfo, raw: bytes) -> str | None:
    """The name that the entry itself gives in Unicode: by its flag or by Info-ZIP's extra field."""
    if info.flag_bits & _UTF8_FLAG or raw.isascii():
        return raw.decode("utf-8", "replace")
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        content, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and len(content) > 5 and content[1:5] == struct.pack("<I", zlib.crc32(raw)):
            return content[5:].decode("utf-8", "replace")
    return None


def _guess(names: Sequence[bytes]) -> str:
    """The encoding under which the names look most like names."""
    together = b"\n".join(names)
    fitting = [(score, encoding) for encoding in _BELIEFS if (score := _score(together, encoding)) > 0.8]
    return max(fitting, default=(0.0, "cp437"))[1]


def _score(data: bytes, encoding: str) -> float:
    """Share of the characters beyond ASCII that are everyday ones of those who use the encoding."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return 0.0
    belief, is_usual = _BELIEFS[encoding]
    if is_usual is _CYRILLIC and _MIXED_WORD.search(text):
        return 0.0
    special = sum(character > "\x7f" for character in text)
    if encoding not in ("utf-8", "cp437"):
        text = _LONELY.sub("", text)
    return belief * sum(character > "\x7f" and is_usual(character) for character in text) / max(1, special)


def _among(*ranges: str) -> Callable[[str], bool]:
    return lambda character: any(pair[0] <= character <= pair[1] for pair in ranges)


def _within(encoding: str, first_lead: int, last_lead: int) -> Callable[[str], bool]:
    """Whether a character is in the part of a double-byte encoding where the everyday ones are."""

    def is_usual(character: str) -> bool:
        data = character.encode(encoding, "ignore")
        return len(data) == 2 and first_lead <= data[0] <= last_lead

    return is_usual


# How far to believe in an encoding, into which much that is something else decodes too, and what is usual in it.
_CYRILLIC = _among("Ая", "ЁЁ", "ёё")
_BELIEFS: dict[str, tuple[float, Callable[[str], bool]]] = {
    "utf-8": (2.0, lambda _character: True),
    "cp866": (1.2, _CYRILLIC),
    "cp1251": (1.1, _CYRILLIC),
    "cp949": (1.1, _within("euc_kr", 0xB0, 0xC8)),
    "gb18030": (1.08, _within("gb2312", 0xA1, 0xD7)),
    "cp932": (1.05, _among("ぁヿ", "一鿿", "\u3000〿", "！～")),
    "big5": (1.0, _within("big5", 0xA1, 0xC6)),
    "cp437": (0.95, _among("ÇÜ", "áÑ", "ßß")),
}


def _showable(name: str) -> str:
    shown = "".join(
        character if character.isprintable() or unicodedata.category(character) == "Zs" else "\ufffd"
        for character in name
    )
    return shown if len(shown) <= _MAX_CHARS else "…" + shown[1 - _MAX_CHARS :]
