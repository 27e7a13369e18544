from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import log
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.grammar import make_text
from textgen.engine.requests import Alternative, Event, FinishedEvent, Hypothesis, TokenEvent, TokenScore, TreeNode
from textgen.engine.streams import GenerationStream
from textgen.errors import EngineClosed
from textgen.text.stop import StopStrings
from textgen.text.tokenizer import BOS_ID, EOS_ID, Tokenizer
from textgen.text.tokenizer_training import train_tokenizer
from textgen.text_stream import TextDelta, TextEnd, TextStream


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([make_text(characters=5_000)], kind="unigram", vocab_size=320).tokenizer


class Engine:
    """The stream of an engine that gives what it was told to."""

    seed = 7
    writing_seconds = 0.5
    backend_name = "made up"

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def cancel(self) -> None: ...

    def score(self, token_ids: Sequence[int], *, top_logprobs: int = 0) -> tuple[TokenScore, ...]:
        others = tuple(Alternative(EOS_ID, -4.0, -4.0) for _ in range(top_logprobs))
        return tuple(TokenScore(token_id, -float(index), others) for index, token_id in enumerate(token_ids))


def written(
    tokenizer: Tokenizer, *samples: Sequence[int], stop: Sequence[str] = (), reason: str = "length"
) -> tuple[list[TextDelta], TextEnd]:
    """What comes of samples of these tokens, which take turns."""
    events: list[Event] = []
    for index in range(max(map(len, samples))):
        for sample, ids in enumerate(samples):
            if index < len(ids):
                events.append(token(ids[index], index, sample))
    hypotheses = tuple(Hypothesis(tuple(ids), -1.0, True, cast("Any", reason)) for ids in samples)
    events.append(FinishedEvent(cast("Any", reason), hypotheses))
    stream = TextStream(cast("GenerationStream", Engine(events)), tokenizer, StopStrings(stop))
    *deltas, end = list(stream)
    assert isinstance(end, TextEnd)
    return [delta for delta in deltas if isinstance(delta, TextDelta)], end


def token(token_id: int, index: int, sample: int = 0) -> TokenEvent:
    others = (
        Alternative(token_id, log(0.5), log(0.6)),
        Alternative(EOS_ID, log(0.2), 0.0),
        Alternative(BOS_ID, -9.0, 0.0),
    )
    return TokenEvent(token_id, log(0.5), index, sample, log(0.25), others)


@given(text=st.text(min_size=1, max_size=30), cut=st.integers(0, 40), stop=st.text(max_size=2))
def test_tokens_make_up_the_text_whatever_was_cut(tokenizer: Tokenizer, text: str, cut: int, stop: str) -> None:
    ids = tokenizer.encode(text)[: cut + 1]
    deltas, end = written(tokenizer, ids, stop=[stop] if stop else [])
    (sample,) = end.samples
    assert "".join(part.text for part in sample.tokens) == sample.text == end.text
    assert "".join(delta.text for delta in deltas) == end.text
    assert [part.start for part in sample.tokens] == [
        sum(len(before.text) for before in sample.tokens[:number]) for number in range(len(sample.tokens))
    ]
    assert all(part.text for part in sample.tokens)


