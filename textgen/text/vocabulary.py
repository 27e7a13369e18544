"""From one vocabulary to another: extending a SentencePiece model, and spelling one's pieces by another's."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import sentencepiece

from textgen.errors import BadTokenizer, InvalidSetting
from textgen.text.tokenizer import PAD_ID, SPACE_MARK, Tokenizer
from textgen.text.tokenizer_training import TokenizerKind, TokenizerTraining

BaseVocabulary = Literal["keep", "extend", "new"]

# Field numbers of sentencepiece_model.proto.
_PIECES, _TRAINER_SPEC, _MODEL_TYPE = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_PIECE_TYPES = {1: "normal", 2: "unknown", 3: "control", 4: "symbol", 5: "unused", 6: "byte"}
_KINDS: dict[int, TokenizerKind] = {1: "unigram", 2: "bpe", 4: "char"}
# What a new piece is likelier, in nats, than its spelling, for every piece that it saves.
_SAVED = 0.1
_VARINT, _EIGHT_BYTES, _LENGTH_DELIMITED, _FOUR_BYTES = 0, 1, 2, 5


def choose_vocabulary(
    base: Tokenizer | None,
    choice: BaseVocabulary,
    train: Callable[[TokenizerKind | None], TokenizerTraining],
) -> tuple[Tokenizer, str | None]:
    """The vocabulary for a new text, and a sentence on where it differs from what was asked.

    `train` makes one from the text, of a kind or, given None, of the kind that was asked for. With a `base` it is
    called only where the vocabulary is to be extended or made anew.
    """
    if base is None or choice == "new":
        training = train(None)
        return training.tokenizer, training.note
    if choice == "keep":
        return base, None
    training = train(tokenizer_kind(base))
    extended = extend_tokenizer(base, training.tokenizer)
    added = extended.vocab_size - base.vocab_size
    return extended, f"{added:,} pieces of the new text were added to the {base.vocab_size:,} of the base."


def tokenizer_kind(tokenizer: Tokenizer) -> TokenizerKind:
    """How the vocabulary cuts text; `BadTokenizer` for a kind of SentencePiece that is not ours."""
    for number, value in _fields(tokenizer.to_bytes()):
        if number == _TRAINER_SPEC and isinstance(value, bytes):
            for inner, kind in _fields(value):
                if inner == _MODEL_TYPE and isinstance(kind, int):
                    if kind not in _KINDS:
                        raise BadTokenizer("tokenizer.model", f"cannot be extended (model type {kind})")
                    return _KINDS[kind]
    return "unigram"  # the format's default


class Piece(NamedTuple):
    """A piece of a vocabulary. `type` is SentencePiece's: a "symbol" is what it calls user-defined."""

    text: str
    score: float
    type: str


def pieces(tokenizer: Tokenizer) -> list[Piece]:
    """All pieces in the order of their ids; `BadTokenizer` for damage that SentencePiece overlooks."""
    found: list[Piece] = []
    for number, value in _fields(tokenizer.to_bytes()):
        if number == _PIECES and isinstance(value, bytes):
            fields = dict(_fields(value))
            text, score, kind = fields.get(_PIECE), fields.get(_SCORE, bytes(4)), fields.get(_TYPE, 1)
            if not isinstance(text, bytes) or not isinstance(score, bytes) or kind not in _PIECE_TYPES:
                raise BadTokenizer("tokenizer.model", "not a SentencePiece model")
            found.append(Piece(text.decode(), struct.unpack("<f", score)[0], _PIECE_TYPES[kind]))
    return found


def extend_tokenizer(base: Tokenizer, other: Tokenizer) -> Tokenizer:
    """`base` with the pieces of `other` that it lacks; its own keep their ids, and it stays lossless.

    A new piece stands where its spelling stood: in a unigram vocabulary its score is little above that of the pieces
    that spell it, so that nothing else is cut otherwise; in a BPE vocabulary it is merged after all merges of the base,
    in the order of `other`, and left out where it could not come about so. Raises `InvalidSetting` where the two are of
    different kinds.
    """
    kind = tokenizer_kind(base)
    if tokenizer_kind(other) != kind:
        raise InvalidSetting("base_vocabulary", tokenizer_kind(other), f"pieces of the base's kind, which is {kind}")
    known = {base.piece(number) for number in range(base.vocab_size)}
    lacking = [
        number
        for number in range(PAD_ID + 1, other.vocab_size)
        if other.piece(number) not in known and not other.is_byte(number)
    ]
    processor = _processor(base)
    if kind != "bpe":
        spelled = [(other.piece(number), base.encode(_text(other.piece(number)))) for number in lacking]
        return _with_pieces(
            base,
            [(piece, sum(map(processor.get_score, ids)) + _SAVED * (len(ids) - 1)) for piece, ids in spelled],
        )
    lacking.sort(key=_processor(other).get_score, reverse=True)
    lowest = min(float(processor.get_score(number)) for number in range(base.vocab_size))
    merges = [(other.piece(number), lowest - 1 - rank) for rank, number in enumerate(lacking)]
    tried = _with_pieces(base, merges)
    reached = {tried.piece(number) for piece, _ in merges for number in tried.encode(_text(piece))}
    return _with_pieces(base, [(piece, score) for piece, score in merges if piece in reached])


def spellings(tokenizer: Tokenizer, base: Tokenizer) -> list[tuple[int, ...]]:
    """For every piece of `tokenizer` the ids by which `base` spells it: a single one where both know it.

    Empty where the base has no such thing, as with control pieces of other names.
    """
    ids = {base.piece(number): number for number in range(base.vocab_size)}
    found: list[tuple[int, ...]] = []
    for number in range(tokenizer.vocab_size):
        piece = tokenizer.piece(number)
        if piece in ids:
            found.append((ids[piece],))
        else:
            found.append(tuple(base.encode(_text(piece))) if tokenizer.piece_bytes(number) else ())
    return found


def same_pieces(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether both have the same pieces under the same ids, however their files came about."""
    if one.vocab_size != other.vocab_size:
        return False
    return all(one.piece(number) == other.piece(number) for number in range(one.vocab_size))


def _text(piece: str) -> str:
    return piece.replace(SPACE_MARK, " ")


def _processor(tokenizer: Tokenizer) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(tokenizer.to_bytes())
    return processor


def _with_pieces(base: Tokenizer, pieces: Sequence[tuple[str, float]]) -> Tokenizer:
    """Protocol buffers that are written one after the other are read as one whose lists are joined."""
    added = bytearray()
    for piece, score in pieces:
        name = piece.encode()
        message = _tag(_PIECE, _LENGTH_DELIMITED) + _varint(len(name)) + name
        message += _tag(_SCORE, _FOUR_BYTES) + struct.pack("<f", score)
        added += _tag(_PIECES, _LENGTH_DELIMITED) + _varint(len(message)) + message
    return Tokenizer.from_bytes(base.to_bytes() + bytes(added))


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message's fields; numbers of fixed width come as their bytes."""
    position = 0
    try:
        while position < len(data):
            tag, position = _read_varint(data, position)
            wire_type = tag & 7
            if wire_type == _VARINT:
                value, position = _read_varint(data, position)
                yield tag >> 3, value
                continue
            if wire_type == _LENGTH_DELIMITED:
                size, position = _read_varint(data, position)
            else:
                size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}[wire_type]
            yield tag >> 3, data[position : position + size]
            position += size
    except (IndexError, KeyError):
        raise BadTokenizer("tokenizer.model", "not a SentencePiece model") from None


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
