from __future__ import annotations

import numpy as np
import pytest

from tests.engine.helpers import request
from textgen.config import GenerationSettings
from textgen.engine import GenerationRequest, Snapshot
from textgen.engine.requests import hypothesis_score
from textgen.errors import InvalidSetting
from textgen.limits import Limits


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (GenerationRequest(()), "prompt: an empty prompt was given; allowed: at least one token."),
        (request(1, 10), "prompt_ids: 10 was given; allowed: token ids from 0 to 9."),
        (request(1, -1), "prompt_ids: -1 was given; allowed: token ids from 0 to 9."),
        (request(1, eos_id=11), "eos_id: 11 was given; allowed: token ids from 0 to 9."),
        (request(1, forbidden_ids=frozenset({99})), "forbidden_ids: 99 was given; allowed: token ids from 0 to 9."),
        (
            request(1, eos_id=0, forbidden_ids=frozenset(range(1, 10))),
            "forbidden_ids: all 10 tokens was given; allowed: at least one token beside the end token.",
        ),
        (request(1, max_new_tokens=51), "max_new_tokens: 51 was given; allowed: at most 50."),
        (
            GenerationRequest((1,), GenerationSettings().model_copy(update={"max_new_tokens": 0})),
            "max_new_tokens: 0 was given; allowed: at least 1.",
        ),
        (request(1, num_beams=9), "num_beams: 9 was given; allowed: at most 8."),
        (request(1, num_samples=9), "num_samples: 9 was given; allowed: at most 8."),
        (request(1, logit_bias={3: 1.0, 10: -1.0}), "logit_bias: 10 was given; allowed: token ids from 0 to 9."),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(wanted: GenerationRequest, sentence: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        wanted.check(vocab_size=10, limits=Limits(max_new_tokens=50, max_beams=8))
    assert str(caught.value) == sentence


def test_more_beams_than_rows_are_refused_rather_than_left_waiting_for_ever() -> None:
    for settings in ({"num_beams": 5}, {"num_samples": 5}):
        with pytest.raises(InvalidSetting, match="at most 4"):
            request(1, **settings).check(vocab_size=10, limits=Limits(max_beams=8, max_rows=4))


def test_what_lies_on_the_edge_is_allowed() -> None:
    wanted = request(0, 9, num_beams=8, max_new_tokens=50, eos_id=9, forbidden_ids=frozenset(range(1, 10)))
    wanted.check(vocab_size=10, limits=Limits(max_new_tokens=50, max_beams=8))
    request(1, num_samples=8, logit_bias={0: 1.0, 9: 1.0}).check(vocab_size=10, limits=Limits(max_beams=8))


def test_a_snapshot_stands_for_the_text_before_the_prompt() -> None:
    start = Snapshot("0" * 64, (7, 8), np.zeros(3, dtype=np.float32))
    for prompt in ((), (5,)):
        wanted = GenerationRequest(prompt, start=start)
        assert wanted.context_ids == (7, 8, *prompt)
        wanted.check(vocab_size=10, limits=Limits())
    assert GenerationRequest((5,)).context_ids == (5,)


def test_rows_are_beams_or_samples() -> None:
    assert [request(**one).rows for one in ({}, {"num_beams": 3}, {"num_samples": 4})] == [1, 3, 4]


def test_the_score_divides_by_a_power_of_the_length() -> None:
    assert hypothesis_score(-6.0, 3, 1.0) == -2.0
    assert hypothesis_score(-6.0, 2, 2.0) == -1.5
    assert hypothesis_score(-6.0, 3, 0.0) == -6.0
    assert hypothesis_score(-6.0, 2, -1.0) == -12.0
    assert hypothesis_score(0.0, 0, -1.0) == 0.0