def test_tokens_that_hold_parts_of_one_character_are_joined(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a鹤b")
    assert len(ids) > 3
    _, end = written(tokenizer, ids)
    crane = next(part for part in end.samples[0].tokens if "鹤" in part.text)
    assert crane.text == "鹤"
    assert crane.logprob == pytest.approx(3 * log(0.5))
    assert crane.warped_logprob == pytest.approx(3 * log(0.25))
    # Beside the first byte of a character there is nothing to offer but whole characters and the end.
    assert [other.text for other in crane.alternatives] == [""]


def test_a_character_that_was_never_completed_is_shown_as_such(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("鹤")
    _, end = written(tokenizer, ids[:1])
    assert [part.text for part in end.samples[0].tokens] == ["\ufffd"]
    _, end = written(tokenizer, [ids[0], ids[0]])
    assert "".join(part.text for part in end.samples[0].tokens) == end.text == "\ufffd\ufffd"


def test_the_end_of_a_text_is_a_token_too(tokenizer: Tokenizer) -> None:
    _, end = written(tokenizer, [*tokenizer.encode("the end"), EOS_ID], reason="eos")
    *_, last = end.samples[0].tokens
    assert (last.text, last.start) == ("", len("the end"))
    assert [other.text for other in last.alternatives] == ["", ""]


def test_what_lies_behind_a_stop_string_is_no_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one two three")
    _, end = written(tokenizer, ids, stop=["o th"], reason="stop")
    assert end.text == "one tw"
    assert "".join(part.text for part in end.samples[0].tokens) == "one tw"


def test_samples_are_told_apart(tokenizer: Tokenizer) -> None:
    deltas, end = written(tokenizer, tokenizer.encode("the cat"), tokenizer.encode("a heron"))
    for number, text in enumerate(("the cat", "a heron")):
        assert "".join(delta.text for delta in deltas if delta.sample == number) == text
        assert end.samples[number].text == text
    assert all(before.tokens <= after.tokens for before, after in pairwise(deltas))
    assert end.tokens == len(tokenizer.encode("the cat")) + len(tokenizer.encode("a heron"))
    assert end.text == "the cat"


def test_a_search_has_a_tree_and_its_best_text_is_scored(tokenizer: Tokenizer) -> None:
    (the, *_), (cat, *_), (byte, *_) = (tokenizer.encode(text) for text in ("the", " c", "鹤"))
    tree = (
        TreeNode(the, -1, -0.5, False),
        TreeNode(byte, -1, -0.7, False),
        TreeNode(cat, 0, -0.9, False),
        TreeNode(EOS_ID, 2, -1.0, True),
    )
    found = (
        Hypothesis((the, cat, EOS_ID), -0.3, True, "eos"),
        Hypothesis((the,), -0.5, False),
        Hypothesis((), 0.0, False),
    )
    stream = TextStream(
        cast("GenerationStream", Engine([FinishedEvent("eos", found, tree)])),
        tokenizer,
        StopStrings(()),
        searching=True,
        top_logprobs=1,
    )
    (end,) = list(stream)
    assert isinstance(end, TextEnd)
    (best,) = end.samples
    assert (best.text, best.reason, best.score) == (end.text, "eos", -0.3)
    texts = [tokenizer.decode([the]), tokenizer.decode([cat]), ""]
    assert [(part.text, part.logprob) for part in best.tokens] == list(zip(texts, (0.0, -1.0, -2.0), strict=True))
    assert [other.text for part in best.tokens for other in part.alternatives] == [""] * 3
    assert [item.node for item in end.hypotheses] == [3, 0, None]
    assert [(node.parent, node.logprob_sum, node.finished) for node in end.tree] == [
        (node.parent, node.logprob_sum, node.finished) for node in tree
    ]
    assert end.tree[1].text == tokenizer.piece(byte)
    assert end.tree[0].text == tokenizer.decode([the])
    assert end.tree[3].text == ""


def test_a_search_without_a_tree_has_no_places_in_it(tokenizer: Tokenizer) -> None:
    found = (Hypothesis((5,), -0.3, True, "length"),)
    stream = TextStream(
        cast("GenerationStream", Engine([FinishedEvent("length", found)])), tokenizer, StopStrings(()), searching=True
    )
    (end,) = list(stream)
    assert isinstance(end, TextEnd)
    assert (end.hypotheses[0].node, end.tree) == (None, ())


def test_where_the_model_cannot_be_asked_any_more_a_search_ends_all_the_same(tokenizer: Tokenizer) -> None:
    class Closed(Engine):
        def score(self, token_ids: Sequence[int], *, top_logprobs: int = 0) -> tuple[TokenScore, ...]:
            raise EngineClosed()

    found = (Hypothesis(tuple(tokenizer.encode("the cat")), -0.3, True, "length"),)
    source = cast("GenerationStream", Closed([FinishedEvent("length", found)]))
    (end,) = list(TextStream(source, tokenizer, StopStrings(()), searching=True))
    assert isinstance(end, TextEnd)
    assert (end.text, end.samples) == ("the cat", ())


def test_the_rate_is_the_engines(tokenizer: Tokenizer) -> None:
    """However late and in whatever heaps the events are read."""
    ids = tokenizer.encode("What is written is written.")
    deltas, end = written(tokenizer, ids)
    assert end.tokens_per_second == len(ids) / Engine.writing_seconds
    assert deltas[-1].tokens_per_second <= end.tokens_per_second
