"""The routes: who may ask, what is asked, and the answer as JSON or as a stream of events."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from textgen.api.completions import Completion
from textgen.api.protocol import ApiError, as_api_error, parse_request
from textgen.errors import NotFound, TextgenError
from textgen.studio import ModelInfo, Person, Studio

_MOST_BODY_BYTES = 8_000_000
_LOOK_SECONDS = 0.5
_LOGGER = logging.getLogger(__name__)


def api_for(environment: Mapping[str, str], person: Person) -> Callable[[Studio], list[BaseRoute]]:
    """What makes the routes over a studio, as the environment wants them."""
    return lambda studio: Api(studio, person, keys=api_keys(environment)).routes()


def api_keys(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys of TEXTGEN_API_KEYS, separated by commas or spaces; with none of them the routes are open."""
    return tuple(environment.get("TEXTGEN_API_KEYS", "").replace(",", " ").split())


class Api:
    """The routes over the models that `person` may use."""

    def __init__(self, studio: Studio, person: Person, *, keys: Sequence[str] = ()) -> None:
        self._studio = studio
        self._person = person
        self._keys = [key.encode() for key in keys]
        self._limiter: CapacityLimiter | None = None

    def routes(self) -> list[BaseRoute]:
        """To be served beside the page."""
        return [
            Route("/v1/models", self._guarded(self._models), methods=["GET"]),
            Route("/v1/models/{name:path}", self._guarded(self._model), methods=["GET"]),
            Route("/v1/completions", self._guarded(self._complete), methods=["POST"]),
            Route("/healthz", _healthy, methods=["GET"]),
        ]

    def _guarded(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            try:
                self._admit(request)
                answer: Response = await handler(request)
                return answer
            except ApiError as error:
                return JSONResponse(error.content, error.status)
            except TextgenError as error:
                told = as_api_error(error)
                return JSONResponse(told.content, told.status)
            except Exception:
                _LOGGER.exception("a request to %s failed", request.url.path)
                failed = ApiError(500, "The server failed; its log says why.", kind="server_error")
                return JSONResponse(failed.content, failed.status)

        return guarded

    def _admit(self, request: Request) -> None:
        if not self._keys:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        matches = [hmac.compare_digest(given.strip().encode(), key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(401, "A key is needed: Authorization: Bearer KEY.", code="invalid_api_key")

    async def _models(self, _request: Request) -> Response:
        models = await to_thread.run_sync(self._studio.models, self._person)
        return JSONResponse({"object": "list", "data": [_described(info) for info in models]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        models = await to_thread.run_sync(self._studio.models, self._person)
        found = [info for info in models if info.name == name]
        if not found:
            raise NotFound("model", name, ", ".join(info.name for info in models))
        return JSONResponse(_described(found[0]))

    async def _complete(self, request: Request) -> Response:
        asked = parse_request(await _body(request), self._studio.limits)
        lease = await to_thread.run_sync(self._studio.borrow, asked.model, self._person)
        begun = False
        try:
            completion = await to_thread.run_sync(Completion, lease.model, asked, self._waiting())
            if asked.stream:
                begun = True
                return StreamingResponse(_events(completion, lease.release), media_type="text/event-stream")
            with closing(completion):
                answer = await _unless_gone(request, completion)
            return JSONResponse(answer)
        finally:
            if not begun:
                lease.release()

    def _waiting(self) -> CapacityLimiter:
        """One for all requests, made in the event loop that they share."""
        if self._limiter is None:
            limits = self._studio.limits
            self._limiter = CapacityLimiter(limits.max_rows + limits.max_waiting_requests)
        return self._limiter


async def _unless_gone(request: Request, completion: Completion) -> Any:
    """The whole answer; where the client has gone nobody needs it, and the streams end."""
    answer: Any = None
    failed: TextgenError | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while not await request.is_disconnected():
                await anyio.sleep(_LOOK_SECONDS)
            completion.close()

        group.start_soon(watch)
        try:
            answer = await completion.whole()
        except TextgenError as error:  # not through the group, which would wrap it
            failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return answer


async def _events(completion: Completion, release: Callable[[], None]) -> AsyncIterator[str]:
    """Server-sent events; an error in the middle is one of them, for the status has been sent."""
    try:
        with closing(completion):
            async for chunk in completion.chunks():
                yield _event(chunk)
        yield "data: [DONE]\n\n"
    except TextgenError as error:
        yield _event(as_api_error(error).content)
    finally:
        release()


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _body(request: Request) -> object:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _MOST_BODY_BYTES:
            raise ApiError(413, f"The body is too large; allowed: at most {_MOST_BODY_BYTES:,} bytes.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not valid JSON.") from None


def _described(info: ModelInfo) -> dict[str, Any]:
    try:
        created = int(info.folder.stat().st_mtime)
    except OSError:
        created = 0
    return {"id": info.name, "object": "model", "created": created, "owned_by": "textgen"}


async def _healthy(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})
