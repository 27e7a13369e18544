"""Keys of people, and the cookie that carries them over real HTTP."""

from __future__ import annotations

import http.client
import json
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import pytest
import uvicorn
from itsdangerous import URLSafeSerializer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from textgen.errors import CannotWrite
from textgen.ui.people import COOKIE, NOBODY_ELSE, OwnerCookie, People
from textgen.workshop import EVERYBODY

ADMIN = "correct horse 密码"
DEADLINE_SECONDS = 30.0


def asked(cookies: str = "", *, login: dict[str, Any] | None = None, **values: Any) -> gr.Request:
    """What a handler of the page gets for a browser with these cookies, logged in with Hugging Face or not."""
    headers = [(b"cookie", cookies.encode("latin-1"))] if cookies else []
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    if login is not None:
        until = time.time() + (-1.0 if login.get("expired") else 3600.0)
        scope["session"] = {"oauth_info": {"userinfo": login, "expires_at": until}}
    return gr.Request(Request(scope), **values)


def cookie_pair(people: People, key: str) -> str:
    """A key as a browser sends it back."""
    return people.cookie(key, secure=False).partition(";")[0]


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "runs", admin_key=ADMIN)


class TestKeys:
    def test_on_ones_own_machine_everything_is_ones_own(self, people: People) -> None:
        stranger = asked(cookie_pair(people, "anna"))
        assert NOBODY_ELSE.of(stranger) == NOBODY_ELSE.of(None) == EVERYBODY
        assert not NOBODY_ELSE.shared

    def test_a_key_is_its_owner(self, people: People) -> None:
        anna, bo = (people.of(asked(cookie_pair(people, key))) for key in ("anna", "bo"))
        assert people.shared
        assert (anna.key, bo.key) == ("anna", "bo")
        assert not anna.is_admin
        assert anna.owns("anna")
        assert not anna.owns("bo")
        assert not anna.owns("")

    def test_without_a_key_one_owns_nothing(self, people: People) -> None:
        first, second = people.of(None), people.of(asked())
        assert first.key != second.key
        assert not first.owns("")
        assert not first.owns(second.key)
        assert not first.is_admin

    @pytest.mark.parametrize("forged", ["", "x", '"anna"', '"anna".abc', ".", "ImFubmEi.", "é", "a" * 5_000])
    def test_a_forged_cookie_is_none(self, people: People, forged: str) -> None:
        assert people.of(asked(f"{COOKIE}={forged}")).key.startswith("nobody:")

    def test_a_cookie_that_another_secret_signed_is_none(self, people: People, tmp_path: Path) -> None:
        other = People(tmp_path / "other", admin_key=ADMIN)
        for key in ("anna", other.admin_owner):
            person = people.of(asked(cookie_pair(other, key)))
            assert person.key.startswith("nobody:")
            assert not person.is_admin

    def test_a_signed_value_for_another_purpose_is_none(self, people: People, tmp_path: Path) -> None:
        secret = (tmp_path / "runs" / ".secret").read_text()
        other = URLSafeSerializer(secret, salt="something else").dumps("anna")
        number = URLSafeSerializer(secret, salt=COOKIE).dumps(5)
        assert isinstance(number, str)
        assert people.key_in({COOKIE: str(other)}) is None
        assert people.key_in({COOKIE: number}) is None

    def test_who_logs_in_keeps_what_the_browser_made_before(self, people: People) -> None:
        login = {"sub": "5f1", "preferred_username": "mira"}
        person = people.of(asked(cookie_pair(people, "anna"), login=login))
        assert (person.key, person.is_admin) == ("hf:5f1", False)
        assert person.owns("hf:5f1")
        assert person.owns("anna")
        assert not person.owns("bo")
        elsewhere = people.of(asked(login=login))
        assert elsewhere.owns("hf:5f1")
        assert not elsewhere.owns("anna")
        assert not elsewhere.owns("")

    def test_an_administrator_who_logs_in_is_one_still(self, people: People) -> None:
        admin = people.of(asked(cookie_pair(people, people.admin_owner), login={"sub": "5f1"}))
        assert (admin.key, admin.is_admin) == ("hf:5f1", True)
        assert admin.owns("anna")

    def test_who_is_logged_in_is_known(self, people: People) -> None:
        assert people.knows_account(asked(login={"sub": "5f1"}))
        assert not people.knows_account(asked(cookie_pair(people, "anna")))

    @pytest.mark.parametrize("login", [{}, {"sub": ""}, {"sub": 7}, {"sub": "5f1", "expired": True}, None])
    def test_no_login_leaves_the_cookie(self, people: People, login: dict[str, Any] | None) -> None:
        assert not people.knows_account(asked(login=login))
        assert people.of(asked(cookie_pair(people, "anna"), login=login)).key == "anna"

    def test_the_administrator_sees_everything(self, people: People) -> None:
        admin = people.of(asked(cookie_pair(people, people.admin_owner)))
        assert admin.is_admin
        assert admin.owns("anna")

    def test_another_administrators_key_ends_the_rights_of_the_one_before(self, people: People, tmp_path: Path) -> None:
        pair = cookie_pair(people, people.admin_owner)
        for now in (People(tmp_path / "runs", admin_key="another"), People(tmp_path / "runs")):
            assert not now.of(asked(pair)).is_admin

    def test_the_administrators_key_is_in_no_cookie(self, people: People) -> None:
        signed = cookie_pair(people, people.admin_owner).partition("=")[2]
        assert "correct" not in str(people.key_in({COOKIE: signed}))

    @pytest.mark.parametrize("given", ["", "wrong", ADMIN + " ", "密"])
    def test_only_the_right_key_is_admitted(self, people: People, tmp_path: Path, given: str) -> None:
        assert people.admits(ADMIN)
        assert not people.admits(given)
        assert not People(tmp_path / "runs").admits(given)
        assert not People(tmp_path / "runs", admin_key="").admits(given)


