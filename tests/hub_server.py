"""A Hub in miniature: the routes that the real client speaks when a model goes there or comes from there, and for jobs.

Datasets and Spaces are kept beside models, as `datasets/USER/NAME` and `spaces/USER/NAME`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

WRITER, STRANGER = "hf_writer", "hf_stranger"
OWNER = "anna"
_LARGE = (".safetensors", ".bin", ".model", ".gz")
_PIECE_BYTES = 16_384
LICENSES = {"mit", "apache-2.0", "unknown", "other"}


@dataclass
class Repository:
    """A repository at its newest commit. `listed` are sizes that its listing has wrong."""

    private: bool = False
    gated: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    listed: dict[str, int] = field(default_factory=dict)
    commits: int = 0
    # What a Space has beside its files.
    sdk: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    hardware: str = "cpu-basic"
    volumes: list[dict[str, str]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        content = "".join(f"{name} {hashlib.sha1(data).hexdigest()}\n" for name, data in sorted(self.files.items()))
        return hashlib.sha1(f"{self.commits}{content}".encode()).hexdigest()


TERMINAL_STAGES = ("COMPLETED", "CANCELED", "ERROR", "DELETED")
_GPU = {"type": "gpu", "model": "T4", "quantity": "1", "vram": "16 GB", "manufacturer": "Nvidia"}
_HARDWARE: dict[str, tuple[float, dict[str, str] | None]] = {
    "cpu-basic": (0.000167, None),
    "cpu-upgrade": (0.0005, None),
    "t4-small": (0.00667, _GPU),
}
# For Spaces only: nobody rents it by the minute.
_ZERO_GPU = "zero-a10g"


class Job:
    """A job as it was asked for, and what became of it. Whoever plays the machine writes lines and ends it."""

    def __init__(self, number: int, spec: dict[str, Any]) -> None:
        self.job_id = f"{number:024x}"
        self.spec = spec
        self.stage = "RUNNING"
        self.message: str | None = None
        self._lines: list[str] = ["===== Job started at 2026-01-01 ====="]
        self._changed = threading.Condition()

    def write(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def end(self, stage: str, message: str | None = None) -> None:
        with self._changed:
            self.stage, self.message = stage, message
            self._changed.notify_all()

    def follow(self) -> Iterator[str]:
        """The lines from the first one on, until the job ends."""
        number = 0
        while True:
            with self._changed:
                while len(self._lines) == number and self.stage not in TERMINAL_STAGES:
                    self._changed.wait()
                new = self._lines[number:]
            if not new:
                return
            number += len(new)
            yield from new

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.job_id,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "owner": {"id": "1", "name": OWNER, "type": "user"},
            "status": {"stage": self.stage, "message": self.message},
            **{name: value for name, value in self.spec.items() if name != "secrets"},
        }


class Hub:
    """What the server knows. `asked` are the requests so far: method, path, token. `on_job` plays the machine.

    `ranged` are those for a part of a file: its name, and from which byte on; without `gives_parts` all of it comes.
    `on_piece` is called before each piece of a file goes out, with its name and the byte where the piece begins: it may
    wait, and a `ConnectionError` of its cuts the connection.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.buckets: dict[str, str] = {}
        self.jobs: list[Job] = []
        self.on_job: Callable[[Job], None] = lambda _job: None
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.gives_parts = True
        self.ranged: list[tuple[str, int]] = []
        self.on_piece: Callable[[str, int], object] = lambda _name, _start: None
        self.address = ""
        self.fails: Callable[[str, str], bool] = lambda _method, _path: False

    def downloaded(self) -> list[str]:
        """The names of the files that somebody got, in order."""
        got = [path for method, path, _ in self.asked if method == "GET" and "/resolve/" in path]
        return [path.rpartition("/")[2] for path in got]


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A running server on this machine."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _digests(name: str, data: bytes) -> dict[str, Any]:
    """What a listing says of the bytes: git has only a pointer to large ones."""
    sha256 = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    large = name.endswith(_LARGE)
    content = pointer if large else data
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    lfs = {"lfs": {"sha256": sha256, "size": len(data), "pointerSize": len(pointer)}} if large else {}
    return {"blobId": blob, **lfs}


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", **more: str) -> None:
        super().__init__(status)
        self.status, self.code, self.message, self.more = status, code, message, more


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        # A client that has had enough may go without a word.
        with suppress(ConnectionError):
            super().handle()

    def _serve(self) -> None:
        self._token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        path = unquote(urlsplit(self.path).path)
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append((self.command, path, self._token))
        try:
            if self.hub.fails(self.command, path):
                raise _Refusal(503, message="out of order")
            if self._token not in ("", WRITER, STRANGER) or (self.command == "POST" and self._token == ""):
                raise _Refusal(401, message="Invalid credentials in Authorization header")
            for method, pattern, act in _ROUTES:
                match = re.fullmatch(pattern, path)
                if method == self.command and match:
                    return act(self, *match.groups())
            raise _Refusal(404)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            headers |= {"X-Error-Message": refusal.message} if refusal.message else {}
            self._answer({"error": refusal.message, **refusal.more}, refusal.status, **headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815

    def _answer(self, content: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **headers})

    def _begin(self, size: int, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self._begin(len(data), status, headers)
        if self.command != "HEAD":
            self.wfile.write(data)

    def _repository(self, name: str, *, revision: str = "main", write: bool = False) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self._token != WRITER):
            raise _Refusal(404, "RepoNotFound", "Repository not found")
        if write and self._token != WRITER:
            raise _Refusal(403, message="You don't have the rights to write")
        if revision not in ("main", found.sha):
            raise _Refusal(404, "RevisionNotFound", "Invalid rev id")
        return found

    def _create(self) -> None:
        asked = json.loads(self._body)
        if self._token != WRITER:
            raise _Refusal(403, message="You don't have the rights to create a model under this namespace")
        name = f"{_KINDS[asked.get('type', 'model')]}{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            raise _Refusal(409, message="You already created this model repo", url=f"{self.hub.address}/{name}")
        found = Repository(private=asked.get("visibility") == "private", sdk=asked.get("sdk"))
        if asked.get("type") == "space":
            assert found.sdk == "gradio"
            found.files = {".gitattributes": b"*.bin filter=lfs\n", "README.md": b"---\nsdk: gradio\n---\n"}
        self.hub.repositories[name] = found
        self._answer({"url": f"{self.hub.address}/{name}", "name": name})

    def _validate_yaml(self) -> None:
        card = json.loads(self._body)["content"]
        values = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else {}
        problems = [] if values.get("license", "unknown") in LICENSES else ["license: not one of those known"]
        problems += [] if isinstance(values.get("tags", []), list) else ["tags: no list"]
        answer = {"errors": [{"message": problem} for problem in problems], "warnings": []}
        self._answer(answer, 400 if problems else 200)

    def _info(self, name: str, revision: str = "main") -> None:
        found = self._repository(name, revision=revision)
        files = [
            {"rfilename": path, "size": found.listed.get(path, len(data)), **_digests(path, data)}
            for path, data in found.files.items()
        ]
        known = {
            "id": name.removeprefix("datasets/").removeprefix("spaces/"),
            "sha": found.sha,
            "private": found.private,
            "gated": False,
        }
        self._answer({**known, "siblings": files})

    def _info_of_newest(self, name: str) -> None:
        self._info(name)

    def _preupload(self, name: str, _revision: str) -> None:
        self._repository(name, write=True)
        files = [
            {"path": item["path"], "uploadMode": "lfs" if item["path"].endswith(_LARGE) else "regular"}
            for item in json.loads(self._body)["files"]
        ]
        self._answer({"files": [{**item, "shouldIgnore": False} for item in files]})

    def _batch(self, name: str) -> None:
        self._repository(name, write=True)
        objects = []
        for item in json.loads(self._body)["objects"]:
            href, there = f"{self.hub.address}/objects/{item['oid']}", item["oid"] in self.hub.objects
            objects.append({**item, **({} if there else {"actions": {"upload": {"href": href}}})})
        self._answer({"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        assert hashlib.sha256(self._body).hexdigest() == oid
        self.hub.objects[oid] = self._body
        self._send(b"", 200, {})

    def _commit(self, name: str, _revision: str) -> None:
        found = self._repository(name, write=True)
        for line in self._body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                found.files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del found.files[value["path"]]
        found.commits += 1
        address = f"{self.hub.address}/{name}/commit/{found.sha}"
        self._answer({"success": True, "commitUrl": address, "commitOid": found.sha})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._repository(name, revision=revision)
        if found.gated:
            raise _Refusal(403, "GatedRepo", "Access to this model is restricted")
        if path not in found.files:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        data = found.files[path]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": found.sha}
        part = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(part[1]) if part and self.hub.gives_parts else 0
        if part:
            self.hub.ranged.append((path, int(part[1])))
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._begin(len(data) - start, 206 if start else 200, headers)
        try:
            for at in range(start, len(data) if self.command != "HEAD" else 0, _PIECE_BYTES):
                self.hub.on_piece(path, at)
                self.wfile.write(data[at : at + _PIECE_BYTES])
        except ConnectionError:
            self.close_connection = True

    def _whoami(self) -> None:
        if self._token == "":
            raise _Refusal(401, message="Invalid credentials in Authorization header")
        self._answer({"type": "user", "name": OWNER, "auth": {"accessToken": {"role": "write"}}})

    def _space(self, name: str) -> Repository:
        return self._repository(f"spaces/{name}", write=True)

    def _variables(self, name: str) -> None:
        self._answer({key: {"value": value} for key, value in self._space(name).variables.items()})

    def _add_variable(self, name: str) -> None:
        asked = json.loads(self._body)
        self._space(name).variables[asked["key"]] = asked["value"]
        self._variables(name)

    def _add_secret(self, name: str) -> None:
        asked = json.loads(self._body)
        self._space(name).secrets[asked["key"]] = asked["value"]
        self._answer({})

    def _request_hardware(self, name: str) -> None:
        flavor = json.loads(self._body)["flavor"]
        if flavor not in {*_HARDWARE, _ZERO_GPU}:
            raise _Refusal(400, message=f"{flavor} is no hardware")
        self._space(name).hardware = flavor
        self._answer({"stage": "BUILDING", "hardware": {"current": None, "requested": flavor}, "gcTimeout": None})

    def _mount(self, name: str) -> None:
        volumes = json.loads(self._body)["volumes"]
        if any(item["source"] not in self.hub.buckets for item in volumes):
            raise _Refusal(404, message="No such bucket")
        self._space(name).volumes = volumes
        self._answer({})

    def _create_bucket(self, name: str) -> None:
        address = f"{self.hub.address}/buckets/{name}"
        if self._token != WRITER:
            raise _Refusal(403, message="You don't have the rights to create a bucket")
        if name in self.hub.buckets:
            raise _Refusal(409, message="You already created this bucket", url=address)
        self.hub.buckets[name] = json.loads(self._body)["visibility"]
        self._answer({"url": address})

    def _hardware(self) -> None:
        listed = [
            {"name": name, "prettyName": name, "cpu": "2 vCPU", "ram": "16 GB", "accelerator": accelerator}
            | {"unitCostMicroUSD": round(cost * 1e6), "unitCostUSD": cost, "unitLabel": "minute"}
            for name, (cost, accelerator) in _HARDWARE.items()
        ]
        self._answer(listed)

    def _run_job(self, owner: str) -> None:
        if self._token != WRITER or owner != OWNER:
            raise _Refusal(403, message="You don't have the rights to run jobs")
        job = Job(len(self.hub.jobs) + 1, json.loads(self._body))
        self.hub.jobs.append(job)
        self._answer(job.as_dict())
        self.hub.on_job(job)

    def _job(self, job_id: str) -> Job:
        found = [job for job in self.hub.jobs if job.job_id == job_id]
        if not found or self._token != WRITER:
            raise _Refusal(404, message="Job not found")
        return found[0]

    def _inspect(self, _owner: str, job_id: str) -> None:
        self._answer(self._job(job_id).as_dict())

    def _log(self, _owner: str, job_id: str) -> None:
        job = self._job(job_id)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for line in job.follow():
            event = json.dumps({"timestamp": "2026-01-01T00:00:00.000Z", "data": line})
            self.wfile.write(f"data: {event}\n\n".encode())
            self.wfile.flush()
        self.close_connection = True


_KINDS = {"model": "", "dataset": "datasets/", "space": "spaces/"}
# A model's name, or a dataset's or a Space's with its kind before it.
_NAME = r"((?:datasets/|spaces/)?(?!datasets/|spaces/)[^/]+/[^/]+)"
_API = rf"/api/(?:models/)?{_NAME}"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", r"/api/validate-yaml", _Handler._validate_yaml),
    ("GET", r"/api/whoami-v2", _Handler._whoami),
    ("GET", r"/api/jobs/hardware", _Handler._hardware),
    ("POST", r"/api/jobs/([^/]+)", _Handler._run_job),
    ("GET", r"/api/jobs/([^/]+)/([^/]+)", _Handler._inspect),
    ("GET", r"/api/jobs/([^/]+)/([^/]+)/logs", _Handler._log),
    ("GET", r"/api/spaces/([^/]+/[^/]+)/variables", _Handler._variables),
    ("POST", r"/api/spaces/([^/]+/[^/]+)/variables", _Handler._add_variable),
    ("POST", r"/api/spaces/([^/]+/[^/]+)/secrets", _Handler._add_secret),
    ("POST", r"/api/spaces/([^/]+/[^/]+)/hardware", _Handler._request_hardware),
    ("PUT", r"/api/spaces/([^/]+/[^/]+)/volumes", _Handler._mount),
    ("POST", r"/api/buckets/([^/]+/[^/]+)", _Handler._create_bucket),
    ("GET", rf"{_API}", _Handler._info_of_newest),
    ("GET", rf"{_API}/revision/(.+)", _Handler._info),
    ("POST", rf"{_API}/preupload/(.+)", _Handler._preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/objects/(\w+)", _Handler._put),
    ("POST", rf"{_API}/commit/(.+)", _Handler._commit),
    ("HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler._resolve),
    ("GET", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler._resolve),
]
