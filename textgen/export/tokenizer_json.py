"""A vocabulary as JSON, for programs that have no SentencePiece."""

from __future__ import annotations

import json

import numpy as np

from textgen.errors import BadTokenizer
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Tokenizer
from textgen.text.vocabulary import Piece, pieces, tokenizer_kind


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """All that encoding and decoding need: the kind of cutting and, for each id, [piece, score, type].

    Scores are those of 32 bits that SentencePiece adds up. Raises `BadTokenizer` for a vocabulary that has more than
    those which are made here: unused pieces, or symbols of several characters.
    """
    found = pieces(tokenizer)
    for number, piece in enumerate(found):
        if piece.type == "unused" or (piece.type == "symbol" and len(piece.text) > 1):
            problem = f"piece {number}, {piece.text!r}, is of a type that no vocabulary of this program has"
            raise BadTokenizer("tokenizer.model", problem)
    values = {
        "kind": tokenizer_kind(tokenizer),
        "unk_id": UNK_ID,
        "bos_id": BOS_ID,
        "eos_id": EOS_ID,
        "pad_id": PAD_ID,
        "pieces": [_plain(piece) for piece in found],
    }
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"


def _plain(piece: Piece) -> tuple[str, float, str]:
    """With the shortest decimals that give the same 32 bits."""
    return piece.text, float(str(np.float32(piece.score))), piece.type
