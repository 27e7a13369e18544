from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from tests.text.samples import CHINESE, ENGLISH, TRICKY
from textgen.errors import BadTokenizer, InvalidSetting
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Tokenizer
from textgen.text.tokenizer_training import TokenizerKind, train_tokenizer

KINDS: tuple[TokenizerKind, ...] = ("unigram", "bpe", "char")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer([ENGLISH], kind=request.param, vocab_size=340).tokenizer


def sentencepiece_model(**changes: Any) -> bytes:
    options: dict[str, Any] = {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": 3,
        "bos_piece": "<bos>",
        "eos_piece": "<eos>",
        "vocab_size": 400,
        "hard_vocab_limit": False,
        "minloglevel": 4,
        **changes,
    }
    model = io.BytesIO()
    lines = iter(ENGLISH.splitlines())
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **options)
    return model.getvalue()


@pytest.mark.parametrize("text", TRICKY, ids=ascii)
def test_text_comes_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text())
def test_any_text_comes_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(PAD_ID < number < tokenizer.vocab_size for number in ids)


@given(st.text(alphabet=" \n▁ab<>0x\0\r\tü中", max_size=40))
def test_texts_of_awkward_characters_come_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_long_text_comes_back_and_arrays_hold_the_same_ids(tokenizer: Tokenizer) -> None:
    text = (ENGLISH + CHINESE).replace("\n", " ") * 60 + "x" * 20_000 + " " * 20_000 + "\n▁" * 300
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_array(text).tolist() == ids


def test_texts_encoded_together_are_encoded_as_alone(tokenizer: Tokenizer) -> None:
    texts = [ENGLISH, "", "▁", CHINESE, "a b"]
    assert tokenizer.encode_many(texts) == [tokenizer.encode(text) for text in texts]


@given(st.text())
def test_streaming_shows_whole_characters_only(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.stream()
    parts = [stream.push(number) for number in tokenizer.encode(text)]
    assert all("�" not in part or "�" in text for part in parts)
    assert "".join(parts) == text
    assert stream.flush() == ""


@given(st.lists(st.integers(-5, 400)))
def test_any_ids_decode_and_stream_alike(tokenizer: Tokenizer, ids: list[int]) -> None:
    stream = tokenizer.stream()
    streamed = "".join([stream.push(number) for number in ids]) + stream.flush()
    assert streamed == tokenizer.decode(ids)


def test_half_a_character_is_kept_back_until_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("𐍈")
    stream = tokenizer.stream()
    assert [stream.push(number) for number in ids[:-1]] == [""] * (len(ids) - 1)
    assert stream.flush() == "�"
    assert tokenizer.decode(ids[:-1]) == "�"


def test_specials_have_fixed_ids_and_no_text(tokenizer: Tokenizer) -> None:
    assert (UNK_ID, BOS_ID, EOS_ID, PAD_ID) == (0, 1, 2, 3)
    assert [tokenizer.piece(number) for number in range(4)] == ["<unk>", "<bos>", "<eos>", "<pad>"]
    assert tokenizer.decode([BOS_ID, *tokenizer.encode("a"), EOS_ID, PAD_ID, UNK_ID]) == "a"
    assert tokenizer.decode(np.array([BOS_ID, EOS_ID], np.uint16)) == ""


def test_pieces_spell_the_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the mill\n中")
    assert b"".join(tokenizer.piece_bytes(number) for number in ids) == "the mill\n中".encode()
    assert [tokenizer.piece(number) for number in ids[-3:]] == ["<0xE4>", "<0xB8>", "<0xAD>"]
    assert tokenizer.piece(ids[-4]) == "\n"


def test_unknown_piece_is_refused(tokenizer: Tokenizer) -> None:
    for number in (-1, tokenizer.vocab_size):
        with pytest.raises(InvalidSetting, match="token id"):
            tokenizer.piece(number)


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff"])
def test_lone_surrogates_are_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(InvalidSetting, match="surrogate"):
        tokenizer.encode(text)


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "tokenizer.model"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert loaded.sha256 == tokenizer.sha256
    assert re.fullmatch("[0-9a-f]{64}", loaded.sha256)
    assert loaded.to_bytes() == tokenizer.to_bytes() == path.read_bytes()
    assert loaded.encode(ENGLISH) == tokenizer.encode(ENGLISH)


@pytest.mark.parametrize("data", [b"", b"\0" * 300, b"not a model", "half"])
def test_damaged_model_is_refused(tokenizer: Tokenizer, data: bytes | str) -> None:
    if isinstance(data, str):
        data = tokenizer.to_bytes()[: len(tokenizer.to_bytes()) // 2]
    with pytest.raises(BadTokenizer, match=r"my\.model"):
        Tokenizer.from_bytes(data, "my.model")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTokenizer, match=r"no\.model"):
        Tokenizer.load(tmp_path / "no.model")


@pytest.mark.parametrize(
    "changes",
    [
        {"byte_fallback": False},
        {"normalization_rule_name": "nmt_nfkc"},
        {"normalization_rule_name": "nfkc"},
        {"normalization_rule_name": "nmt_nfkc_cf"},
        {"add_dummy_prefix": True},
        {"remove_extra_whitespaces": True},
        {"pad_id": -1},
        {"bos_id": 2, "eos_id": 1},
        {"bos_piece": "<s>"},
    ],
    ids=str,
)
def test_model_that_is_not_ours_or_not_lossless_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadTokenizer):
        Tokenizer.from_bytes(sentencepiece_model(**changes))


def test_lossless_model_of_others_is_taken() -> None:
    tokenizer = Tokenizer.from_bytes(sentencepiece_model())
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in TRICKY)


def test_model_that_knows_no_space_is_lossless_all_the_same() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["甲乙丙丁"]),
        model_writer=model,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        bos_piece="<bos>",
        eos_piece="<eos>",
        pad_id=3,
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=4,
    )
    tokenizer = Tokenizer.from_bytes(model.getvalue())
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in TRICKY)
