from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.errors import InvalidSetting, NoText
from textgen.text.batches import Batch, StreamBatches
from textgen.text.tokenizer import BOS_ID, EOS_ID


def numbered(count: int) -> np.ndarray:
    """A stream of ids that are all different, so that a token tells where it stood."""
    return np.arange(10, 10 + count, dtype=np.uint32)


def epoch_of(batches: StreamBatches) -> list[Batch]:
    return [batches.next() for _ in range(batches.windows_per_epoch)]


sizes = {"batch_size": st.integers(1, 20), "window": st.integers(1, 20), "seed": st.integers(0, 2**63 - 1)}


@given(st.integers(2, 300), st.fixed_dictionaries(sizes))
def test_rows_of_an_epoch_are_contiguous_and_disjoint(count: int, options: dict[str, Any]) -> None:
    batches = StreamBatches(numbered(count), **options)
    epoch = epoch_of(batches)
    inputs, targets = (
        np.concatenate([getattr(batch, name) for batch in epoch], axis=1) for name in ("inputs", "targets")
    )
    assert inputs.dtype == targets.dtype == np.int64
    assert all(batch.inputs.shape == (batches.batch_size, batches.window) for batch in epoch)
    assert [batch.fresh for batch in epoch] == [True] + [False] * (len(epoch) - 1)
    assert np.all(inputs[:, 0] == BOS_ID)
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    assert np.all((targets[:, 1:] - targets[:, :-1]) % count == 1 % count)
    assert len(np.unique(targets)) == targets.size
    assert batches.position == (1, 0)


@given(st.integers(2, 300), st.fixed_dictionaries(sizes))
def test_small_texts_are_fitted_and_little_is_left_over(count: int, options: dict[str, Any]) -> None:
    batches = StreamBatches(numbered(count), **options)
    assert 1 <= batches.batch_size <= options["batch_size"]
    assert 1 <= batches.window <= options["window"]
    assert batches.tokens_per_window == batches.batch_size * batches.window
    used = batches.windows_per_epoch * batches.tokens_per_window
    assert count / 2 < used <= count


def test_sizes_that_fit_are_taken_as_they_are() -> None:
    batches = StreamBatches(numbered(16 * 480), batch_size=16, window=48, seed=0)
    assert (batches.batch_size, batches.window, batches.windows_per_epoch) == (16, 48, 10)


@given(st.fixed_dictionaries(sizes), st.integers(0, 3), st.data())
def test_a_batch_depends_on_seed_and_position_only(options: dict[str, Any], epoch: int, data: st.DataObject) -> None:
    ids = numbered(100)
    there = StreamBatches(ids, **options)
    window = data.draw(st.integers(0, there.windows_per_epoch - 1))
    walked = StreamBatches(ids, **options)
    for _ in range(epoch * walked.windows_per_epoch + window):
        walked.next()
    there.position = (epoch, window)
    assert walked.position == (epoch, window)
    expected, found = walked.next(), there.next()
    assert np.array_equal(expected.inputs, found.inputs)
    assert np.array_equal(expected.targets, found.targets)
    assert (expected.fresh, walked.position) == (found.fresh, there.position)


def test_epochs_and_seeds_begin_elsewhere() -> None:
    firsts = set()
    for seed in range(3):
        batches = StreamBatches(numbered(1000), batch_size=1, window=1000, seed=seed)
        firsts |= {int(batches.next().targets[0, 0]) for _ in range(3)}
    assert len(firsts) == 9


def test_beginning_of_a_document_is_never_a_target_and_resets_where_asked() -> None:
    document = [BOS_ID, 7, 8, EOS_ID]
    ids = np.array(document * 6, np.uint16)
    batches = StreamBatches(ids, batch_size=2, window=12, seed=3, reset_at_document_ends=True)
    batch = batches.next()
    assert batch.resets is not None
    assert np.array_equal(batch.resets, batch.inputs == BOS_ID)
    assert batch.resets[:, 0].all()
    assert (
        np.array_equal(batch.targets == StreamBatches.IGNORE, np.roll(batch.inputs, -1, axis=1) == BOS_ID)
        or (batch.targets[:, -1] != StreamBatches.IGNORE).any()
    )
    assert np.count_nonzero(batch.targets == StreamBatches.IGNORE) == 6
    assert not np.any(batch.targets == BOS_ID)
    assert StreamBatches(ids, batch_size=2, window=12, seed=3).next().resets is None


def test_stream_is_not_changed(tmp_path: Any) -> None:
    path = tmp_path / "ids.bin"
    np.array([BOS_ID, 5, 6, EOS_ID], np.uint16).tofile(path)
    ids = np.memmap(path, np.uint16, mode="r")
    batches = StreamBatches(ids, batch_size=1, window=4, seed=0)
    batches.next().inputs[:] = 99
    assert ids.tolist() == [BOS_ID, 5, 6, EOS_ID]


def test_bad_sizes_and_positions_are_refused() -> None:
    for count in (0, 1):
        with pytest.raises(NoText):
            StreamBatches(numbered(count), batch_size=1, window=1, seed=0)
    for batch_size, window in ((0, 1), (1, 0)):
        with pytest.raises(InvalidSetting):
            StreamBatches(numbered(9), batch_size=batch_size, window=window, seed=0)
    batches = StreamBatches(numbered(9), batch_size=1, window=3, seed=0)
    for position in ((-1, 0), (0, -1), (0, 4)):
        with pytest.raises(InvalidSetting, match="position"):
            batches.position = position
    batches.position = (0, 3)
    assert batches.position == (1, 0)
