"""`/metrics` over loopback, read by Prometheus' own parser."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.api.conftest import client_of, serving
from textgen.api.metrics import Metrics
from textgen.api.routes import outcome
from textgen.config import GenerationSettings, RunSettings, TrainingSettings
from textgen.jobs.people import EVERYBODY, Person
from textgen.jobs.run_folder import RunFolder
from textgen.limits import Limits
from textgen.studio import Studio
from textgen.workshop import Workshop

_DEADLINE_SECONDS = 60.0
Samples = dict[tuple[str, ...], float]


def scrape(address: str, accept: str = "", key: str = "") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=_DEADLINE_SECONDS)
    connection.request("GET", "/metrics", headers={"Accept": accept, "Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    return answer.status, answer.headers["Content-Type"], answer.read().decode()


def samples(text: str) -> Samples:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def scraped(address: str, condition: Callable[[Samples], bool] = lambda _: True) -> Samples:
    """The metrics once they are so: engines tell of a round when it is over."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition(found := samples(scrape(address)[2])):
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def test_what_the_api_writes_is_counted(studio: Studio) -> None:
    with serving(studio, EVERYBODY) as address, client_of(address) as client:
        before = scraped(address)
        asked: dict[str, Any] = {"model": "tiny", "prompt": "Mira found a stone.", "max_tokens": 25}
        asked |= {"extra_body": {"ignore_eos": True}}
        client.completions.create(**asked)
        list(client.completions.create(**asked, stream=True))
        with pytest.raises(openai.NotFoundError):
            client.completions.create(**{**asked, "model": "gone"})
        with pytest.raises(openai.BadRequestError):
            client.completions.create(**asked, temperature=-1)
        client.models.list()
        generated = before[("textgen_generated_tokens_total",)] + 50
        after = scraped(address, lambda found: found[("textgen_generated_tokens_total",)] >= generated)
    requests = {labels[1:]: value for labels, value in after.items() if labels[0] == "textgen_requests_total"}
    requests.pop(("ok", "/metrics"))
    assert requests == {
        ("ok", "/v1/completions"): 2,
        ("invalid", "/v1/completions"): 2,
        ("ok", "/v1/models"): 1,
    }
    assert after[("textgen_generated_tokens_total",)] == generated
    assert after[("textgen_prompt_tokens_total",)] >= before[("textgen_prompt_tokens_total",)]
    gaps, firsts = ("textgen_token_gap_seconds_count",), ("textgen_first_token_seconds_count",)
    assert after[firsts] - before[firsts] == 2
    assert 0 < after[gaps] - before[gaps] <= 48
    assert after[("textgen_first_token_seconds_sum",)] > before[("textgen_first_token_seconds_sum",)]
    assert after[("textgen_token_gap_seconds_bucket", "+Inf")] == after[gaps]
    assert after[("textgen_token_gap_seconds_sum",)] > 0
    assert after[("textgen_model_loads_total",)] >= after[("textgen_models_loaded",)] >= 1
    assert after[("textgen_models_bytes",)] > 0
    assert after[("process_resident_memory_bytes",)] > 1e6


def test_what_the_first_model_writes_at_the_start_is_not_counted(trained_run: Path) -> None:
    with Studio([trained_run], device="cpu") as studio, serving(studio, EVERYBODY) as address:
        (name,) = [info.name for info in studio.models()]
        studio.warm_up(name)
        assert scraped(address)[("textgen_first_token_seconds_count",)] == 0
        with client_of(address) as client:
            client.completions.create(model=name, prompt="Mira ", max_tokens=3, extra_body={"ignore_eos": True})
        counted = scraped(address, lambda found: found[("textgen_generated_tokens_total",)] > 0)
    assert counted[("textgen_generated_tokens_total",)] == 3
    assert counted[("textgen_first_token_seconds_count",)] == 1
    ended = {key: value for key, value in counted.items() if key[0] == "textgen_generations_total"}
    assert ended == {("textgen_generations_total", "length"): 1}


def test_what_the_page_writes_is_counted_and_seen_while_it_runs(studio: Studio, address: str) -> None:
    ended = ("textgen_generations_total", "cancelled")
    before = scraped(address)
    settings = GenerationSettings(max_new_tokens=4_000, ignore_eos=True, num_samples=24)
    with studio.generate("tiny", "Mira ", settings), studio.generate("tiny", "Mira ", settings):
        running = scraped(address, lambda found: found[("textgen_running_streams",)] == 1)
        assert running[("textgen_waiting_requests",)] == 1
    after = scraped(address, lambda found: found.get(ended, 0) == before.get(ended, 0) + 2)
    assert (after[("textgen_running_streams",)], after[("textgen_waiting_requests",)]) == (0, 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_is_counted_as_cancelled(studio: Studio, stream: bool) -> None:
    body = {"model": "tiny", "prompt": "Mira ", "max_tokens": 4_000, "n": 24, "ignore_eos": True, "stream": stream}
    with serving(studio, EVERYBODY) as address:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=_DEADLINE_SECONDS)
        connection.request("POST", "/v1/completions", json.dumps(body))
        scraped(address, lambda found: found[("textgen_running_streams",)] == 1)
        connection.close()
        scraped(address, lambda found: found.get(("textgen_requests_total", "cancelled", "/v1/completions")) == 1)


def test_runs_are_told_by_state(studio: Studio, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, device="cpu", limits=Limits(max_runs_training_per_device=0))
    for number, state in enumerate(("finished", "finished", "paused")):
        folder = RunFolder(tmp_path / f"20260101-000000-{number:03}")
        folder.write_settings(RunSettings(files=("a.txt",), training=TrainingSettings(steps=1)))
        folder.write_about(title="run", owner="anna", created=1.0)
        folder.write_status(state)  # type: ignore[arg-type]
    found = samples(Metrics(studio, workshop).exposition("")[0].decode())
    assert {labels[1]: value for labels, value in found.items() if labels[0] == "textgen_runs" and value} == {
        "finished": 2,
        "paused": 1,
    }
    assert found[("textgen_runs", "queued")] == 0
    assert ("textgen_runs", "queued") not in samples(Metrics(studio).exposition("")[0].decode())


def test_it_is_kept_from_those_without_a_key(studio: Studio) -> None:
    with serving(studio, Person("nobody"), ("first",)) as address:
        assert scrape(address)[0] == 401
        status, _, text = scrape(address, key="first")
        assert (status, samples(text)[("textgen_requests_total", "denied", "/metrics")]) == (200, 1)


def test_both_formats_of_prometheus_are_spoken(address: str) -> None:
    _, kind, _ = scrape(address)
    assert kind.startswith("text/plain; version=")
    _, kind, text = scrape(address, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(text)}
    assert families["textgen_token_gap_seconds"].type == "histogram"
    assert all(family.documentation for family in families.values())


def test_two_servers_in_one_process_count_apart(studio: Studio) -> None:
    first, second = Metrics(studio), Metrics(studio)
    first.count("/v1/models", outcome(200))
    name = ("textgen_requests_total", "ok", "/v1/models")
    assert name in samples(first.exposition("")[0].decode())
    assert name not in samples(second.exposition("")[0].decode())


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (200, "ok"),
        (400, "invalid"),
        (404, "invalid"),
        (401, "denied"),
        (429, "busy"),
        (500, "failed"),
        (503, "failed"),
        (499, "cancelled"),
    ],
)
def test_outcomes_have_names(status: int, name: str) -> None:
    assert outcome(status) == name
