"""Text ⇄ token ids with a SentencePiece vocabulary, lossless for every Unicode string.

SentencePiece (Kudo & Richardson 2018, https://arxiv.org/abs/1808.06226) writes a space as U+2581, so a real U+2581
would come back as a space: it is spelled in byte pieces instead, as is every character outside the vocabulary. Decoding
goes by a table from pieces to bytes, which makes streaming a matter of incremental UTF-8.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from textgen.errors import BadTokenizer, InvalidSetting
from textgen.files import write_atomically

UNK_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, 3
SPECIAL_PIECES = ("<unk>", "<bos>", "<eos>", "<pad>")
SPACE_MARK = "\u2581"
# What a vocabulary that normalises, strips or adds anything would change.
_PROBES = ("  a  b\t\n\n é e\u0301 ﬁ Ａ ½\u2581\u0000\r\n\u00a0\u200b\u3000 x ", "a", " ", "\n", "ABC İ", "か\u3099 ①")
_REPLACEMENT = "\ufffd".encode()
# Long texts are encoded in passages: the work per character then does not grow with the text.
_PASSAGE_CHARS = 4096


class Tokenizer:
    """An unchangeable vocabulary. `sha256` of its bytes is its identity."""

    def __init__(self, data: bytes, name: str = "tokenizer.model") -> None:
        self._data = data
        self.sha256 = hashlib.sha256(data).hexdigest()
        try:
            self._processor = sentencepiece.SentencePieceProcessor()
            self._processor.LoadFromSerializedProto(data)
            self.vocab_size = int(self._processor.vocab_size())
        except (RuntimeError, OSError, TypeError):
            raise BadTokenizer(name, "not a SentencePiece model") from None
        self._check_specials(name)
        self._bytes = [self._bytes_of(number) for number in range(self.vocab_size)]
        self._byte_ids = self._find_byte_ids(name)
        # A vocabulary without a piece for the space would spell it as the bytes of U+2581.
        spaced = self._processor.piece_to_id(SPACE_MARK) != UNK_ID
        self._unspeakable = re.compile(f"[{SPACE_MARK}]" if spaced else f"[ {SPACE_MARK}]")
        if any(self.decode(self.encode(probe)) != probe for probe in _PROBES):
            raise BadTokenizer(name, "the vocabulary changes text (normalisation or whitespace); it must be lossless")

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "tokenizer.model") -> Tokenizer:
        """Raises `BadTokenizer` for bytes that are no model, or one that is not lossless or has other special ids."""
        return cls(data, name)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads a .model file; raises `BadTokenizer`."""
        try:
            return cls(path.read_bytes(), path.name)
        except OSError as error:
            raise BadTokenizer(str(path), f"cannot be read ({error.strerror})") from None

    def save(self, path: Path) -> None:
        """Writes the .model file; raises `CannotWrite`."""
        write_atomically(path, self._data)

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        return self._data

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without specials. Raises `InvalidSetting` for lone surrogates, which are no text."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, all in one go, which uses every core."""
        plans = [list(self._plan(text)) for text in texts]
        passages = [part for plan in plans for part in plan if isinstance(part, str)]
        encoded = iter(self._processor.encode(passages))
        return [
            list(chain.from_iterable(next(encoded) if isinstance(part, str) else part for part in plan))
            for plan in plans
        ]

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """`encode` as an array [tokens]."""
        return np.array(self.encode(text), dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids; specials are silent, and bytes that are no UTF-8 become U+FFFD."""
        return b"".join([self.piece_bytes(number) for number in ids]).decode("utf-8", "replace")

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one at a time."""
        return StreamDecoder(self)

    def piece(self, token_id: int) -> str:
        """The piece's name: "▁the", "<0xE4>", "<eos>". Raises `InvalidSetting` for an id outside the vocabulary."""
        if not 0 <= token_id < self.vocab_size:
            raise InvalidSetting("token id", token_id, f"0 to {self.vocab_size - 1}")
        return str(self._processor.id_to_piece(token_id))

    def piece_bytes(self, token_id: int) -> bytes:
        """What the piece contributes to the text, in UTF-8: nothing for specials, U+FFFD for unknown ids."""
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else _REPLACEMENT

    def is_byte(self, token_id: int) -> bool:
        """Whether the piece is a single byte, used for characters outside the vocabulary."""
        return bool(self._processor.is_byte(token_id))

    def _bytes_of(self, token_id: int) -> bytes:
        piece = self.piece(token_id)
        if token_id <= PAD_ID or self._processor.is_control(token_id):
            return b""
        if self._processor.is_byte(token_id):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE_MARK, " ").encode()

    def _check_specials(self, name: str) -> None:
        processor = self._processor
        found = (processor.unk_id(), processor.bos_id(), processor.eos_id(), processor.pad_id())
        if found != (UNK_ID, BOS_ID, EOS_ID, PAD_ID):
            raise BadTokenizer(name, f"the ids of <unk> <bos> <eos> <pad> are {found}; they must be 0 1 2 3")
        pieces = tuple(self.piece(number) for number in found)
        if pieces != SPECIAL_PIECES:
            raise BadTokenizer(name, f"the first pieces are {' '.join(pieces)}, not {' '.join(SPECIAL_PIECES)}")

    def _find_byte_ids(self, name: str) -> dict[int, int]:
        found = {self._bytes[number][0]: number for number in range(self.vocab_size) if self.is_byte(number)}
        if len(found) != 256:
            raise BadTokenizer(name, f"{len(found)} byte pieces; a lossless vocabulary has all 256")
        return found

    def _plan(self, text: str) -> Iterator[str | list[int]]:
        """`text` as passages for SentencePiece and, between them, the ids of characters that it would mistake."""
        utf8(text)
        position = 0
        for match in self._unspeakable.finditer(text):
            yield from _passages(text[position : match.start()])
            yield [self._byte_ids[byte] for byte in match[0].encode()]
            position = match.end()
        yield from _passages(text[position:])


class StreamDecoder:
    """Turns ids into text as they come and never shows half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes; may be empty."""
        return self._decoder.decode(self._tokenizer.piece_bytes(token_id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed, else nothing."""
        return self._decoder.decode(b"", final=True)


def utf8(text: str, field: str = "text") -> bytes:
    """`text` in UTF-8; raises `InvalidSetting` of `field` for lone surrogates, which are no characters."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        found = f"a lone surrogate at character {error.start}"
        raise InvalidSetting(field, found, "complete Unicode characters") from None


def _passages(text: str) -> Iterator[str]:
    """`text` cut after line ends, else before spaces: where pieces end anyway. Within a very long word, anywhere."""
    start = 0
    while len(text) - start > _PASSAGE_CHARS:
        limit = start + _PASSAGE_CHARS
        cut = text.rfind("\n", start, limit) + 1 or text.rfind(" ", start + 1, limit)
        cut = cut if cut > start else limit
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]
