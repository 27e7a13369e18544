"""What clients get whose texts are cut short: never an end that looks like one of the text's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.api.conftest import ask, client_of, serving
from textgen.jobs.people import EVERYBODY
from textgen.jobs.run_folder import resolve_checkpoint
from textgen.limits import Limits
from textgen.model.checkpoint import load_checkpoint, save_checkpoint
from textgen.studio import Studio

_DEADLINE_SECONDS = 60.0
LONG: dict[str, Any] = {"model": "tiny", "prompt": ["Mira ", "The "], "extra_body": {"ignore_eos": True}}


@pytest.fixture
def closing(trained_run: Path, tmp_path: Path) -> Iterator[Callable[..., Studio]]:
    """Makes studios of this test's own, which it may close."""
    save_checkpoint(tmp_path / "tiny", load_checkpoint(resolve_checkpoint(trained_run)))
    made: list[Studio] = []

    def make(limits: Limits) -> Studio:
        made.append(Studio([tmp_path], device="cpu", backend="torch", limits=limits))
        return made[-1]

    yield make
    for studio in made:
        studio.close()


def test_a_text_cut_by_the_servers_end_is_no_whole_one(closing: Callable[..., Studio]) -> None:
    studio = closing(Limits(max_new_tokens=100_000))
    with serving(studio, EVERYBODY) as address, client_of(address) as client, ThreadPoolExecutor() as threads:
        assert ask(address, "GET", "/healthz") == (200, {"status": "ok", "ready": False})
        whole = threads.submit(lambda: client.completions.create(**LONG, max_tokens=100_000))
        stream = iter(client.completions.create(**LONG, max_tokens=100_000, stream=True, logprobs=0))
        chunks = [next(stream)]
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while studio.figures().running_requests < 4:
            assert time.monotonic() < deadline
        studio.close()
        with pytest.raises(openai.APIError, match="shutting down; the text was cut short") as told:
            chunks.extend(stream)
        with pytest.raises(openai.InternalServerError, match="shutting down") as caught:
            whole.result(_DEADLINE_SECONDS)
        with pytest.raises(openai.InternalServerError):
            client.completions.create(**LONG)
    assert (told.value.code, caught.value.status_code, caught.value.type) == ("shutting_down", 503, "server_error")
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert {choice.finish_reason for choice in choices} == {None}
    for index in range(2):
        text = "".join(choice.text for choice in choices if choice.index == index)
        (logprobs,) = [choice.logprobs for choice in choices if choice.index == index and choice.logprobs]
        assert text == "".join(logprobs.tokens)


@pytest.mark.slow
def test_a_text_that_takes_too_long_is_no_whole_one(closing: Callable[..., Studio]) -> None:
    studio = closing(Limits(max_new_tokens=100_000, request_deadline_seconds=0.5))
    with serving(studio, EVERYBODY) as address, client_of(address) as client:
        with pytest.raises(openai.InternalServerError, match=r"after 0\.5 seconds") as caught:
            client.completions.create(**LONG, max_tokens=100_000)
        assert (caught.value.status_code, caught.value.code) == (503, "deadline_exceeded")
        stopped = client.completions.create(**{**LONG, "prompt": "Mira "}, max_tokens=2)
        assert stopped.choices[0].finish_reason == "length"
