from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.api.conftest import ask, client_of, serving
from textgen.api.completions import Completion
from textgen.api.routes import api_keys
from textgen.errors import InvalidSetting
from textgen.jobs.people import EVERYBODY, Person
from textgen.studio import LoadedModel, Studio, TokenScore

_DEADLINE_SECONDS = 60.0


def test_models_are_those_that_everybody_may_use(studio: Studio, address: str, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "textgen"
    for ask_for in (
        lambda: client.models.retrieve("secret"),
        lambda: client.completions.create(model="secret", prompt=""),
    ):
        with pytest.raises(openai.NotFoundError, match="“secret” was not found") as caught:
            ask_for()
        assert caught.value.code == "model_not_found"
    with serving(studio, EVERYBODY) as mine, client_of(mine) as all_seeing:
        assert {model.id for model in all_seeing.models.list()} == {"tiny", "secret"}


def test_keys_are_asked_for_where_there_are_some(studio: Studio) -> None:
    keys = api_keys({"TEXTGEN_API_KEYS": "first, ключ,third"})
    assert keys == ("first", "ключ", "third")
    assert api_keys({}) == api_keys({"TEXTGEN_API_KEYS": ""}) == ()
    with pytest.raises(InvalidSetting, match="TEXTGEN_API_KEYS"):
        api_keys({"TEXTGEN_API_KEYS": " , "})
    with serving(studio, Person("nobody"), keys) as address:
        with client_of(address, "third") as client:
            assert client.completions.create(model="tiny", prompt="A", max_tokens=1).choices
        status, _ = ask(address, "GET", "/v1/models", Authorization="Bearer ключ".encode().decode("latin-1"))
        assert status == 200
        for key in ("thir", "thirdd", "", "first,"):
            status, body = ask(address, "GET", "/v1/models", Authorization=f"Bearer {key}")
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        assert ask(address, "GET", "/v1/models")[0] == 401
        assert ask(address, "GET", "/v1/models", Authorization="Basic third")[0] == 401
        assert ask(address, "POST", "/v1/completions", b"{}")[0] == 401
        assert ask(address, "POST", "/v1/chat/completions", b"{}")[0] == 401
        # Whoever watches the host has no key.
        assert ask(address, "GET", "/healthz") == (200, {"status": "ok", "ready": True})


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "not valid JSON"),
        (b"\xff{", 400, "not valid JSON"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b"[1]", 400, "JSON object"),
        (b"{}", 400, "model: Field required"),
        (b'{"model": "tiny", "prompt": [["a"], 1]}', 400, "prompt"),
        (b'{"model": "tiny", "temperature": NaN}', 400, "temperature"),
        (b'{"model": "../tiny"}', 404, "was not found"),
        (b'{"model": "' + b"x" * 100_000 + b'"}', 404, "xxx” was not found"),
        (b'{"model": "tiny", "logit_bias": {"' + b"9" * 5_000 + b'": 1}}', 400, "logit_bias"),
        (b'{"model": "tiny", "prompt": "' + b"a" * 30_000 + b'"}', 400, "at most 20000"),
        (b'{"model": "' + b"a" * 9_000_000 + b'"}', 413, "too large"),
        # Half a character, which JSON can hold and UTF-8 cannot.
        (b'{"model": "\\ud800", "prompt": "a"}', 404, "“?” was not found"),
        (b'{"model": "tiny", "prompt": "\\ud800"}', 400, "prompt: a lone surrogate"),
        (b'{"model": "tiny", "prompt": ["a", "b\\udfff"]}', 400, "prompt: a lone surrogate"),
        (b'{"model": "tiny", "\\ud800": 1}', 400, "unable to parse raw data as a unicode string"),
    ],
)
def test_bad_requests_are_answered(address: str, body: bytes, status: int, sentence: str) -> None:
    found, content = ask(address, "POST", "/v1/completions", body)
    assert (found, sentence in content["error"]["message"]) == (status, True), content
    assert set(content["error"]) == {"message", "type", "param", "code"}
    assert len(content["error"]["message"]) < 1_100


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("POST", "/v1/chat/completions", 404, "POST /v1/chat/completions is unknown; there is: POST /v1/completions; "),
        ("POST", "/v1/embeddings", 404, "POST /v1/embeddings is unknown; there is: POST /v1/completions, GET /v1/mod"),
        ("GET", "/v1", 404, "GET /v1 is unknown"),
        ("GET", "/v1/", 404, "GET /v1/ is unknown"),
        ("PUT", "/v1/a/b?c=d", 404, "PUT /v1/a/b is unknown"),
        ("GET", "/v1/completions", 405, "GET /v1/completions is not allowed; allowed: POST."),
        ("DELETE", "/v1/models/tiny", 405, "DELETE /v1/models/tiny is not allowed; allowed: GET, HEAD."),
    ],
)
def test_what_is_not_there_is_told_in_openais_form(
    studio: Studio, address: str, method: str, path: str, status: int, sentence: str
) -> None:
    found, content = ask(address, method, path, b"{}")
    assert (found, content["error"]["type"]) == (status, "invalid_request_error")
    assert sentence in content["error"]["message"]


