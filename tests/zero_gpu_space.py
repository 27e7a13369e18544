"""`app.py` as a Space on ZeroGPU runs it.

The package `spaces` is the real one and forks the processes; a lender stands in for Hugging Face's scheduler, by the
routes that `spaces` calls, and PyTorch without CUDA for one that has it (tests/cuda_stand_in.py). All writing and
training is on the processor, in the processes in which the GPU would be.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import psutil

DEADLINE_SECONDS = 240.0

_ROOT = Path(__file__).parents[1]
_START = "import tests.cuda_stand_in, runpy; runpy.run_path('app.py', run_name='__main__')"


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


@dataclass
class Space:
    """A running Space, its process, and whom it asks for a GPU."""

    address: str
    folder: Path
    process: subprocess.Popen[bytes]
    lender: Lender

    def told(self) -> str:
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/", timeout=30) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def zero_gpu_space(folder: Path, checkpoint: Path) -> Iterator[Space]:
    """A Space in a folder of its own, with a model as "tiny", whose slices last a second."""
    shutil.copy(_ROOT / "app.py", folder)
    shutil.copytree(checkpoint, folder / "checkpoints" / "tiny")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with lending() as lender, (folder / "log.txt").open("wb") as log:
        zero = {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": lender.address}
        own = {"GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(_ROOT), "TEXTGEN_TRAINING_SLICE_SECONDS": "1"}
        environment = {**os.environ, **zero, **own, "HOME": str(folder), "NUMBA_DISABLE_JIT": "1"}
        command = [sys.executable, "-c", _START]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        space = Space(f"http://127.0.0.1:{port}", folder, process, lender)
        try:
            space.wait_for(space.answers)
            yield space
        finally:
            forks = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(60)
    assert not psutil.wait_procs(forks, DEADLINE_SECONDS)[1]
    assert "Traceback" not in space.told(), space.told()


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
