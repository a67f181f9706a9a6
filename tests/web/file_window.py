"""A browser before a real cluster, as far as files go: cookie, token, and requests whose bodies come and go slowly."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from teleport.testing.cluster import LOOPBACK, NODE, PASSWORD, PUBLIC, Cluster, Person
from teleport.web.origin import CSRF_COOKIE, CSRF_HEADER
from teleport.web.sessions import COOKIE

CSRF = "a-token-of-the-page"


@dataclass
class Got:
    """An answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


@dataclass
class Window:
    """Somebody who is logged in."""

    cluster: Cluster
    cookie: str = ""
    token: str = ""
    login: str = ""
    other: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, person: Person, login: str) -> Window:
        window = cls(person.cluster, login=login)
        code = person.code() if person.totp_secret else ""
        body = {"user": person.name, "pass": PASSWORD, "second_factor_token": code}
        got = window.ask("POST", "/webapi/sessions/web", json.dumps(body).encode())
        assert got.status == 200, got.body
        window.cookie = got.headers["Set-Cookie"].partition(";")[0].partition("=")[2]
        window.token = got.json["token"]
        return window

    @property
    def origin(self) -> str:
        return f"https://{PUBLIC}:{self.cluster.web_port}"

    def headers(self, **more: str | None) -> dict[str, str]:
        found = {
            "Cookie": f"{CSRF_COOKIE}={CSRF}" + (f"; {COOKIE}={self.cookie}" if self.cookie else ""),
            "Origin": self.origin,
            CSRF_HEADER: CSRF,
            "Authorization": f"Bearer {self.token}" if self.token else None,
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        return {name: value for name, value in found.items() if value is not None}

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        context = ssl.create_default_context(cadata=self.cluster.authority())
        with (
            socket.create_connection((LOOPBACK, self.cluster.web_port), 20) as raw,
            context.wrap_socket(raw, server_hostname="teleport.cluster.local") as secure,
        ):
            made = http.client.HTTPConnection(PUBLIC, self.cluster.web_port)
            made.sock = secure
            yield made

    def ask(self, method: str, path: str, body: Any = None, **headers: str | None) -> Got:
        with self.connection() as connection:
            connection.request(method, path, body, self.headers(**headers))
            response = connection.getresponse()
            return Got(response.status, response.headers, response.read())

    def scp(self, *, host: str = NODE, login: str = "", site: str = "", **query: str) -> str:
        to = f"/webapi/sites/{site or self.cluster.name}/nodes/{quote(host, safe='')}/{quote(login or self.login)}/scp"
        return f"{to}?{urlencode(query)}" if query else to

    def upload(self, content: bytes | Iterable[bytes], location: str, filename: str = "", **headers: str | None) -> Got:
        return self.ask("POST", self.scp(location=location, filename=filename), content, **headers)

    def download(self, location: str, **headers: str | None) -> Got:
        return self.ask("GET", self.scp(location=location), **headers)

    def ticket(self, location: str, **more: str) -> Got:
        body = json.dumps({"location": location, **more}).encode()
        return self.ask("POST", f"{self.scp()}/ticket", body)
