"""What Gradio's own client gets, against what the studio says itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tests.ui.served import DEADLINE_SECONDS, client_of, served
from textgen.config import GenerationSettings
from textgen.limits import Limits
from textgen.studio import Studio, TextEnd
from textgen.ui.build import build_page
from textgen.ui.people import People
from textgen.workshop import Workshop

PROMPT = "Mira found "
WRITING = ["/generate", "/models", "/score"]
TRAINING = ["/change_run", "/run", "/runs", "/train"]
LIMITS = Limits(max_runs_training_per_device=0, min_free_disk_bytes=1, max_new_tokens=3_000)


@pytest.fixture(scope="module")
def url(studio: Studio) -> Iterator[str]:
    """A page where nobody can train."""
    with served(build_page(studio)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return client_of(url)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def shared(studio: Studio, people: People, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page of a shared host, where runs wait for ever."""
    workshop = Workshop(tmp_path_factory.mktemp("endpoint-runs"), device="cpu", limits=LIMITS)
    with served(build_page(studio, workshop=workshop, people=people), people=people) as url:
        yield url


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def written(studio: Studio, **settings: Any) -> str:
    *_, end = studio.generate("tiny", PROMPT, GenerationSettings(**settings))
    assert isinstance(end, TextEnd)
    return end.text


@pytest.mark.slow
def test_the_endpoints_are_these_and_nothing_of_the_page(client: Client, shared: str) -> None:
    assert sorted(client.view_api(return_format="dict")["named_endpoints"]) == WRITING
    found = client_of(shared).view_api(return_format="dict")
    assert sorted(found["named_endpoints"]) == sorted([*WRITING, *TRAINING])
    assert found["unnamed_endpoints"] == {}


def test_every_endpoint_says_what_it_takes_and_gives(shared: str) -> None:
    for name, told in client_of(shared).view_api(return_format="dict")["named_endpoints"].items():
        assert told["description"].endswith("."), name
        assert len(told["returns"]) == 1, name
        for part in (*told["parameters"], *told["returns"]):
            assert part["python_type"]["type"] not in ("", "Any"), (name, part["label"])
            assert len(part["python_type"]["description"]) > 10, (name, part["label"])
        for parameter in told["parameters"]:
            assert parameter["example_input"] not in (None, "", "..."), (name, parameter["label"])


def test_a_text_streams_in_and_is_the_one_that_the_studio_writes(client: Client, studio: Studio) -> None:
    job = client.submit(PROMPT, "tiny", max_new_tokens=400, temperature=0.9, seed=3, api_name="/generate")
    pieces = list(job)
    text = written(studio, max_new_tokens=400, temperature=0.9, seed=3)
    assert pieces[-1] == job.result() == text
    assert all(after.startswith(before) for before, after in pairwise(pieces))


def test_what_is_not_given_is_as_the_model_likes_it(client: Client, studio: Studio) -> None:
    likes = studio.load("tiny").defaults.model_dump()
    text = client.predict(PROMPT, "tiny", seed=5, api_name="/generate")
    assert text == written(studio, **{**likes, "seed": 5})
    settings = {"no_repeat_ngram_size": 2, "seed": 6}
    text = client.predict(PROMPT, "tiny", seed=5, settings=settings, api_name="/generate")
    assert text == written(studio, **{**likes, "no_repeat_ngram_size": 2, "seed": 5})


def test_beams_give_the_best_text(client: Client, studio: Studio) -> None:
    text = client.predict(PROMPT, "tiny", num_beams=3, max_new_tokens=20, stop=["."], api_name="/generate")
    assert text == written(studio, num_beams=3, max_new_tokens=20, stop=(".",))


def test_cancelling_ends_the_writing(client: Client, studio: Studio) -> None:
    job = client.submit(PROMPT, "endless", max_new_tokens=4_000, temperature=1.0, api_name="/generate")
    engine = studio.load("endless").engine
    until(lambda: any(job.outputs()))
    assert engine.in_use
    job.cancel()
    until(lambda: not engine.in_use)


def test_a_score_is_what_the_studio_says(client: Client, studio: Studio) -> None:
    text = "Mira found 月 a stone."
    found = client.predict(text, "tiny", top_logprobs=2, api_name="/score")
    tokens = studio.load("tiny").score(text, top_logprobs=2).tokens
    assert "".join(token["text"] for token in found["tokens"]) == text
    assert [token["logprob"] for token in found["tokens"]] == pytest.approx([token.logprob for token in tokens])
    assert found["tokens"][1]["alternatives"][0]["text"] == tokens[1].alternatives[0].text
    assert found["logprob"] == pytest.approx(sum(token.logprob for token in tokens))
    assert found["nats_per_char"] == pytest.approx(-found["logprob"] / len(text))


