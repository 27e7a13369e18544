from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from textgen.errors import InvalidSetting
from textgen.model import LanguageModel, RecurrentState


@pytest.fixture
def state(make_model: Callable[..., LanguageModel]) -> RecurrentState:
    model = make_model()
    token_ids = torch.randint(0, 23, (4, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(token_ids, model.initial_state(4))[1]


def same(left: RecurrentState, right: RecurrentState) -> bool:
    pairs = zip(left.named_tensors(), right.named_tensors(), strict=True)
    return all(a == b and torch.equal(x, y) and x.dtype == y.dtype for (a, x), (b, y) in pairs)


def test_rows_and_join_are_inverse(state: RecurrentState) -> None:
    joined = RecurrentState.join([state.rows([0]), state.rows(slice(1, 3)), state.rows(torch.tensor([3]))])
    assert same(joined, state)
    assert state.rows([2, 2, 0]).batch_size == 3
    assert same(state.rows([2, 2]).rows([1]), state.rows([2]))


def test_a_copy_is_independent(state: RecurrentState) -> None:
    copy = state.clone()
    copy.layers[0][0].zero_()
    assert not same(copy, state)


def test_bytes_round_trip_bit_for_bit(state: RecurrentState) -> None:
    assert same(RecurrentState.from_bytes(state.to_bytes()), state)
    half = state.to(dtype=torch.bfloat16)
    assert same(RecurrentState.from_bytes(half.to_bytes()), half)


def test_rows_can_be_forgotten(state: RecurrentState) -> None:
    forgotten = state.zeroed(torch.tensor([True, False, False, True]))
    assert same(forgotten.rows([1, 2]), state.rows([1, 2]))
    assert all(not tensor.any() for _, tensor in forgotten.rows([0, 3]).named_tensors())


@given(data=st.binary(max_size=200))
def test_junk_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(InvalidSetting, match="state"):
        RecurrentState.from_bytes(data)


def test_missing_layers_are_refused(state: RecurrentState) -> None:
    tensors = dict(state.named_tensors())
    del tensors["0.1"]
    with pytest.raises(InvalidSetting):
        RecurrentState.from_named_tensors({name: value for name, value in tensors.items() if name != "0.0"})
