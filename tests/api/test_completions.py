"""What OpenAI's own client gets, against what the studio says itself."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from textgen.api.protocol import OUR_EXTRAS, CompletionRequest
from textgen.config import GenerationSettings
from textgen.studio import Studio, TextEnd
from textgen.text.tokenizer import BOS_ID

PROMPT = "Mira found "


def written(studio: Studio, prompt: str = PROMPT, **settings: Any) -> TextEnd:
    *_, end = studio.generate("tiny", prompt, GenerationSettings(**settings))
    assert isinstance(end, TextEnd)
    return end


def complete(client: openai.OpenAI, **asked: Any) -> Any:
    return client.completions.create(**{"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "seed": 3, **asked})


def test_a_text_is_the_one_that_the_studio_writes(client: openai.OpenAI, studio: Studio) -> None:
    answer = complete(client, temperature=0.9)
    end = written(studio, temperature=0.9, max_new_tokens=12, seed=3)
    (choice,) = answer.choices
    assert (answer.object, answer.model, choice.index) == ("text_completion", "tiny", 0)
    assert choice.text == end.text
    assert choice.finish_reason == {"length": "length", "eos": "stop"}[end.reason]
    read = len(studio.load("tiny").tokenizer.encode(PROMPT))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (read, end.tokens)
    assert answer.usage.total_tokens == read + end.tokens


def test_a_stream_is_the_same_text_piece_by_piece(client: openai.OpenAI) -> None:
    whole = complete(client, n=2, echo=True, logprobs=1)
    chunks = list(complete(client, n=2, echo=True, logprobs=1, stream=True, stream_options={"include_usage": True}))
    texts = ["", ""]
    for chunk in chunks[:-1]:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert len(chunks) > 6
    ends = {choice.index: choice for chunk in chunks for choice in chunk.choices if choice.finish_reason}
    assert {index: end.finish_reason for index, end in ends.items()} == {
        choice.index: choice.finish_reason for choice in whole.choices
    }
    assert ends[1].logprobs.tokens == whole.choices[1].logprobs.tokens
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_prompts_side_by_side_are_as_alone(client: openai.OpenAI) -> None:
    prompts = [PROMPT, "The old fox ", "月"]
    together = complete(client, prompt=prompts, n=2)
    assert [choice.index for choice in together.choices] == list(range(6))
    for number, prompt in enumerate(prompts):
        alone = complete(client, prompt=prompt, n=2)
        assert [choice.text for choice in together.choices[2 * number : 2 * number + 2]] == [
            choice.text for choice in alone.choices
        ]


def test_token_ids_are_prompts_too(client: openai.OpenAI, studio: Studio) -> None:
    ids = studio.load("tiny").tokenizer.encode(PROMPT)
    expected = complete(client).choices[0].text
    for prompt in (ids, [BOS_ID, *ids], [ids]):
        assert complete(client, prompt=prompt).choices[0].text == expected
    with pytest.raises(openai.BadRequestError, match="token ids from 0 to"):
        complete(client, prompt=[10**6])


def test_the_best_of_several_are_found_by_beams(client: openai.OpenAI, studio: Studio) -> None:
    answer = complete(client, best_of=4, n=2, logprobs=0)
    end = written(studio, num_beams=4, num_return=2, max_new_tokens=12, seed=3)
    assert [choice.text for choice in answer.choices] == [item.text for item in end.hypotheses]
    for choice in answer.choices:
        assert "".join(choice.logprobs.tokens) == choice.text
    assert answer.usage.completion_tokens == sum(item.num_tokens for item in end.hypotheses)
    assert answer.usage.completion_tokens > end.tokens


def test_what_is_not_given_is_as_the_model_likes_it(client: openai.OpenAI, studio: Studio) -> None:
    likes = studio.load("tiny").defaults
    end = written(studio, **{**likes.model_dump(), "max_new_tokens": 16, "seed": 3, "min_new_tokens": 0})
    answer = client.completions.create(model="tiny", prompt=PROMPT, seed=3)
    assert answer.choices[0].text == end.text


def test_our_own_settings_go_by_their_names(client: openai.OpenAI, studio: Studio) -> None:
    extras: dict[str, Any] = {"top_k": 1, "repetition_penalty": 1.3, "ignore_eos": True}
    answer = complete(client, extra_body=extras)
    assert answer.choices[0].text == written(studio, **extras, max_new_tokens=12, seed=3).text
    assert complete(client, stop=answer.choices[0].text[4:7], extra_body=extras).choices[0].finish_reason == "stop"
    banned = complete(client, extra_body={**extras, "banned": [answer.choices[0].text[:3]]})
    assert not banned.choices[0].text.startswith(answer.choices[0].text[:3])


def test_null_is_what_would_be_if_it_were_not_given(client: openai.OpenAI, studio: Studio) -> None:
    given: dict[str, Any] = {"model": "tiny", "seed": 3}
    names = {*CompletionRequest.model_fields, *OUR_EXTRAS} - set(given)
    answer = client.completions.create(**given, prompt=PROMPT, extra_body=dict.fromkeys(names - {"prompt"}))
    assert answer.choices[0].text == client.completions.create(**given, prompt=PROMPT).choices[0].text
    empty = client.completions.create(**given, prompt=None, extra_body={"suffix": ""})
    assert empty.choices[0].text == client.completions.create(**given, prompt="").choices[0].text


def test_a_seed_of_minus_one_is_any(client: openai.OpenAI) -> None:
    answers = [complete(client, seed=-1, temperature=2.0, n=8) for _ in range(2)]
    # One text alone is the same now and then: the model knows few.
    assert [choice.text for choice in answers[0].choices] != [choice.text for choice in answers[1].choices]


def test_among_the_likeliest_stands_the_token_itself(client: openai.OpenAI) -> None:
    choice = complete(client, temperature=1.5, echo=True, logprobs=2, max_tokens=30).choices[0]
    found = list(zip(choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True))
    assert all(top[token] == logprob for token, logprob, top in found)
    assert any(logprob < max(top.values()) for _, logprob, top in found)
    assert {len(top) for *_, top in found} == {2, 3}
    alone = complete(client, logprobs=0).choices[0].logprobs
    assert alone.top_logprobs == [
        {token: logprob} for token, logprob in zip(alone.tokens, alone.token_logprobs, strict=True)
    ]


def test_echo_scores_the_prompt_token_by_token(client: openai.OpenAI, studio: Studio) -> None:
    text = "Mira found 月 a stone 🙂."
    answer = complete(client, prompt=text, max_tokens=1, echo=True, logprobs=3, temperature=0)
    choice = answer.choices[0]
    model = studio.load("tiny")
    ids = model.prompt_ids(text)
    scores = model.score_tokens(ids, top_logprobs=3)
    assert choice.text.startswith(text)
    assert len(scores) == len(ids) - 1
    assert len(choice.logprobs.tokens) == len(scores) + 1
    assert choice.logprobs.token_logprobs[:-1] == pytest.approx([score.logprob for score in scores], abs=1e-6)
    # As `lm-evaluation-harness` asks whether a text is what the model would have written.
    greedy = [
        logprob == max(top.values())
        for logprob, top in zip(choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True)
    ]
    assert greedy[:-1] == [score.token_id == score.alternatives[0].token_id for score in scores]
    assert greedy[-1]
    assert choice.logprobs.text_offset[0] == 0
    assert choice.logprobs.text_offset[-1] == len(text)
    assert any(token.startswith("bytes:") for token in choice.logprobs.tokens)
    scored = complete(client, prompt=text, max_tokens=0, echo=True, logprobs=0).choices[0]
    assert (scored.text, scored.finish_reason) == (text, "length")
    assert scored.logprobs.token_logprobs == pytest.approx(choice.logprobs.token_logprobs[:-1], abs=1e-6)


def test_each_text_of_a_search_says_why_it_ended(client: openai.OpenAI, studio: Studio) -> None:
    asked: dict[str, Any] = {"stop": ["a", "."], "ignore_eos": False}
    end = written(studio, **asked, num_beams=6, num_return=5, max_new_tokens=6, seed=3)
    stop = asked.pop("stop")
    answer = complete(client, best_of=6, n=5, max_tokens=6, stop=stop, extra_body=asked)
    expected = [{"eos": "stop", "stop": "stop", "length": "length"}[str(item.reason)] for item in end.hypotheses]
    assert [choice.finish_reason for choice in answer.choices] == expected
    assert set(expected) == {"stop", "length"}


def test_parts_of_a_character_are_tokens_too(client: openai.OpenAI, studio: Studio) -> None:
    model = studio.load("tiny")
    parts = [token for token in model.tokenizer.encode("🙂") if len(model.tokenizer.piece_bytes(token)) == 1][-3:]
    likely = {str(token): 60.0 for token in parts[:2]}
    answer = complete(client, logit_bias=likely, logprobs=1, max_tokens=8)
    (choice,) = answer.choices
    assert len(choice.logprobs.tokens) == answer.usage.completion_tokens == 8
    assert {name for name in choice.logprobs.tokens if name.startswith("bytes:")}
    assert all(
        top[name] == choice.logprobs.token_logprobs[number]
        for number, (name, top) in enumerate(zip(choice.logprobs.tokens, choice.logprobs.top_logprobs, strict=True))
    )


@pytest.mark.slow
def test_a_prompt_may_have_more_tokens_than_characters(client: openai.OpenAI, studio: Studio) -> None:
    most = studio.limits.max_prompt_chars
    assert complete(client, prompt="🙂" * (most // 2), max_tokens=1).usage.prompt_tokens > most
    ids = studio.load("tiny").tokenizer.encode("A")[-1:] * most
    assert complete(client, prompt=ids, max_tokens=1).usage.prompt_tokens == most
    with pytest.raises(openai.BadRequestError, match=f"at most {most}"):
        complete(client, prompt=[*ids, *ids[:1]], max_tokens=1)


def test_only_the_last_chunk_tells_the_usage(client: openai.OpenAI) -> None:
    """And the others that they do not, where it is asked for."""
    *chunks, last = complete(client, stream=True, stream_options={"include_usage": True}, logprobs=0)
    assert last.usage.completion_tokens > 0
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)
    assert not any("usage" in chunk.model_fields_set for chunk in complete(client, stream=True))


@pytest.mark.parametrize(
    ("asked", "param", "sentence"),
    [
        ({"temperature": -1}, "temperature", "allowed"),
        ({"max_tokens": 0}, "max_tokens", "or 0 with echo"),
        ({"max_tokens": 10**9}, "max_tokens", "max_tokens: 1000000000 was given; allowed: at most"),
        ({"n": 100}, "n", "100 texts at once"),
        ({"best_of": 100}, "best_of", "100 texts at once"),
        ({"prompt": ["a"] * 100}, "prompt", "100 texts at once"),
        ({"prompt": [1, 2, "x"]}, "prompt", "token ids or a list of lists"),
        ({"prompt": ["1", 5]}, "prompt", "token ids or a list of lists"),
        ({"prompt": [True, False]}, "prompt", "token ids or a list of lists"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "logit_bias"),
        (
            {"n": 24, "max_tokens": 0, "echo": True, "logprobs": 50, "prompt": "a " * 9_000},
            "logprobs",
            "at most 1,000,000",
        ),
        ({"n": 24, "max_tokens": 4000, "logprobs": 50}, "logprobs", "4,896,000 log-probabilities in all"),
        ({"best_of": 2, "logprobs": 0, "extra_body": {"adapt": True}}, "logprobs", "none with best_of and adapt"),
        ({"n": 3, "best_of": 2}, "best_of", r"at least n \(3\)"),
        ({"best_of": 3, "stream": True}, "stream", "at the end only"),
        ({"logprobs": 51}, "logprobs", "less than or equal to 50"),
        ({"stop": [""]}, "stop", "an empty text"),
        ({"suffix": "x"}, "suffix", "allowed: nothing"),
        ({"seed": -2}, "seed", "allowed: at least 0"),
        ({"extra_body": {"num_beams": 2}}, "num_beams", "unknown argument"),
        ({"extra_body": {"nonsense": 2}}, "nonsense", "unknown argument"),
        ({"extra_body": {"min_new_tokens": 99}}, "min_new_tokens", "allowed"),
    ],
)
def test_what_is_wrong_is_named(client: openai.OpenAI, asked: dict[str, Any], param: str, sentence: str) -> None:
    with pytest.raises(openai.BadRequestError, match=sentence) as caught:
        list(complete(client, **asked))
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