def test_models_come_with_their_figures(client: Client, studio: Studio) -> None:
    found = {model["name"]: model for model in client.predict(api_name="/models")}
    assert sorted(found) == ["endless", "spoilt", "tiny"]
    figures = next(info for info in studio.models() if info.name == "tiny").config["figures"]
    assert found["tiny"]["nats_per_char"] == figures["nats_per_char"]
    assert found["endless"]["nats_per_char"] is None


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"temperature": -1}, "temperature: -1.0 was given; allowed: at least 0"),
        ({"temperature": "hot"}, "temperature: hot was given; allowed: a number"),
        ({"max_new_tokens": 10**6}, "max_new_tokens: 1000000 was given; allowed: at most"),
        ({"prompt": 7}, "prompt: 7 was given"),
        ({"prompt": "a" * 30_000}, "prompt: 30000 characters was given"),
        ({"model": "../tiny"}, "“../tiny” was not found; there is: endless, spoilt, tiny"),
        ({"model": "spoilt"}, "model.safetensors"),
        ({"stop": [""]}, "stop: an empty text was given"),
        ({"settings": {"nonsense": 1}}, "nonsense"),
        ({"settings": {"num_samples": 2}}, "num_samples: 2 was given; allowed: 1"),
        ({"settings": {"num_beams": 4, "num_return": 2}}, "num_return: 2 was given; allowed: 1"),
    ],
)
def test_what_is_wrong_is_a_sentence(client: Client, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AppError) as caught:
        client.predict(**{"prompt": PROMPT, "model": "tiny", **asked}, api_name="/generate")
    assert sentence in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(("text", "given"), [("", "an empty text"), ("a" * 30_000, "30000 characters")])
def test_what_cannot_be_scored_is_a_sentence(client: Client, text: str, given: str) -> None:
    with pytest.raises(AppError, match=f"text: {given} was given; allowed: at"):
        client.predict(text, "tiny", api_name="/score")


@pytest.mark.slow
def test_runs_are_started_looked_at_and_changed(shared: str, people: People, small_text: Path) -> None:
    anna = client_of(shared, people, "anna")
    run_id = anna.predict(
        text=small_text.read_text()[:5_000],
        files=[handle_file(small_text)],
        base="tiny",
        minutes=2,
        title="Mira",
        sample_prompts=["Mira "],
        api_name="/train",
    )
    (run,) = anna.predict(api_name="/runs")
    assert (run["run_id"], run["title"], run["state"], run["position"]) == (run_id, "Mira", "queued", 1)
    report = anna.predict(run_id, api_name="/run")
    assert {name: report[name] for name in run} == run
    assert (report["samples"], report["error"], report["loss"]) == ([], None, None)
    (paused,) = anna.predict(run_id, "pause", api_name="/change_run")
    assert paused["state"] == "paused"
    (resumed,) = anna.predict(run_id, "resume", api_name="/change_run")
    assert resumed["state"] == "queued"
    assert anna.predict(run_id, "discard", api_name="/change_run") == []


@pytest.mark.slow
def test_runs_of_others_are_not_there(shared: str, people: People, small_text: Path) -> None:
    anna = client_of(shared, people, "anna")
    run_id = anna.predict(text=small_text.read_text(), api_name="/train")
    for other in (client_of(shared, people, "ben"), client_of(shared)):
        assert other.predict(api_name="/runs") == []
        for ask in ({"run_id": run_id, "api_name": "/run"}, {"run_id": run_id, "action": "discard"}):
            with pytest.raises(AppError, match=f"run “{run_id}” was not found; there is: none"):
                other.predict(**{"api_name": "/change_run", **ask})
    assert [run["run_id"] for run in anna.predict(api_name="/runs")] == [run_id]
    # Somebody without a cookie is told apart by the client that asks.
    passer_by = client_of(shared)
    own = passer_by.predict(text=small_text.read_text(), api_name="/train")
    assert [run["run_id"] for run in passer_by.predict(api_name="/runs")] == [own]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "files: none was given; allowed: text files, or pasted text"),
        ({"text": "short"}, "text: 5 characters found; at least 200 characters needed"),
        ({"text": "a b " * 200, "base": "nobody's"}, "“nobody's” was not found"),
        ({"text": "a b " * 200, "minutes": 0}, "minutes: 0.0 was given"),
        ({"text": "a b " * 200, "preset": "huge"}, "preset: huge was given"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence(shared: str, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AppError) as caught:
        client_of(shared).predict(**asked, api_name="/train")
    assert sentence in str(caught.value)


def test_files_of_the_server_cannot_be_trained_on(shared: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret " * 100)
    path = str(secret)
    for file in ({"path": path, "meta": {"_type": "gradio.FileData"}}, {"path": path}, path):
        # Gradio's own client would upload it.
        body = {"data": ["", [file], None, "quick", None, "", None], "session_hash": "thief"}
        event = httpx.post(f"{shared}gradio_api/call/train", json=body).json()["event_id"]
        told = httpx.get(f"{shared}gradio_api/call/train/{event}", timeout=DEADLINE_SECONDS).text
        assert told.startswith("event: error"), told
        body = {"data": [], "session_hash": "thief"}
        assert httpx.post(f"{shared}gradio_api/run/runs", json=body).json()["data"] == [[]]


@pytest.mark.slow
def test_a_run_trains_and_its_model_writes(small_text: Path, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, device="cpu", limits=Limits(min_free_disk_bytes=1))
    here = Studio([tmp_path], device="cpu")
    with served(build_page(here, workshop=workshop)) as url:
        client = client_of(url)
        run_id = client.predict(files=[handle_file(small_text)], minutes=0.1, api_name="/train")
        ended = ("finished", "failed", "stopped", "interrupted")
        report = until(lambda: (it := client.predict(run_id, api_name="/run"))["state"] in ended and it)
        assert (report["state"], report["error"]) == ("finished", None)
        assert report["best_heldout_loss"] <= report["heldout_loss"]
        assert len(report["samples"]) == 1
        assert client.predict(PROMPT, run_id, max_new_tokens=10, api_name="/generate")
    here.close()
