"""What stands in for Hugging Face where people log in: an OpenID provider on loopback, by the routes of the standard.

OpenID Connect Core 1.0, section 3.1 (authorization code), and Discovery 1.0, section 4.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from urllib.parse import parse_qsl

from joserfc import jwk, jwt
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tests.reverse_proxy import listening

CLIENT_ID, CLIENT_SECRET = "studio", "between-the-two"
_BASIC = f"Basic {base64.b64encode(f'{CLIENT_ID}:{CLIENT_SECRET}'.encode()).decode()}"


@dataclass
class IdentityProvider:
    """Lets somebody choose who they are of `accounts` (number: name), and hands that on to one client.

    A person is sent back to addresses that begin with `returns_to` only.
    """

    accounts: dict[str, str]
    returns_to: str
    address: str = ""
    _granted: dict[str, dict[str, str]] = field(default_factory=dict)
    _key: jwk.RSAKey = field(default_factory=lambda: jwk.RSAKey.generate_key(2048, {"kid": "one", "use": "sig"}))

    @contextmanager
    def running(self) -> Iterator[str]:
        routes = [
            Route("/.well-known/openid-configuration", self._describe),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/keys", self._keys),
        ]
        with listening(routes) as self.address:
            yield self.address

    async def _describe(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.address,
                "authorization_endpoint": f"{self.address}/authorize",
                "token_endpoint": f"{self.address}/token",
                "jwks_uri": f"{self.address}/keys",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def _authorize(self, request: Request) -> Response:
        """A page with a link for each account."""
        asked = dict(request.query_params)
        back = asked["redirect_uri"]
        if asked["client_id"] != CLIENT_ID or asked["response_type"] != "code" or not back.startswith(self.returns_to):
            return HTMLResponse(f"{back} is no address of {asked['client_id']}", 400)
        links = []
        for number, name in self.accounts.items():
            code = secrets.token_urlsafe(8)
            self._granted[code] = {"sub": number, "preferred_username": name, "nonce": asked["nonce"], "back": back}
            href = f"{back}{'&' if '?' in back else '?'}code={code}&state={asked['state']}"
            links.append(f'<p><a href="{escape(href)}">{name}</a></p>')
        return HTMLResponse(f"<!doctype html><title>Who are you?</title><link rel=icon href=data:,>{''.join(links)}")

    async def _token(self, request: Request) -> Response:
        asked = dict(parse_qsl((await request.body()).decode()))
        granted = self._granted.pop(asked["code"])  # once
        if (request.headers["authorization"], asked["redirect_uri"]) != (_BASIC, granted.pop("back")):
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {"iss": self.address, "aud": CLIENT_ID, "iat": now, "exp": now + 3600, **granted}
        token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, self._key)
        return JSONResponse(
            {"access_token": secrets.token_urlsafe(8), "token_type": "bearer", "expires_in": 3600, "id_token": token}
        )

    async def _keys(self, _request: Request) -> Response:
        return JSONResponse({"keys": [self._key.as_dict(private=False)]})
