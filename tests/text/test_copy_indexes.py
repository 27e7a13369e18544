from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from textgen.errors import BadCheckpoint
from textgen.text.copy_indexes import CopyIndexes
from textgen.text.copying import CopyGuard, NgramIndex

TOKENIZER = "ab" * 32
OWN = np.arange(10, 60)
OLDER = np.arange(100, 160)


def index_of(ids: np.ndarray) -> NgramIndex:
    return NgramIndex.build(ids, tokenizer_sha256=TOKENIZER, max_bytes=20_000)


@pytest.fixture(scope="module")
def indexes() -> CopyIndexes:
    return CopyIndexes((index_of(OWN), index_of(OLDER)))


def test_copies_from_any_of_the_texts_are_found(indexes: CopyIndexes) -> None:
    text = [*OWN[:12], 5, *OLDER[20:32], 5, 5]
    assert indexes.copied_spans(text) == [(0, 12), (13, 25)]
    assert indexes.copied_share(text) == 24 / 27
    assert indexes.fewest_tokens == 8


def test_passages_that_overlap_are_one() -> None:
    first, second = np.arange(10, 40), np.arange(30, 60)
    both = CopyIndexes((index_of(first), index_of(second)))
    assert both.copied_spans(np.arange(10, 60)) == [(0, 50)]


def test_a_guard_keeps_from_copying_any_of_them(indexes: CopyIndexes) -> None:
    guard = CopyGuard(indexes.parts, 200)
    assert OWN[7] in list(guard(OWN[:7].tolist()))
    assert OLDER[7] in list(guard(OLDER[:7].tolist()))
    assert list(guard([5] * 7)) == sorted(set(guard([5] * 7)))
    assert list(CopyGuard((), 200)(OWN[:7].tolist())) == []


def test_bytes_hold_all_of_them(indexes: CopyIndexes) -> None:
    read = CopyIndexes.from_bytes(indexes.to_bytes(), tokenizer_sha256=TOKENIZER)
    assert [part.to_bytes() for part in read.parts] == [part.to_bytes() for part in indexes.parts]
    alone = CopyIndexes((index_of(OWN),)).to_bytes()
    assert len(CopyIndexes.from_bytes(alone, tokenizer_sha256=TOKENIZER).parts) == 1


def test_their_file_is_one_of_safetensors(indexes: CopyIndexes) -> None:
    tensors = load(indexes.to_bytes())
    assert {name: tensor.tobytes() for name, tensor in tensors.items()} == {
        f"text-{number}": part.to_bytes() for number, part in enumerate(indexes.parts)
    }


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"text-1": np.zeros(9, np.uint8)},
        {"text-0": np.zeros(9, np.float32)},
        {"text-0": np.zeros((3, 3), np.uint8)},
        {f"text-{number}": np.zeros(9, np.uint8) for number in range(65)},
    ],
)
def test_other_tensors_are_no_indexes(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(BadCheckpoint, match="not an index of copies"):
        CopyIndexes.from_bytes(save(tensors), tokenizer_sha256=TOKENIZER)


def test_the_models_own_text_stays_where_there_is_no_room(indexes: CopyIndexes) -> None:
    size = len(indexes.to_bytes())
    assert len(indexes.within(size).parts) == 2
    assert indexes.within(size - 1).parts == indexes.parts[:1]
    assert indexes.within(0).parts == indexes.parts[:1]


def test_another_vocabulary_is_refused(indexes: CopyIndexes) -> None:
    with pytest.raises(BadCheckpoint, match="tokenizer_sha256"):
        CopyIndexes.from_bytes(indexes.to_bytes(), tokenizer_sha256="cd" * 32)


@given(st.data())
def test_damaged_bytes_are_refused(data: st.DataObject) -> None:
    whole = CopyIndexes((index_of(OWN), index_of(OLDER))).to_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    damaged = whole[:place] if cut else whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
    with pytest.raises(BadCheckpoint):
        CopyIndexes.from_bytes(damaged, tokenizer_sha256=TOKENIZER)