class TestSecret:
    def test_only_its_user_may_read_it(self, people: People, tmp_path: Path) -> None:
        secret = tmp_path / "runs" / ".secret"
        assert people.shared
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert len(secret.read_text()) == 64

    def test_a_server_that_starts_again_knows_its_people(self, people: People, tmp_path: Path) -> None:
        again = People(tmp_path / "runs")
        assert again.of(asked(cookie_pair(people, "anna"))).key == "anna"
        assert [path.name for path in (tmp_path / "runs").iterdir()] == [".secret"]

    def test_it_is_made_once_by_servers_that_start_together(self, tmp_path: Path) -> None:
        together = threading.Barrier(8)

        def start(_: int) -> str:
            together.wait(DEADLINE_SECONDS)
            return cookie_pair(People(tmp_path / "runs"), "anna")

        with ThreadPoolExecutor(8) as pool:
            cookies = set(pool.map(start, range(8)))
        assert len(cookies) == 1
        assert [path.name for path in (tmp_path / "runs").iterdir()] == [".secret"]

    @pytest.mark.slow
    def test_it_is_made_once_by_several_processes(self, tmp_path: Path) -> None:
        code = (
            "import sys; sys.stdin.readline()\n"
            "from pathlib import Path; from textgen.ui.people import _secret\n"
            "print('ready', flush=True); sys.stdin.readline(); print(_secret(Path(sys.argv[1])), flush=True)\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "runs" / ".secret")]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        try:
            for process in processes:
                tell(process)
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in processes:
                tell(process)
            told = {process.communicate(timeout=DEADLINE_SECONDS)[0] for process in processes}
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert told == {(tmp_path / "runs" / ".secret").read_text() + "\n"}
        assert [path.name for path in (tmp_path / "runs").iterdir()] == [".secret"]

    def test_a_folder_that_cannot_be_made_is_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("a file")
        with pytest.raises(CannotWrite, match="could not be written"):
            People(tmp_path / "runs")


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


class Answer(NamedTuple):
    """What a server answered: who it took the browser for, and the cookie it set."""

    person: dict[str, Any]
    cookie: str

    @property
    def pair(self) -> str:
        return self.cookie.partition(";")[0]

    @property
    def attributes(self) -> set[str]:
        return {part.strip().lower() for part in self.cookie.split(";")[1:]}


@contextmanager
def served(people: People, *, mounted_at: str = "", **options: Any) -> Iterator[int]:
    """A tiny app behind the middleware on a port of this machine: it says who asks."""

    async def who(request: Request) -> JSONResponse:
        person = people.of(gr.Request(request))
        response = JSONResponse({"key": person.key, "admin": person.is_admin})
        response.set_cookie("theirs", "kept")
        return response

    inner: Any = OwnerCookie(Starlette(routes=[Route("/{path:path}", who, methods=["GET", "POST"])]), people)
    app = Starlette(routes=[Mount(mounted_at, app=inner)]) if mounted_at else inner
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            thread.join(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(DEADLINE_SECONDS)


def ask(port: int, path: str = "/", *, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        body = json.loads(response.read())
        cookies = response.msg.get_all("set-cookie") or []
    finally:
        connection.close()
    # Cookies of the app itself are let through.
    assert any(cookie.startswith("theirs=kept") for cookie in cookies)
    ours = [cookie for cookie in cookies if cookie.startswith(f"{COOKIE}=")]
    assert len(ours) <= 1
    return Answer(body, ours[0] if ours else "")


def sent_on(port: int, path: str, **headers: str) -> tuple[str, str]:
    """Where a browser that opens `path` is sent, and the cookie that it is given."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        assert (response.status, response.read()) == (303, b"")
        return str(response.headers["location"]), str(response.headers["set-cookie"])
    finally:
        connection.close()


class TestCookie:
    @pytest.fixture
    def port(self, people: People) -> Iterator[int]:
        with served(people) as port:
            yield port

    def test_the_first_page_brings_a_key_that_stays(self, port: int, people: People) -> None:
        first = ask(port)
        assert first.person["key"].startswith("nobody:")
        assert first.attributes >= {"path=/", "httponly", "samesite=lax"}
        assert not first.attributes & {"secure", "partitioned"}
        (morsel,) = SimpleCookie(first.cookie).values()
        key = people.key_in({COOKIE: morsel.value})
        assert key is not None
        assert len(key) >= 30
        again = ask(port, cookie=first.pair)
        assert again.person == {"key": key, "admin": False}
        assert again.cookie == ""

    def test_every_browser_gets_its_own(self, port: int) -> None:
        assert ask(port).pair != ask(port).pair

    @pytest.mark.parametrize("proto", ["https", "https,http"])
    def test_inside_the_frame_of_a_space_the_cookie_is_partitioned(self, port: int, proto: str) -> None:
        answer = ask(port, x_forwarded_proto=proto)
        assert answer.attributes >= {"samesite=none", "secure", "partitioned", "httponly"}

    def test_only_the_page_itself_brings_a_key(self, port: int) -> None:
        assert ask(port, "/config").cookie == ""
        assert ask(port, "/", method="POST").cookie == ""
        assert ask(port, "/?__theme=dark").cookie != ""

    def test_a_forged_cookie_is_replaced(self, port: int) -> None:
        assert ask(port, cookie=f"{COOKIE}=ImFubmEi.forged").cookie != ""

    @pytest.mark.parametrize(
        "others", ["a=1; {}; b=2", 'j={{"a": [1, 2]}}; {}', "plain; {}", "x[y]=z; {}", "a:b=c d; {}", '{}; q="unclosed']
    )
    def test_a_key_beside_cookies_of_other_pages_is_found(self, port: int, people: People, others: str) -> None:
        pair = cookie_pair(people, "anna")
        answer = ask(port, cookie=others.format(pair))
        assert answer.person["key"] == "anna"
        assert answer.cookie == ""

    def test_the_right_word_makes_an_administrator(self, port: int) -> None:
        anna = ask(port).pair
        there, cookie = sent_on(port, "/?admin=correct+horse+%E5%AF%86%E7%A0%81", cookie=anna)
        pair = cookie.partition(";")[0]
        assert ask(port, f"/{there}", cookie=pair).person["admin"] is True
        for wrong in ("/?admin=wrong", "/?admin=", "/?admin=%FF", "/?admin"):
            assert ask(port, wrong, cookie=anna).cookie == ""
            assert ask(port, wrong, cookie=pair).person["admin"] is True

    def test_the_word_is_not_left_in_the_address(self, port: int) -> None:
        word = "admin=correct+horse+%E5%AF%86%E7%A0%81"
        assert sent_on(port, f"/?{word}")[0] == "?"
        assert sent_on(port, f"/?prompt=a%26b&{word}&__theme=dark")[0] == "?prompt=a%26b&__theme=dark"

    def test_nobody_is_told_apart_on_ones_own_machine(self) -> None:
        with served(NOBODY_ELSE) as port:
            assert ask(port) == Answer({"key": "", "admin": True}, "")

    def test_below_a_path_of_the_host(self, people: People) -> None:
        with served(people, mounted_at="/studio") as port:
            answer = ask(port, "/studio/")
            assert "; Path=/studio; " in answer.cookie
            assert ask(port, "/studio/", cookie=answer.pair).person["key"] == people.key_in(
                {COOKIE: answer.pair.partition("=")[2]}
            )
            assert ask(port, "/studio/config").cookie == ""

    def test_behind_a_proxy_that_cuts_the_path_off(self, people: People) -> None:
        with served(people, root_path="/studio") as port:
            assert "; Path=/studio; " in ask(port, "/").cookie
            assert "; Path=/studio; " in sent_on(port, "/?admin=correct+horse+%E5%AF%86%E7%A0%81")[1]
            assert ask(port, "/config").cookie == ""
