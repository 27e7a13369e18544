"""The compiled way to choose tokens against the plain one, which `test_sampling` holds against the warpers."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.helpers import request
from textgen.config import GenerationSettings, parse_settings
from textgen.engine import token_choice
from textgen.engine.compiled_choice import choose_compiled
from textgen.engine.compiled_search import sum_of_exp
from textgen.engine.decoding import Choice
from textgen.engine.sampling import SampledSequence, Sampler
from textgen.engine.token_choice import Answer, Asked, best_chooser, choose_plainly, settings_row


def random_settings(random: np.random.Generator) -> GenerationSettings:
    """Each setting is on now and then, in all combinations, some at their ends.

    None are shares that a few tokens alike can have between them: there the last bit of a sum would decide.
    """
    choices: dict[str, list[Any]] = {
        "temperature": [0.0, 1e-300, 0.3, 0.8, 1.0, 1.7, 5.0],
        "top_k": [0, 0, 1, 3, 50, 700, 10**9],
        "top_p": [1.0, 1.0, 1e-9, 0.317, 0.8931, 0.9991],
        "min_p": [0.0, 0.0, 1e-9, 0.02, 0.5, 1.0],
        "typical_p": [1.0, 1.0, 1.0, 1e-9, 0.2, 0.95],
        "epsilon_cutoff": [0.0, 0.0, 0.0, 1e-4, 0.9],
        "eta_cutoff": [0.0, 0.0, 0.0, 1e-4, 0.9],
        "top_logprobs": [0, 0, 1, 5, 50],
    }
    values = {name: values[random.integers(len(values))] for name, values in choices.items()}
    return parse_settings(GenerationSettings, values)


def random_logits(random: np.random.Generator, rows: int, vocab_size: int) -> np.ndarray:
    """Flat, peaked, full of ties, mostly ruled out, all alike, zeros of both signs; not all of a kind."""
    logits = random.normal(0, 1, (rows, vocab_size)) * random.choice([0.1, 1, 4, 30], (rows, 1))
    ties = random.random(rows) < 0.3
    logits[ties] = np.round(logits[ties])
    logits[random.random(logits.shape) < random.choice([0.0, 0.0, 0.2, 0.99], (rows, 1))] = -math.inf
    logits[random.random(rows) < 0.1] = 2.5
    logits[:, random.integers(vocab_size)] = random.choice([-1.0, -0.0, 0.0, 3.0], rows)
    return logits.astype(np.float32)


def ask(random: np.random.Generator, logits: np.ndarray) -> Asked:
    """All kinds of rows at once: some with bans, some with scores of their own."""
    rows, vocab_size = logits.shape
    settings = np.array([settings_row(random_settings(random)) for _ in range(rows)])
    places = np.where(random.random(rows) < 0.3, 0, -1)
    places[places == 0] = np.arange((places == 0).sum())
    banned = [
        random.choice(vocab_size, random.integers(min(vocab_size, 4)), replace=False) if place < 0 else np.array([])
        for place in places
    ]
    processed = logits[places >= 0] + random.normal(0, 2, (int((places >= 0).sum()), 1)).astype(np.float32)
    processed[:, ::7] = -math.inf
    return Asked(
        settings,
        np.asarray(random.random(rows)),
        np.concatenate(banned).astype(np.int64),
        np.cumsum([ids.size for ids in banned]),
        processed,
        places,
    )


def answer(chooser: token_choice.Chooser, logits: np.ndarray, asked: Asked) -> Answer:
    room = Answer.room(asked.settings)
    room.chosen.fill(77)  # what was there before must not matter
    room.others.fill(77)
    chooser(logits, asked, room)
    return room


def without_meaning(found: Answer) -> tuple[np.ndarray, np.ndarray]:
    """The log-probabilities of what is no token mean nothing."""
    return tuple(np.where(part[..., :1] < 0, -1.0, part) for part in found)  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [1, 2, 15, 16, 17, 250, 1000, 4099])
def test_both_choose_the_same(vocab_size: int) -> None:
    random = np.random.default_rng(vocab_size)
    for _ in range(12 if vocab_size > 2000 else 40):
        logits = random_logits(random, 20, vocab_size)
        asked = ask(random, logits)
        chosen, others = without_meaning(answer(choose_compiled, logits, asked))
        expected, expected_others = without_meaning(answer(choose_plainly, logits, asked))
        np.testing.assert_array_equal(chosen[:, 0], expected[:, 0])
        np.testing.assert_array_equal(others[..., 0], expected_others[..., 0])
        np.testing.assert_allclose(chosen, expected, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(others, expected_others, rtol=1e-5, atol=2e-6)


def test_logits_stay_as_they_are_and_may_be_read_only_or_part_of_something() -> None:
    random = np.random.default_rng(0)
    whole = random_logits(random, 30, 700)
    asked = ask(random, whole[:10])
    expected = answer(choose_plainly, whole[:10], asked)
    before = whole.copy()
    whole.setflags(write=False)
    for logits in (whole[:10], np.asfortranarray(whole[:10]), whole[:10].copy()):
        found = answer(choose_compiled, logits, asked)
        np.testing.assert_array_equal(found.chosen[:, 0], expected.chosen[:, 0])
        np.testing.assert_array_equal(logits, before[:10])


@pytest.mark.slow
@given(st.lists(st.floats(width=32), min_size=1, max_size=70), st.integers(0, 2**32))
def test_whatever_the_logits_both_find_the_same_broken(values: list[float], seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = np.array([values, values[::-1]], dtype=np.float32)
    settings = np.array([settings_row(GenerationSettings(temperature=1.0)), settings_row(random_settings(random))])
    nothing = np.array([], dtype=np.int64)
    asked = Asked(settings, random.random(2), nothing, np.zeros(2, dtype=np.int64), logits[:0], np.array([-1, -1]))
    with np.errstate(invalid="ignore", over="ignore"):
        found, expected = (answer(chooser, logits, asked).chosen[:, 0] for chooser in (choose_compiled, choose_plainly))
    broken = bool(np.isnan(logits).any()) or not math.isfinite(logits.max())
    assert (found < 0).tolist() == (expected < 0).tolist() == [broken, broken]


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 50.0, 1e30])
def test_the_sum_of_exponentials_is_right(scale: float) -> None:
    """Through a function that Python may call; the largest, and so the sum's least value, is exp 0."""
    from textgen.compiled import compiled

    @compiled
    def summed(row: np.ndarray, highest: np.float32, factor: np.float32) -> float:
        return sum_of_exp(row, highest, factor)

    random = np.random.default_rng(3)
    for size in (1, 5, 511, 512, 513, 9001):
        row = random.normal(0, 3, size).astype(np.float32)
        row[random.random(size) < 0.2] = -math.inf
        row[0] = 20.0
        expected = float(np.exp((row.astype(np.float64) - 20.0) * scale)[row > -math.inf].sum()) if scale else size
        if not scale:
            row = np.maximum(row, np.float32(-9.0))
        assert summed(row, np.float32(20.0), np.float32(scale)) == pytest.approx(expected, rel=1e-6)


