"""ZeroGPU's scheduler as the package `spaces` speaks to it, over HTTP on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Lender:
    """What was asked of it; after `left` loans the quota is used up."""

    left: int = 1_000
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    address: str = ""

    def loans(self) -> list[int]:
        """For how many seconds a GPU was asked, each time."""
        return [int(query["durationSeconds"]) for path, query in self.asked if path == "/schedule"]

    def count(self, path: str) -> int:
        return sum(1 for asked, _ in self.asked if asked == path)

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, object]]:
        self.asked.append((path, query))
        if path != "/schedule":
            return 200, {}
        if self.left <= 0:
            return 429, {"left": 3, "wait": 600}
        self.left -= 1
        return 200, {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": f"loan-{len(self.asked)}"}


@contextmanager
def lending() -> Iterator[Lender]:
    lender = Lender()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = urlsplit(self.path)
            status, content = lender.answer(asked.path, dict(parse_qsl(asked.query)))
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    lender.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield lender
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
