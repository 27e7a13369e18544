"""The vocabulary as JSON says what SentencePiece says; that it is cut alike is tested in a browser."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sentencepiece

from tests.text.samples import ENGLISH
from textgen.errors import BadTokenizer
from textgen.export.tokenizer_json import tokenizer_json
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Tokenizer
from textgen.text.tokenizer_training import TokenizerKind, train_tokenizer
from textgen.text.vocabulary import extend_tokenizer


def small(kind: TokenizerKind) -> Tokenizer:
    return train_tokenizer([ENGLISH], kind=kind, vocab_size=320).tokenizer


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
def test_it_holds_every_piece_with_its_score_and_type(kind: TokenizerKind) -> None:
    more = train_tokenizer(["Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. "], kind=kind, vocab_size=300)
    tokenizer = extend_tokenizer(small(kind), more.tokenizer)
    found = json.loads(tokenizer_json(tokenizer))
    assert (found["kind"], len(found["pieces"])) == (kind, tokenizer.vocab_size)
    assert [found[f"{name}_id"] for name in ("unk", "bos", "eos", "pad")] == [UNK_ID, BOS_ID, EOS_ID, PAD_ID]
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.to_bytes())
    for number, (piece, score, type_) in enumerate(found["pieces"]):
        assert piece == processor.id_to_piece(number)
        assert np.float32(score) == processor.get_score(number)
        assert (type_ == "byte") == processor.is_byte(number)
        assert (type_ == "control") == processor.is_control(number)
        assert (type_ == "unknown") == processor.is_unknown(number)
        assert (type_ == "symbol") == (piece == "\n")


# A message of the format: a piece's text, score (here left out) and type.
@pytest.mark.parametrize(("type_", "text"), [(5, b"qqq"), (4, b"qqq")], ids=["unused", "long symbol"])
def test_what_would_be_cut_otherwise_is_refused_by_name(type_: int, text: bytes) -> None:
    message = bytes([0x0A, len(text)]) + text + bytes([0x18, type_])
    odd = Tokenizer.from_bytes(small("bpe").to_bytes() + bytes([0x0A, len(message)]) + message)
    with pytest.raises(BadTokenizer, match=f"piece {odd.vocab_size - 1}, 'qqq'"):
        tokenizer_json(odd)