def test_without_numba_the_same_is_chosen_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logits = random_logits(np.random.default_rng(1), 8, 300)

    def choose() -> list[Any]:
        wanted = request(temperature=1.1, top_p=0.9, top_logprobs=2, forbidden_ids=frozenset({0, 3}))
        return Sampler([SampledSequence(wanted, seed) for seed in range(8)]).choose(logits)

    expected = choose()
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("compiled_search", "compiled_choice"):
        monkeypatch.delitem(sys.modules, f"textgen.engine.{name}", raising=False)
    monkeypatch.delitem(sys.modules, "textgen.compiled", raising=False)
    best_chooser.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            found = choose()
        assert best_chooser() is choose_plainly
    finally:
        best_chooser.cache_clear()
    assert "numba is not installed" in caplog.text
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Choice)
        assert one.event.token_id == other.event.token_id
        assert one.event.logprob == pytest.approx(other.event.logprob, abs=1e-5)


NOWHERE = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
ANEW = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": "cache"}
FULL_DISK = """
import numba.core.caching as caching
def save(*arguments): raise OSError(28, "No space left on device")
caching.IndexDataCacheFile.save = save
"""
BROKEN_COMPILER = """
import numba.core.compiler as compiler
def compile_extra(*arguments, **options): raise RuntimeError("out of order")
compiler.compile_extra = compile_extra
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preparation", "environment", "expected", "said"),
    [
        ("", NOWHERE, "choose_compiled", ""),
        (FULL_DISK, ANEW, "choose_compiled", ""),
        (BROKEN_COMPILER, NOWHERE, "choose_plainly", "chosen more slowly: out of order\n"),
    ],
    ids=["nowhere to keep it", "a full disk", "a broken compiler"],
)
def test_what_cannot_be_compiled_or_kept_is_no_trouble(
    tmp_path: Path, preparation: str, environment: dict[str, str], expected: str, said: str
) -> None:
    program = (
        f"{preparation}\n"
        "import logging; logging.basicConfig(format='%(message)s')\n"
        "from textgen.engine import token_choice\n"
        "token_choice.prepare_chooser()\n"
        "print(token_choice.best_chooser().__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(token_choice.__file__).parents[2]), **environment},
    )
    assert done.stdout == f"{expected}\n"
    assert done.stderr.endswith(said)
    assert bool(done.stderr) == bool(said)
