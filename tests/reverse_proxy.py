"""A reverse proxy for tests: what stands before a server on most hosts, and before every Space."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

_SECONDS = 150.0


@contextmanager
def listening(
    routes: Sequence[BaseRoute], *, port: int = 0, certificate: Path | None = None, **options: Any
) -> Iterator[str]:
    """The address under which a thread answers on loopback; by HTTPS with a PEM file of a key and its certificate."""
    secret: dict[str, Any] = {} if certificate is None else {"ssl_certfile": str(certificate)}
    config = uvicorn.Config(Starlette(routes=routes, **options), port=port, log_level="critical", **secret)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    ready = threading.Event()
    while not server.started:
        assert thread.is_alive()
        ready.wait(0.02)
    try:
        yield f"http{'s' if secret else ''}://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@dataclass
class ReverseProxy:
    """Has the server at `upstream` under `path` and nothing else; `strayed` is what was asked for beside it."""

    upstream: str
    path: str = ""
    strayed: list[str] = field(default_factory=list)

    @contextmanager
    def running(self, *, port: int = 0, certificate: Path | None = None) -> Iterator[str]:
        """Its address, with the path."""
        methods = ["GET", "HEAD", "POST"]
        passed = Route(self.path + "/{path:path}", self._pass_on, methods=methods)
        routes = [passed, Route("/{path:path}", self._refuse)]
        with listening(routes, port=port, certificate=certificate, lifespan=self._lifespan) as address:
            yield address + self.path

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=self.upstream, timeout=_SECONDS) as self._client:
            yield

    async def _pass_on(self, request: Request) -> Response:
        forwarded = {"x-forwarded-proto": request.url.scheme, "x-forwarded-for": "127.0.0.1"}
        path = httpx.URL(f"/{request.path_params['path']}").copy_with(query=request.url.query.encode())
        headers = {**request.headers, **forwarded}
        asked = self._client.build_request(request.method, path, headers=headers, content=await request.body())
        answer = await self._client.send(asked, stream=True)
        kept = [item for item in answer.headers.multi_items() if item[0] not in ("transfer-encoding", "connection")]
        response = StreamingResponse(answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose))
        response.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept]
        return response

    async def _refuse(self, request: Request) -> Response:
        if request.url.path == "/favicon.ico":  # the browser asks the host itself for one, wherever a page lies
            return Response(status_code=204)
        self.strayed.append(request.url.path)
        return PlainTextResponse("", 404)
