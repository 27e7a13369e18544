from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.text.fuse_filter import FuseFilter, most_keys


def random_keys(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    # Many keys with the same group, as n-grams with the same beginning have.
    groups = random.integers(0, 2**64, max(1, count // 3), dtype=np.uint64)
    return random.integers(0, 2**64, count, dtype=np.uint64), random.choice(groups, count)


@given(st.integers(0, 3_000), st.integers(8, 16), st.integers(0, 2**32))
def test_all_keys_are_found_and_few_others(count: int, bits: int, seed: int) -> None:
    keys, groups = random_keys(count, seed)
    made = FuseFilter.build(keys, groups, bits)
    shape = {"seed": made.seed, "bits": bits, "segment_length": made.segment_length, "segments": made.segments}
    read = FuseFilter.from_bytes(made.to_bytes(), **shape)
    assert read.contains(keys, groups).all()
    others = random_keys(4_096, seed + 1)
    assert read.contains(*others).sum() <= 60  # 16 at 8 bits
    assert (read.contains(*others) == made.contains(*others)).all()


def test_keys_of_a_group_lie_together() -> None:
    keys, _ = random_keys(3_000, 0)
    groups, _ = random_keys(3_000, 1)
    groups[:150] = groups[150:300]
    made = FuseFilter.build(keys, groups, 8)
    assert made.is_grouped
    slots = made._slots(keys, groups)
    for group in groups[:20]:
        segments = made.segments_of(np.array([group]))
        assert segments.shape == (4, made.segment_length)
        first = int(segments.ctypes.data - made.fingerprints.ctypes.data) // 2
        assert ((slots[:, groups == group] - first) // made.segment_length == np.arange(4)[:, None]).all()


def test_too_many_keys_of_a_group_lie_apart() -> None:
    keys, _ = random_keys(5_000, 0)
    made = FuseFilter.build(keys, np.zeros_like(keys), 8)
    assert not made.is_grouped
    assert made.contains(keys, np.zeros_like(keys)).all()


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_large_ones_take_little_more_than_their_bits(bits: int) -> None:
    keys, groups = random_keys(100_000, 0)
    made = FuseFilter.build(keys, groups, bits)
    assert made.contains(keys, groups).all()
    assert len(made.to_bytes()) * 8 < 1.14 * bits * len(keys)
    assert made.contains(*random_keys(1_000_000, 1)).mean() == pytest.approx(2**-bits, rel=0.5, abs=2e-5)


@pytest.mark.parametrize("max_bytes", [0, 10, 63, 64, 1_000, 99_999, 700_000])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_what_is_said_to_fit_fits(max_bytes: int, bits: int) -> None:
    most = most_keys(max_bytes, bits)
    if most and most <= 100_000:
        assert len(FuseFilter.build(*random_keys(most, 0), bits).to_bytes()) <= max_bytes
    assert most > 0.8 * max_bytes * 8 / bits or max_bytes <= 1_000


@pytest.mark.parametrize(
    "change",
    [{"bits": 7}, {"bits": 17}, {"segments": 0}, {"segments": 2**31}, {"segment_length": 0}, {"segment_length": 48},
     {"segment_length": 2**30}],
)  # fmt: skip
def test_a_shape_that_does_not_fit_is_refused(change: dict[str, int]) -> None:
    made = FuseFilter.build(*random_keys(300, 0), 8)
    shape = {"seed": made.seed, "bits": 8, "segment_length": made.segment_length, "segments": made.segments}
    with pytest.raises(ValueError, match="segments"):
        FuseFilter.from_bytes(made.to_bytes(), **{**shape, **change})
