"""What `lm-evaluation-harness` asks of an endpoint (`local-completions`, 0.4.13), recorded and asked once more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.api.conftest import ask, serving
from textgen.jobs.people import EVERYBODY
from textgen.studio import Studio
from textgen.text.tokenizer import BOS_ID, EOS_ID

TEXT = "Mira found 月 a stone 🙂."


def post(address: str, path: str, **body: Any) -> Any:
    status, answer = ask(address, "POST", path, json.dumps(body).encode())
    assert status == 200, answer
    return answer


def encode(address: str, text: str) -> list[int]:
    return list(post(address, "/tokenize", prompt=text, add_special_tokens=False)["tokens"])


def loglikelihoods(address: str, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    """For contexts with what follows them: log-likelihood, and whether each token was the likeliest.

    The last entry is the one token that has to be written; the first ones are those of the context, as many as it has.
    """
    answer = post(
        address,
        "/v1/completions",
        model="tiny",
        prompt=[[*context, *following] for context, following in pairs],
        temperature=0,
        max_tokens=1,
        logprobs=1,
        seed=1234,
        echo=True,
    )
    found = []
    for choice, (context, following) in zip(answer["choices"], pairs, strict=True):
        logprobs = choice["logprobs"]["token_logprobs"][len(context) : -1]
        likeliest = [max(top.values()) for top in choice["logprobs"]["top_logprobs"][len(context) : -1]]
        assert len(logprobs) == len(following)
        found.append((sum(logprobs), logprobs == likeliest))
    return found


def test_whole_texts_are_as_likely_as_the_studio_says(address: str, studio: Studio) -> None:
    (begin,) = encode(address, "<bos>")
    texts = [TEXT, "The old fox slept.", "a"]
    found = loglikelihoods(address, [([begin], encode(address, text)) for text in texts])
    with studio.borrow("tiny") as model:
        expected = [sum(token.logprob for token in model.score(text).tokens) for text in texts]
    assert [loglikelihood for loglikelihood, _ in found] == pytest.approx(expected, abs=1e-6)


def test_endings_are_as_likely_as_the_studio_says(address: str, studio: Studio) -> None:
    context = "Mira found a "
    endings = ["stone", "月", "blue lamp and went home"]
    pairs = []
    for ending in endings:
        whole, before = encode(address, context + ending), encode(address, context)
        pairs.append((whole[: len(before)], whole[len(before) :]))
    with studio.borrow("tiny") as model:
        # One that the model would write itself.
        ids = [BOS_ID, *pairs[0][0]]
        for _ in range(4):
            scores = model.score_tokens([*ids, EOS_ID], top_logprobs=1)
            ids.append(scores[-1].alternatives[0].token_id)
        pairs.append((pairs[0][0], ids[-4:]))
        expected = [
            sum(score.logprob for score in model.score_tokens([BOS_ID, *before, *after])[len(before) :])
            for before, after in pairs
        ]
    found = loglikelihoods(address, pairs)
    assert [loglikelihood for loglikelihood, _ in found] == pytest.approx(expected, abs=1e-6)
    assert found[-1][1] is True
    assert found[1][1] is False


def test_the_token_that_begins_texts_has_no_probability(address: str) -> None:
    ids = encode(address, TEXT)
    asked = {"model": "tiny", "max_tokens": 0, "logprobs": 1, "echo": True}
    with_it, without = (
        post(address, "/v1/completions", prompt=prompt, **asked)["choices"][0] for prompt in ([BOS_ID, *ids], ids)
    )
    assert with_it["text"] == without["text"] == TEXT
    for name, first in (("tokens", "<bos>"), ("token_logprobs", None), ("top_logprobs", None), ("text_offset", 0)):
        assert with_it["logprobs"][name] == [first, *without["logprobs"][name]]
    (alone,) = post(address, "/v1/completions", prompt=[BOS_ID], **asked)["choices"]
    assert (alone["text"], alone["logprobs"]["token_logprobs"]) == ("", [None])


def test_texts_become_tokens_and_tokens_texts(address: str, studio: Studio) -> None:
    ids = studio.load("tiny").tokenizer.encode(TEXT)
    assert post(address, "/tokenize", prompt=TEXT, model="tiny")["tokens"] == [BOS_ID, *ids]
    assert post(address, "/tokenize", prompt=TEXT, add_special_tokens=False) == {
        "tokens": ids,
        "count": len(ids),
        "max_model_len": studio.limits.max_prompt_chars,
    }
    assert post(address, "/detokenize", tokens=[BOS_ID, *ids, EOS_ID])["prompt"] == TEXT
    status, told = ask(address, "GET", "/tokenizer_info")
    assert (status, told["bos_token"], told["eos_token"]) == (200, "<bos>", "<eos>")
    assert [encode(address, told[name]) for name in ("bos_token", "eos_token")] == [[BOS_ID], [EOS_ID]]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a" * 30_000}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "gone"}, "model"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens"),
    ],
)
def test_what_is_wrong_is_named(address: str, path: str, body: dict[str, Any], param: str) -> None:
    status, answer = ask(address, "POST", path, json.dumps(body).encode())
    assert (status, answer["error"]["param"]) == (404 if param == "model" else 400, param)


def test_of_several_models_one_must_be_named(studio: Studio) -> None:
    with serving(studio, EVERYBODY) as address:
        status, answer = ask(address, "POST", "/tokenize", b'{"prompt": "a"}')
        assert (status, answer["error"]["param"]) == (400, "model")
        assert "one of secret, tiny" in answer["error"]["message"]
        assert ask(address, "GET", "/tokenizer_info?model=tiny")[0] == 200
