from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from textgen.engine.snapshots import Snapshot
from textgen.errors import InvalidSetting

MODEL, OTHER_MODEL = "0a" * 32, "0b" * 32
states = arrays.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
snapshots = st.builds(
    Snapshot,
    model_hash=st.text("0123456789abcdef", min_size=64, max_size=64),
    token_ids=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30).map(tuple),
    state=states,
)


def snapshot(*token_ids: int, model: str = MODEL, state_size: int = 6) -> Snapshot:
    return Snapshot(model, token_ids or (1, 7, 5), np.linspace(-1, 1, state_size, dtype=np.float32))


def saved(tensors: dict[str, np.ndarray], made_by: str | None = None) -> bytes:
    """Tensors with what `snapshot` would say of itself, or another word."""
    written = snapshot().to_bytes()
    header = json.loads(written[8 : 8 + int.from_bytes(written[:8], "little")])
    return safetensors.numpy.save(tensors, {"made_by": made_by or header["__metadata__"]["made_by"]})


@given(snapshots)
def test_saved_and_read_it_is_the_same(snapshot: Snapshot) -> None:
    read = Snapshot.from_bytes(snapshot.to_bytes())
    assert read == snapshot
    assert hash(read) == hash(snapshot)
    assert (read.model_hash, read.token_ids) == (snapshot.model_hash, snapshot.token_ids)
    assert read.state.tobytes() == snapshot.state.tobytes()
    assert read.to_bytes() == snapshot.to_bytes()


def test_snapshots_differ_where_any_part_does() -> None:
    one = snapshot(1, 2)
    assert one == snapshot(1, 2)
    assert one != snapshot(1, 3)
    assert one != snapshot(1, 2, model=OTHER_MODEL)
    assert one != Snapshot(MODEL, (1, 2), one.state + 1)
    assert one != (1, 2)


def test_a_snapshot_is_a_value_of_its_own() -> None:
    pool = np.ones((3, 4), dtype=np.float32)
    taken = Snapshot(MODEL, (1,), pool[1])
    pool[:] = 0
    assert taken.state.tolist() == [1, 1, 1, 1]
    assert taken.state.base is None
    with pytest.raises(ValueError, match="read-only"):
        taken.state[0] = 5


@given(data=st.data())
def test_no_damage_goes_unnoticed(data: st.DataObject) -> None:
    whole = snapshot().to_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.sampled_from(("changed", "cut", "missing")))
    if damage == "changed":
        flipped = whole[place] ^ data.draw(st.integers(1, 255))
        damaged = whole[:place] + bytes([flipped]) + whole[place + 1 :]
    else:
        damaged = whole[:place] + (b"" if damage == "cut" else whole[place + 1 :])
    # That a blank in the header became another blank is no damage.
    with suppress(InvalidSetting):
        assert Snapshot.from_bytes(damaged) == snapshot()


def test_every_byte_of_the_content_is_watched_over() -> None:
    whole = bytearray(snapshot().to_bytes())
    header_ends = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) - header_ends == 6 * 4 + 3 * 4
    for place in range(header_ends, len(whole)):
        whole[place] ^= 1
        with pytest.raises(InvalidSetting, match="made_by"):
            Snapshot.from_bytes(bytes(whole))
        whole[place] ^= 1
    assert Snapshot.from_bytes(bytes(whole)) == snapshot()


@given(st.binary(max_size=200))
def test_wild_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidSetting, match=r"snapshot: .* bytes was given; allowed: bytes of a saved snapshot"):
        Snapshot.from_bytes(data)


IDS, STATE = np.array([1, 7, 5], dtype=np.uint32), np.linspace(-1, 1, 6, dtype=np.float32)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (saved({"token_ids": IDS, "state": STATE}, "another program"), "made_by"),
        (saved({"token_ids": IDS, "state": STATE}, f"textgen-snapshot version 1 of model {MODEL[1:]}"), "model_hash"),
        (saved({"token_ids": IDS, "state": STATE}, f"textgen-snapshot version 2 of {MODEL}"), "format version"),
        (saved({"token_ids": IDS, "state": STATE}, f"textgen-snapshot version 1 of model {MODEL}"), "made_by"),
        (safetensors.numpy.save({"token_ids": IDS, "state": STATE}), "made_by"),
        (saved({"token_ids": IDS}), "snapshot"),
        (saved({"token_ids": IDS, "state": STATE, "more": STATE}), "snapshot"),
        (saved({"token_ids": IDS[:0], "state": STATE}), "token_ids"),
        (saved({"token_ids": IDS[None], "state": STATE}), "token_ids"),
        (saved({"token_ids": IDS.astype(np.int64), "state": STATE}), "token_ids"),
        (saved({"token_ids": IDS[:2], "state": STATE}), "made_by"),
        (saved({"token_ids": IDS, "state": STATE[:4]}), "made_by"),
        (saved({"token_ids": IDS, "state": STATE[:0]}), "state"),
        (saved({"token_ids": IDS, "state": STATE[None]}), "state"),
        (saved({"token_ids": IDS, "state": STATE.astype(np.float64)}), "state"),
        (saved({"token_ids": IDS, "state": np.full(6, np.inf, np.float32)}), "state"),
        (saved({"token_ids": IDS, "state": np.full(6, np.nan, np.float32)}), "state"),
    ],
)
def test_what_lies_about_itself_is_refused_by_the_name_of_the_field(data: bytes, field: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Snapshot.from_bytes(data)
    assert caught.value.params["field"] == field


def test_the_bytes_made_for_these_tests_are_right_where_nothing_is_changed() -> None:
    assert Snapshot.from_bytes(saved({"token_ids": IDS, "state": STATE})) == snapshot(1, 7, 5)


@pytest.mark.parametrize(
    ("model_hash", "token_ids", "state", "field"),
    [
        ("xyz", (1,), STATE, "model_hash"),
        (MODEL.upper(), (1,), STATE, "model_hash"),
        (MODEL, (), STATE, "token_ids"),
        (MODEL, (1, -1), STATE, "token_ids"),
        (MODEL, (1, 2**32), STATE, "token_ids"),
        (MODEL, (1,), STATE[:, None], "state"),
    ],
)
def test_what_no_model_can_have_left_is_refused(
    model_hash: str, token_ids: tuple[int, ...], state: np.ndarray, field: str
) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Snapshot(model_hash, token_ids, state)
    assert caught.value.params["field"] == field


def test_a_snapshot_refuses_another_model() -> None:
    taken = snapshot(1, 9)
    taken.check(model_hash=MODEL, state_size=6, vocab_size=10)
    with pytest.raises(
        InvalidSetting, match=r"snapshot: one of model 0a0a0a0a0a0a… was given; allowed: .*0b0b0b0b0b0b…"
    ):
        taken.check(model_hash=OTHER_MODEL, state_size=6, vocab_size=10)
    with pytest.raises(InvalidSetting, match="snapshot: a state of 6 numbers was given; allowed: 7 numbers"):
        taken.check(model_hash=MODEL, state_size=7, vocab_size=10)
    with pytest.raises(InvalidSetting, match="snapshot: token 9 was given; allowed: token ids from 0 to 8"):
        taken.check(model_hash=MODEL, state_size=6, vocab_size=9)
