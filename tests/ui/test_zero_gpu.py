"""Writing and training on ZeroGPU by Gradio's endpoints; of the page itself see tests/browser/test_zero_gpu.py."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.client import Job
from gradio_client.exceptions import AppError

from tests.grammar import make_text
from tests.zero_gpu_space import DEADLINE_SECONDS, Space, zero_gpu_space

pytestmark = pytest.mark.slow

# Its parts need not say anything: then it is a token of nobody known, which has a quota all the same.
TOKEN = {"X-IP-Token": "a.b.c"}


@pytest.fixture(scope="module")
def space(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with zero_gpu_space(tmp_path_factory.mktemp("space"), trained_run / "checkpoints" / "best") as space:
        yield space


def client_of(space: Space) -> Client:
    return Client(space.address, headers=TOKEN, verbose=False, analytics_enabled=False)


def complete(space: Space, prompt: str, **settings: Any) -> str:
    content = json.dumps({"model": "tiny", "prompt": prompt, **settings}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{space.address}/v1/completions", content)) as response:
        return str(json.load(response)["choices"][0]["text"])


def write(client: Client, prompt: str = "Mira ", model: str = "tiny", **settings: Any) -> str:
    return str(client.predict(prompt, model=model, api_name="/generate", **settings))


def train(client: Client, minutes: float) -> Job:
    return client.submit(make_text(characters=30_000), base="tiny", minutes=minutes, api_name="/train")


class TestWriting:
    def test_is_done_where_the_gpu_is(self, space: Space) -> None:
        client, before = client_of(space), len(space.lender.asked)
        text = write(client, seed=7, max_new_tokens=40, temperature=1.0)
        assert text
        assert write(client, seed=7, max_new_tokens=40, temperature=1.0) == text
        asked = space.lender.asked[before:]
        assert [path for path, _ in asked].count("/schedule") == 2
        # Who has come by the GPU is told of once: the second call finds the process of the first.
        (pid,) = [int(query["pid"]) for path, query in asked if path == "/allow"]
        assert pid != space.process.pid
        assert {query["token"] for path, query in asked if path == "/schedule"} == {"a.b.c"}
        space.wait_for(lambda: space.lender.count("/release") == space.lender.count("/schedule"))

    def test_longer_texts_ask_for_more_time(self, space: Space) -> None:
        client, before = client_of(space), len(space.lender.loans())
        for most in (40, 2_000):
            write(client, max_new_tokens=most, stop=["."])
        short, long = space.lender.loans()[before:]
        assert 10 <= short < long <= 120

    def test_comes_piece_by_piece_and_can_be_cancelled(self, space: Space) -> None:
        client = client_of(space)
        job = client.submit("Mira ", model="tiny", max_new_tokens=4_000, api_name="/generate")
        space.wait_for(lambda: len(set(job.outputs())) > 2)
        job.cancel()
        space.wait_for(lambda: space.lender.count("/release") == space.lender.count("/schedule"))
        assert len(write(client, max_new_tokens=5)) > 0

    def test_what_is_wrong_is_told_in_a_sentence(self, space: Space) -> None:
        with pytest.raises(AppError, match="max_new_tokens: 99999 was given; allowed: at most"):
            write(client_of(space), max_new_tokens=99_999)

    def test_other_programs_are_served_by_the_processor(self, space: Space) -> None:
        before = len(space.lender.asked)
        assert complete(space, "Mira ", max_tokens=8, seed=1)
        assert client_of(space).predict("Mira ", model="tiny", api_name="/score")["tokens"]
        assert len(space.lender.asked) == before

    def test_goes_on_without_a_gpu(self, space: Space) -> None:
        client, before = client_of(space), space.lender.count("/allow")
        asked: dict[str, Any] = {"seed": 3, "max_new_tokens": 20}
        text = write(client, **asked)
        space.lender.left, left = 0, space.lender.left
        try:
            assert write(client, **asked) == text
        finally:
            space.lender.left = left
        assert space.lender.count("/allow") - before <= 1
        assert "quota" in (space.folder / "log.txt").read_text()


class TestTraining:
    def test_goes_from_slice_to_slice(self, space: Space) -> None:
        client, before = client_of(space), len(space.lender.loans())
        run_id = train(client, minutes=0.07).result(DEADLINE_SECONDS)
        told = client.predict(run_id, api_name="/run")
        assert (told["state"], told["progress"]) == ("finished", 1.0)
        loans = space.lender.loans()[before:]
        assert len(loans) >= 3
        assert {query["token"] for path, query in space.lender.asked if path == "/schedule"} == {"a.b.c"}
        assert set(loans) == {21}
        folder = space.folder / "runs" / run_id
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
        steps = [line["step"] for line in lines if line["kind"] == "step"]
        assert steps == sorted(set(steps))
        # In the last one there may be time for no more than the last evaluation.
        assert len(steps) >= len(loans) - 1
        assert (folder / "log.txt").read_text().count("queued at step") == len(loans) - 1
        assert write(client, model=run_id, max_new_tokens=10)

    def test_ends_with_the_quota_and_is_taken_up_again(self, space: Space) -> None:
        client = client_of(space)
        space.lender.left, left = 1, space.lender.left
        job = train(client, minutes=0.07)
        try:
            with pytest.raises(AppError, match=r"No GPU is lent: You have exceeded your .* quota"):
                job.result(DEADLINE_SECONDS)
        finally:
            space.lender.left = left
        run_id = job.outputs()[-1]
        told = client.predict(run_id, api_name="/run")
        assert told["state"] == "paused"
        assert 0 < told["progress"] < 1
        resumed = client.predict(run_id, "resume", api_name="/change_run")
        assert resumed[0]["state"] == "finished"
        assert resumed[0]["step"] > told["step"]

    def test_is_paused_by_its_person_and_by_who_leaves(self, space: Space) -> None:
        client = client_of(space)
        job = train(client, minutes=5)
        space.wait_for(lambda: bool(job.outputs()))
        run_id = job.outputs()[-1]

        def state() -> str:
            return str(client.predict(run_id, api_name="/run")["state"])

        space.wait_for(lambda: state() == "running")
        client.predict(run_id, "pause", api_name="/change_run")
        assert job.result(DEADLINE_SECONDS) == run_id
        assert state() == "paused"
        job = client.submit(run_id, "resume", api_name="/change_run")
        space.wait_for(lambda: state() == "running")
        job.cancel()
        space.wait_for(lambda: state() == "paused")
        client.predict(run_id, "discard", api_name="/change_run")
