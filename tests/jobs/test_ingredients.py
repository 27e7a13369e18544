from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.grammar import make_text
from textgen.config import TextSettings
from textgen.jobs.ingredients import held_out_part
from textgen.text.corpus import Corpus, build_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text(make_text(characters=40_000) + "\n月明🙂" * 200, encoding="utf-8")
    settings = TextSettings(vocab_size=400, heldout=0.5)
    return build_corpus(folder / "corpus", [folder / "text.txt"], settings)


def test_a_text_of_usual_size_is_judged_by_all_that_is_held_out(corpus: Corpus) -> None:
    part = corpus.heldout
    assert part is not None
    for found in (held_out_part(corpus), held_out_part(corpus, max_tokens=len(part.ids))):
        assert found is not None
        assert np.array_equal(found.ids, part.ids)
        assert (found.chars, found.bytes) == (part.characters, part.bytes)


def test_of_a_large_text_passages_from_all_over_are_taken(corpus: Corpus) -> None:
    part = corpus.heldout
    assert part is not None
    found = held_out_part(corpus, max_tokens=1_280)
    assert found is not None
    assert len(found.ids) == 64 * 20
    assert found.ids.dtype == part.ids.dtype
    assert np.array_equal(found.ids[:20], part.ids[:20])
    assert np.array_equal(found.ids[-20:], part.ids[-20:])
    # The text is alike everywhere but at its end, where a character takes several tokens.
    assert found.chars / len(found.ids) == pytest.approx(part.characters / len(part.ids), rel=0.1)
    assert found.bytes / found.chars == pytest.approx(part.bytes / part.characters, rel=0.05)
    again = held_out_part(corpus, max_tokens=1_280)
    assert again is not None
    assert np.array_equal(found.ids, again.ids)


def test_even_a_few_tokens_are_a_judgement(corpus: Corpus) -> None:
    found = held_out_part(corpus, max_tokens=10)
    assert found is not None
    assert len(found.ids) == 10
    assert found.chars > 0


def test_where_nothing_is_held_out_there_is_nothing_to_judge_by(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(make_text(characters=5_000), encoding="utf-8")
    corpus = build_corpus(tmp_path / "corpus", [tmp_path / "text.txt"], TextSettings(vocab_size=400, heldout=0.0))
    assert held_out_part(corpus) is None
