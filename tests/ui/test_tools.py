"""What language models are offered (MCP), asked for with the protocol's own client over loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from tests.ui.served import DEADLINE_SECONDS, served
from textgen.api.routes import Api
from textgen.config import GenerationSettings
from textgen.jobs.people import EVERYBODY
from textgen.limits import Limits
from textgen.studio import Studio, TextEnd
from textgen.ui.build import build_page
from textgen.workshop import Workshop


@pytest.fixture(scope="module")
def url(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page where people can train, with the other API beside it."""
    limits = Limits(max_runs_training_per_device=0, min_free_disk_bytes=1)
    workshop = Workshop(tmp_path_factory.mktemp("tool-runs"), device="cpu", limits=limits)
    with served(build_page(studio, workshop=workshop), routes=Api(studio, EVERYBODY).routes()) as url:
        yield url


def ask(url: str, question: Callable[[ClientSession], Awaitable[Any]]) -> Any:
    async def asked() -> Any:
        async with (
            streamable_http_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await question(session)

    return asyncio.run(asyncio.wait_for(asked(), DEADLINE_SECONDS))


def call(url: str, tool: str, **arguments: Any) -> Any:
    return ask(url, lambda session: session.call_tool(tool, arguments))


@pytest.mark.slow
def test_the_tools_are_these_and_are_described(url: str) -> None:
    tools = {tool.name: tool for tool in ask(url, lambda session: session.list_tools()).tools}
    assert sorted(tools) == ["generate", "models", "score"]
    schema = tools["generate"].inputSchema
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["temperature"]["type"] == "number"
    for tool in tools.values():
        assert tool.description
        for name, parameter in tool.inputSchema["properties"].items():
            assert len(parameter["description"]) > 10, (tool.name, name)


def test_generate_writes_what_the_studio_writes(url: str, studio: Studio) -> None:
    answer = call(url, "generate", prompt="Mira found ", model="tiny", max_new_tokens=30, temperature=0.9, seed=3)
    settings = GenerationSettings(max_new_tokens=30, temperature=0.9, seed=3)
    *_, end = studio.generate("tiny", "Mira found ", settings)
    assert isinstance(end, TextEnd)
    assert not answer.isError
    assert [content.text for content in answer.content] == [end.text]


def test_score_and_models_answer(url: str, studio: Studio) -> None:
    (scored,) = call(url, "score", text="Mira found a stone.", model="tiny").content
    total = sum(token.logprob for token in studio.load("tiny").score("Mira found a stone.").tokens)
    assert f"{total:.6f}"[:-1] in scored.text
    (models,) = call(url, "models").content
    assert "tiny" in models.text


def test_what_is_wrong_is_a_sentence(url: str) -> None:
    for arguments, sentence in (
        ({"model": "gone"}, "“gone” was not found"),
        ({"model": "tiny", "temperature": -1}, "temperature: -1.0 was given; allowed: at least 0"),
    ):
        answer = call(url, "generate", prompt="Mira ", **arguments)
        assert answer.isError
        assert sentence in answer.content[0].text


def test_nothing_else_of_the_page_is_a_tool(url: str) -> None:
    for tool in ("train", "runs", "run", "change_run", "open_page", "describe"):
        answer = call(url, tool, run_id="x", action="discard")
        assert answer.isError
        assert "Unknown tool" in answer.content[0].text
    assert len(httpx.get(f"{url}gradio_api/mcp/schema").json()) == 3


def test_the_other_routes_answer_beside_it(url: str) -> None:
    assert httpx.get(f"{url}healthz").json()["status"] == "ok"
    models = json.loads(httpx.get(f"{url}v1/models").text)["data"]
    assert "tiny" in [model["id"] for model in models]


@pytest.mark.slow
def test_the_page_opens_without_tools(studio: Studio) -> None:
    with served(build_page(studio), mcp_server=False) as url:
        assert httpx.get(url).status_code == 200
        assert httpx.get(f"{url}gradio_api/mcp/schema").status_code == 404
