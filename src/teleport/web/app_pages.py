"""The web client as the proxy serves it: one page, and its scripts and styles by the hash in their names.

What `scripts/webui.sh build` left in `static/app/` is read once, at the first request: a request's path is looked up in
what was read, and never becomes a path on disk. The page is asked for anew each time; files whose names say what is in
them are kept by browsers for good.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, Final

from aiohttp import web

from teleport.errors import NotFound
from teleport.web.pages import with_csrf_cookie

KINDS: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FOR_GOOD: Final = "public, max-age=31536000, immutable"
ENCODINGS: Final = {"br": ".br", "gzip": ".gz"}  # the smaller first
NOT_BUILT: Final = (
    "The web pages of this proxy are not built: it runs from a source tree in which nobody has built them.\n"
    "Run in that tree: make setup\n"
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, as it is and compressed."""

    kind: str
    body: bytes
    encoded: Mapping[str, bytes]  # by content coding


class AppPages:
    """The page and its files."""

    @cached_property
    def _index(self) -> bytes:
        """Empty when the client was not built."""
        page = resources.files("teleport.web") / "static" / "app" / "index.html"
        return page.read_bytes() if page.is_file() else b""

    @cached_property
    def _assets(self) -> dict[str, Asset]:
        folder = resources.files("teleport.web") / "static" / "app"
        files = {entry.name: entry.read_bytes() for entry in folder.iterdir()} if folder.is_dir() else {}
        return {
            name: Asset(
                kind=kind,
                body=body,
                encoded={coding: files[name + end] for coding, end in ENCODINGS.items() if name + end in files},
            )
            for name, body in files.items()
            if (kind := KINDS.get(name[name.rfind(".") :]))
        }

    def add(self, add: Callable[[str, str, Any], Any]) -> None:
        """Puts the routes into an application, after all others below `/web`."""
        add("GET", "/web/app/{name}", self.asset)
        add("GET", "/web", self.page)
        add("GET", "/web/{path:(?!app/|static/).*}", self.page)  # the client knows its pages

    async def page(self, request: web.Request) -> web.Response:
        """The one page, wherever in the client it leads."""
        if not self._index:
            return web.Response(status=503, text=NOT_BUILT)
        return with_csrf_cookie(request, web.Response(body=self._index, content_type="text/html", charset="utf-8"))

    async def asset(self, request: web.Request) -> web.Response:
        """One of its files."""
        found = self._assets.get(request.match_info["name"])
        if found is None:
            raise NotFound("there is no such page")
        headers = {"Cache-Control": FOR_GOOD, "Vary": "Accept-Encoding"}
        taken = accepted(request.headers.get("Accept-Encoding", ""))
        body = found.body
        for coding, encoded in found.encoded.items():
            if coding in taken:
                headers["Content-Encoding"], body = coding, encoded
                break
        return web.Response(body=body, content_type=found.kind, charset="utf-8", headers=headers)


def accepted(header: str) -> frozenset[str]:
    """The content codings that are named in an Accept-Encoding, and not refused there (RFC 9110 section 12.5.3)."""
    found = set()
    for part in header.split(","):
        coding, _, weight = part.partition(";")
        if not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight):
            found.add(coding.strip().lower())
    return frozenset(found)
