"""Who it is that looks at the page.

On one's own machine everything is one's own. On a shared host a browser gets an unguessable key in a signed cookie, and
whoever knows the administrator's key sees everything.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import gradio as gr
from itsdangerous import BadSignature, URLSafeSerializer
from starlette.requests import cookie_parser

from textgen.files import explain_write_errors
from textgen.workshop import EVERYBODY, Person

COOKIE = "textgen_owner"
_YEAR_SECONDS = 365 * 86_400
_SECRET = ".secret"


class People:
    """Tells people apart by their requests, where a folder is given that keeps what signs their keys.

    `admin_key`: who has it in the cookie sees everything.
    """

    def __init__(self, runs: Path | None = None, *, admin_key: str | None = None) -> None:
        self._admin_key = admin_key.encode() if admin_key else None
        self._serializer = URLSafeSerializer(_secret(runs / _SECRET), salt=COOKIE) if runs is not None else None

    @property
    def shared(self) -> bool:
        """Whether the host is shared."""
        return self._serializer is not None

    @property
    def keeps_keys(self) -> bool:
        """Whether every browser gets a key of its own."""
        return self._serializer is not None

    def of(self, request: gr.Request | None) -> Person:
        """The person who sent a request; one without a key of its own is whoever has that page open.

        Who logs in keeps what this browser has made before; what is made then is the account's.
        """
        if self._serializer is None:
            return EVERYBODY
        key, account = self.key_in(dict(request.cookies) if request is not None else {}), _account(request)
        if account is not None:
            return Person(f"hf:{account}", is_admin=key is not None and self._is_admin(key), former_key=key)
        if key is None:
            # A browser that keeps no cookies, in a frame say: what it brings is its own as long as the page is open.
            session = getattr(request, "session_hash", None) or secrets.token_hex(16)
            return Person(f"nobody:{session}")
        return Person(key, is_admin=self._is_admin(key))

    def hub_token(self, given: str | None) -> str | bool | None:
        """What to ask the Hub with: the token that was given, else the machine's login; where people share it, none."""
        return (given or "").strip() or (False if self.shared else None)

    def knows_account(self, request: gr.Request | None) -> bool:
        """Whether a request comes from somebody who is logged in with Hugging Face."""
        return _account(request) is not None

    def key_in(self, cookies: Mapping[str, str]) -> str | None:
        """The key that a signed cookie holds; None for a missing or forged one."""
        assert self._serializer is not None
        try:
            key = self._serializer.loads(cookies.get(COOKIE, ""))
        except BadSignature:
            return None
        return key if isinstance(key, str) else None

    def cookie(self, key: str, *, secure: bool, path: str = "/") -> str:
        """A Set-Cookie header for what lies under `path`: another studio of the same host has another secret.

        Inside the frame of a Space only a partitioned cookie is kept, and only over HTTPS.
        """
        assert self._serializer is not None
        value = self._serializer.dumps(key)
        where = "; SameSite=None; Secure; Partitioned" if secure else "; SameSite=Lax"
        return f"{COOKIE}={value}; Path={path}; Max-Age={_YEAR_SECONDS}; HttpOnly{where}"

    def _is_admin(self, key: str) -> bool:
        return self._admin_key is not None and hmac.compare_digest(key.encode(), self.admin_owner.encode())

    @property
    def admin_owner(self) -> str:
        """The administrator's key as the owner of runs: what is written beside runs and in cookies opens nothing."""
        return f"admin:{hashlib.blake2b(self._admin_key or b'', digest_size=16).hexdigest()}"

    def admits(self, given: str) -> bool:
        """Whether this is the administrator's key."""
        return self._admin_key is not None and hmac.compare_digest(given.encode(), self._admin_key)


NOBODY_ELSE = People()


class Visitors(People):
    """People on a shared host where nobody can train: none of them owns anything, nor sees what somebody else does."""

    @property
    def shared(self) -> bool:
        return True

    def of(self, request: gr.Request | None) -> Person:  # noqa: ARG002
        return Person("")


class OwnerCookie:
    """Middleware that gives every browser its key with the first page; `?admin=KEY` makes it the administrator's.

    From there the browser is sent on, so that the key is not in its address bar, nor in what is copied from there.
    """

    def __init__(self, app: Any, people: People) -> None:
        self._app = app
        self._people = people

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        header = self._header(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        if header is None:
            await self._app(scope, receive, send)
            return
        query = _query(scope)
        if self._people.admits(dict(query).get("admin", "")):
            # Relative, since a proxy may have this page under another path.
            there = "?" + urlencode([(name, value) for name, value in query if name != "admin"])
            headers = [(b"location", there.encode("latin-1")), (b"set-cookie", header), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 303, "headers": headers})
            await send({"type": "http.response.body"})
            return

        async def send_with_cookie(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), (b"set-cookie", header)]}
            await send(message)

        await self._app(scope, receive, send_with_cookie)

    def _header(self, scope: Any) -> bytes | None:
        root = scope.get("root_path", "").rstrip("/")
        # A proxy may have taken the root's path off, or not.
        if not self._people.keeps_keys or scope["path"].removeprefix(root).strip("/"):
            return None
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        # As `gr.Request` reads them: what other pages of this host have set may be no proper cookies.
        cookies = cookie_parser(headers.get("cookie", ""))
        secure = scope.get("scheme") == "https" or headers.get("x-forwarded-proto", "").startswith("https")
        where: dict[str, Any] = {"secure": secure, "path": urlsplit(root).path or "/"}
        if self._people.admits(dict(_query(scope)).get("admin", "")):
            return self._people.cookie(self._people.admin_owner, **where).encode("latin-1")
        if self._people.key_in(cookies) is not None:
            return None
        return self._people.cookie(secrets.token_urlsafe(24), **where).encode("latin-1")


def _query(scope: Any) -> list[tuple[str, str]]:
    return parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)


def _account(request: gr.Request | None) -> str | None:
    """The Hugging Face account that a request is logged in with: its number, since people may change their names.

    Where there is a login button gradio keeps it in a session that it signs.
    """
    # Within gradio's request: its own attributes are copies by way of JSON, which not all of this is.
    scope = getattr(getattr(request, "request", None), "scope", None)
    session = scope.get("session") if isinstance(scope, Mapping) else None
    login = session.get("oauth_info") if isinstance(session, Mapping) else None
    if not isinstance(login, Mapping) or float(login.get("expires_at") or 0.0) < time.time():
        return None
    account = dict(login.get("userinfo") or {}).get("sub")
    return account if isinstance(account, str) and account else None


def _secret(path: Path) -> str:
    """What signs the cookies of this folder of runs; made once, for nobody else to read."""
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # readable by this user only
            with os.fdopen(descriptor, "w") as stream:
                stream.write(secrets.token_hex(32))
            try:
                os.link(made, path)
            except FileExistsError:  # another server was quicker
                pass
            except OSError:  # a file system without hard links
                os.replace(made, path)
            Path(made).unlink(missing_ok=True)
        return path.read_text(encoding="ascii")