def test_a_client_is_told_what_there_is(address: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="these models continue a text") as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.code == "unknown_url"
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=_DEADLINE_SECONDS)
    connection.request("GET", "/v1/completions")
    assert connection.getresponse().headers["Allow"] == "POST"


def test_too_many_at_once_are_told_to_come_back(studio: Studio, address: str, client: openai.OpenAI) -> None:
    long: dict[str, Any] = {
        "model": "tiny",
        "prompt": "Mira ",
        "max_tokens": 4000,
        "n": 24,
        "extra_body": {"ignore_eos": True},
    }
    streams: list[Any] = []

    def ask_again_and_again() -> None:
        # One writes on all rows, and eight may wait.
        while len(streams) < 12:
            streams.append(client.completions.create(**long, stream=True))

    with pytest.raises(openai.RateLimitError, match="already waiting"):
        ask_again_and_again()
    for stream in streams:
        stream.close()
    assert len(streams) > 1
    engine, deadline = studio.load("tiny").engine, time.monotonic() + _DEADLINE_SECONDS
    while engine.in_use:
        assert time.monotonic() < deadline
    assert client.completions.create(model="tiny", prompt="A", max_tokens=2).choices


class Scoring:
    """Scores of a prompt that take until they are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.through = threading.Event()
        score_tokens = LoadedModel.score_tokens

        def score(model: LoadedModel, token_ids: Sequence[int], *, top_logprobs: int = 0) -> tuple[TokenScore, ...]:
            self.begun += 1
            assert self.through.wait(_DEADLINE_SECONDS)
            return score_tokens(model, token_ids, top_logprobs=top_logprobs)

        monkeypatch.setattr(LoadedModel, "score_tokens", score)

    def wait_for(self, begun: int) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while self.begun < begun:
            assert time.monotonic() < deadline


def test_a_client_that_goes_has_no_more_prompts_scored(
    studio: Studio, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = Scoring(monkeypatch)
    body = {"model": "tiny", "prompt": ["Mira "] * 9, "max_tokens": 0, "echo": True, "logprobs": 0}
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=_DEADLINE_SECONDS)
    connection.request("POST", "/v1/completions", json.dumps(body))
    scoring.wait_for(1)
    closed = threading.Event()
    close = Completion.close

    def closing(completion: Completion) -> None:
        close(completion)
        closed.set()

    monkeypatch.setattr(Completion, "close", closing)
    connection.close()
    assert closed.wait(_DEADLINE_SECONDS)
    scoring.through.set()
    assert ask(address, "GET", "/healthz")[0] == 200
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while "cancelled" not in metrics_of(address):
        assert time.monotonic() < deadline
    assert scoring.begun == 1


def metrics_of(address: str) -> str:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=_DEADLINE_SECONDS)
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode()


def test_many_that_are_scored_keep_nobody_else_waiting(
    studio: Studio, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = Scoring(monkeypatch)
    limits = studio.limits
    most = limits.max_rows + limits.max_waiting_requests  # threads that wait for the engine
    body = json.dumps({"model": "tiny", "prompt": "Mira ", "max_tokens": 0, "echo": True, "logprobs": 0}).encode()
    with ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(ask, address, "POST", "/v1/completions", body) for _ in range(50)]
        scoring.wait_for(most)
        assert ask(address, "GET", "/v1/models")[0] == 200
        scoring.through.set()
        assert {answer.result(_DEADLINE_SECONDS)[0] for answer in answers} <= {200, 429}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_lets_go_of_its_rows(studio: Studio, address: str, stream: bool) -> None:
    body = {"model": "tiny", "prompt": "Mira ", "max_tokens": 4000, "n": 24, "ignore_eos": True, "stream": stream}
    engine = studio.load("tiny").engine
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=_DEADLINE_SECONDS)
    connection.request("POST", "/v1/completions", json.dumps(body))
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not engine.in_use:
        assert time.monotonic() < deadline
    connection.close()
    while engine.in_use:
        assert time.monotonic() < deadline
