from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.text.tokenizer import PAD_ID
from textgen.training import memorization
from textgen.training.memorization import Memorization, measure_memorization

ids_of_text = st.lists(st.integers(0, 7), max_size=50)


def spelled(ids: Sequence[int]) -> str:
    return "".join(map(str, ids))


def naive(samples: list[list[int]], training: list[int]) -> tuple[int, float]:
    def parts(ids: list[int], size: int) -> list[tuple[int, ...]]:
        found = [tuple(ids[place : place + size]) for place in range(len(ids) - size + 1)]
        return [part for part in found if min(part) > PAD_ID]

    longest = 0
    for size in range(1, 51):
        known = set(parts(training, size))
        if any(part in known for sample in samples for part in parts(sample, size)):
            longest = size
    known = set(parts(training, 8))
    eights = [part for sample in samples for part in parts(sample, 8)]
    return longest, sum(part in known for part in eights) / max(1, len(eights))


@given(st.lists(ids_of_text, max_size=3), st.lists(ids_of_text, max_size=4), st.data())
def test_the_figures_are_exact(samples: list[list[int]], texts: list[list[int]], data: st.DataObject) -> None:
    training = [token for text in texts for token in (1, *text, 2)]
    place = data.draw(st.integers(0, len(training)))
    samples = [*samples, training[place : place + data.draw(st.integers(0, 40))]]
    found = measure_memorization(samples, np.array(training, np.uint16), spelled)
    assert (found.longest_tokens, found.copied_share) == naive(samples, training)
    assert len(found.longest_text) == found.longest_tokens
    assert found.longest_text in spelled(training)
    assert any(found.longest_text in spelled(sample) for sample in samples) or not found.longest_tokens


def test_passages_are_found_across_the_blocks_of_a_long_text_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memorization, "_BLOCK_TOKENS", 256)
    ids = np.random.default_rng(0).integers(4, 500, 20_000).astype(np.uint16)
    ids.tofile(tmp_path / "train.bin")
    mapped = np.memmap(tmp_path / "train.bin", np.uint16, "r")
    for start, length in ((250, 100), (0, 9), (19_991, 9), (512, 600)):
        sample = [501, *ids[start : start + length].tolist(), 501]
        found = measure_memorization([[501] * 20, sample], mapped, spelled)
        assert found.longest_tokens == length
        assert found.copied_share == pytest.approx((length - 7) / (13 + length - 5))
        assert found.longest_text == spelled(ids[start : start + length].tolist())


def test_no_passage_reaches_over_the_end_of_a_document() -> None:
    text = [9, 8, 7, 6, 2, 1, 5, 4, 9, 8]
    assert measure_memorization([text], np.array(text), spelled) == Memorization(4, "9876", 0.0)


def test_there_may_be_nothing_to_measure() -> None:
    nothing = Memorization(0, "", 0.0)
    assert measure_memorization([], np.array([1, 5, 2]), spelled) == nothing
    assert measure_memorization([[], [6]], np.array([1, 5, 2]), spelled) == nothing
    assert measure_memorization([[5]], np.zeros(0, np.uint16), spelled) == nothing
