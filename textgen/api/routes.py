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
from starlette.routing import BaseRoute, Match, Route

from textgen.api.completions import Completion
from textgen.api.metrics import Metrics
from textgen.api.protocol import ApiError, as_api_error, parse_body, parse_request
from textgen.api.tokens import DetokenizeRequest, TokenizeRequest, detokenize, tokenize, tokenizer_info
from textgen.errors import InvalidSetting, NotFound, TextgenError
from textgen.studio import LoadedModel, ModelInfo, Person, Studio
from textgen.workshop import Workshop

_MOST_BODY_BYTES = 8_000_000
_LOOK_SECONDS = 0.5
_COMPLETIONS = "/v1/completions"
_CLIENT_GONE = 499  # as nginx has it; nobody reads that answer
_OUTCOMES = {401: "denied", 429: "busy", _CLIENT_GONE: "cancelled"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_LOGGER = logging.getLogger(__name__)


def api_for(environment: Mapping[str, str], person: Person) -> Callable[[Studio, Workshop | None], list[BaseRoute]]:
    """What makes the routes over a studio and, where people can train, a workshop, as the environment wants them."""
    keys = api_keys(environment)
    return lambda studio, workshop: Api(studio, person, keys=keys, workshop=workshop).routes()


def api_keys(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys of TEXTGEN_API_KEYS, separated by commas or spaces; where that is not set the routes are open.

    Raises `InvalidSetting` where it is and has none: that cannot be meant.
    """
    given = environment.get("TEXTGEN_API_KEYS", "")
    keys = tuple(given.replace(",", " ").split())
    if given and not keys:
        raise InvalidSetting("TEXTGEN_API_KEYS", given, "keys, separated by commas or spaces")
    return keys


class Api:
    """The routes over the models that `person` may use."""

    def __init__(
        self, studio: Studio, person: Person, *, keys: Sequence[str] = (), workshop: Workshop | None = None
    ) -> None:
        self._studio = studio
        self._metrics = Metrics(studio, workshop)
        self._person = person
        self._keys = [key.encode() for key in keys]
        self._limiter: CapacityLimiter | None = None

    def routes(self) -> list[BaseRoute]:
        """To be served beside the page."""
        return [
            *self._routes_of_openai(),
            self._route("/tokenize", self._tokenize, "POST"),
            self._route("/detokenize", self._detokenize, "POST"),
            self._route("/tokenizer_info", self._tokenizer_info, "GET"),
            self._route("/metrics", self._watched, "GET"),
            Route("/healthz", self._healthy, methods=["GET"]),
        ]

    def _routes_of_openai(self) -> list[Route]:
        """All that lies under `/v1`: nobody else answers there."""
        known = [
            self._route("/v1/models", self._models, "GET"),
            self._route("/v1/models/{name:path}", self._model, "GET"),
            self._route(_COMPLETIONS, self._complete, "POST"),
        ]

        async def refuse(request: Request) -> Response:
            raise _refusal(request, known)

        return [*known, *(self._route(path, refuse, *_METHODS) for path in ("/v1", "/v1/{rest:path}"))]

    def _route(self, path: str, handler: Callable[[Request], Any], *methods: str) -> Route:
        """A route for those who may ask, which answers in any case and is counted."""

        async def guarded(request: Request) -> Response:
            try:
                self._admit(request)
                answer: Response = await handler(request)
            except Exception as error:
                told = _told(error, path)
                answer = _Json(told.content, told.status, told.headers)
            if not isinstance(answer, StreamingResponse):  # those are counted when they end
                self._metrics.count(path, outcome(answer.status_code))
            return answer

        return Route(path, guarded, methods=list(methods))

    def _admit(self, request: Request) -> None:
        if not self._keys:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # The bytes as they came: headers are read as Latin-1.
        matches = [hmac.compare_digest(given.strip().encode("latin-1"), key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(401, "A key is needed: Authorization: Bearer KEY.", code="invalid_api_key")

    async def _models(self, _request: Request) -> Response:
        models = await to_thread.run_sync(self._studio.models, self._person)
        return _Json({"object": "list", "data": [_described(info) for info in models]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        models = await to_thread.run_sync(self._studio.models, self._person)
        found = [info for info in models if info.name == name]
        if not found:
            raise NotFound("model", name, ", ".join(info.name for info in models))
        return _Json(_described(found[0]))

    async def _tokenize(self, request: Request) -> Response:
        asked = parse_body(TokenizeRequest, await _body(request))
        return await self._with_model(asked.model, lambda model: tokenize(model, asked))

    async def _detokenize(self, request: Request) -> Response:
        asked = parse_body(DetokenizeRequest, await _body(request))
        return await self._with_model(asked.model, lambda model: detokenize(model, asked))

    async def _tokenizer_info(self, request: Request) -> Response:
        return await self._with_model(request.query_params.get("model"), tokenizer_info)

    async def _with_model(self, name: str | None, answer: Callable[[LoadedModel], dict[str, Any]]) -> Response:
        """What a model answers; with no name it is the only one there is."""

        def work() -> dict[str, Any]:
            known = [info.name for info in self._studio.models(self._person)]
            if name is None and len(known) != 1:
                raise ApiError(400, f"model: nothing; allowed: one of {', '.join(known)}", param="model")
            with self._studio.borrow(known[0] if name is None else name, self._person) as model:
                return answer(model)

        return _Json(await to_thread.run_sync(work))

    async def _complete(self, request: Request) -> Response:
        asked = parse_request(await _body(request), self._studio.limits)
        lease = await to_thread.run_sync(self._studio.borrow, asked.model, self._person)
        begun = False
        try:
            completion = await to_thread.run_sync(Completion, lease.model, asked, self._waiting())
            if asked.stream:
                begun = True
                return StreamingResponse(self._events(completion, lease.release), media_type="text/event-stream")
            with closing(completion):
                answer = await _unless_gone(request, completion)
            return await to_thread.run_sync(_Json, answer)  # which may be large
        finally:
            if not begun:
                lease.release()

    async def _events(self, completion: Completion, release: Callable[[], None]) -> AsyncIterator[str]:
        """Server-sent events; an error in the middle is one of them, for the status has been sent."""
        became = "cancelled"
        try:
            try:
                with closing(completion):
                    async for chunk in completion.chunks():
                        large = chunk["choices"] and chunk["choices"][0]["logprobs"]
                        yield await to_thread.run_sync(_event, chunk) if large else _event(chunk)
                became = outcome(200)
            except Exception as error:
                told = _told(error, _COMPLETIONS)
                became = outcome(told.status)
                yield _event(told.content)
            yield "data: [DONE]\n\n"
        finally:
            release()
            self._metrics.count(_COMPLETIONS, became)

    async def _watched(self, request: Request) -> Response:
        content, kind = await to_thread.run_sync(self._metrics.exposition, request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": kind})

    async def _healthy(self, _request: Request) -> Response:
        return _Json({"status": "ok", "ready": self._studio.ready})

    def _waiting(self) -> CapacityLimiter:
        """One for all requests, made in the event loop that they share."""
        if self._limiter is None:
            limits = self._studio.limits
            self._limiter = CapacityLimiter(limits.max_rows + limits.max_waiting_requests)
        return self._limiter


async def _unless_gone(request: Request, completion: Completion) -> Any:
    """The whole answer; where the client has gone nobody needs it, and the streams end."""
    answer: Any = None
    failed: ApiError | TextgenError | None = None
    gone = False
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            nonlocal gone
            while not await request.is_disconnected():
                await anyio.sleep(_LOOK_SECONDS)
            gone = True
            completion.close()

        group.start_soon(watch)
        try:
            answer = await completion.whole()
        except (ApiError, TextgenError) as error:  # not through the group, which would wrap it
            failed = error
        group.cancel_scope.cancel()
    if gone:
        raise ApiError(_CLIENT_GONE, "The client has gone.")
    if failed is not None:
        raise failed
    return answer


def _refusal(request: Request, known: Sequence[Route]) -> ApiError:
    """The answer where none of the known routes has this path, or none takes this method there."""
    asked = f"{request.method} {request.url.path}"
    fitting = [route for route in known if route.matches(request.scope)[0] != Match.NONE]
    if fitting:
        allowed = {method for route in fitting for method in route.methods or ()}
        methods = ", ".join(sorted(allowed))
        return ApiError(405, f"{asked} is not allowed; allowed: {methods}.", headers={"Allow": methods})
    there = "POST /v1/completions, GET /v1/models, GET /v1/models/NAME"
    if request.path_params.get("rest", "").startswith("chat/"):
        there = "POST /v1/completions; these models continue a text and have learned no dialogue"
    return ApiError(404, f"{asked} is unknown; there is: {there}.", code="unknown_url")


def _told(error: Exception, path: str) -> ApiError:
    """What the client is told; what went wrong in the server itself stands in its log."""
    if isinstance(error, ApiError | TextgenError):
        return as_api_error(error)
    _LOGGER.error("a request to %s failed", path, exc_info=error)
    return ApiError(500, "The server failed; its log says why.", kind="server_error")


class _Json(JSONResponse):
    """JSON in which half a character, which an error may repeat and UTF-8 has no place for, is a question mark."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )


def outcome(status: int) -> str:
    """What became of a request, for who counts them."""
    if status in _OUTCOMES:
        return _OUTCOMES[status]
    return "ok" if status < 400 else "invalid" if status < 500 else "failed"


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
