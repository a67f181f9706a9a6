"""The client as the proxy serves it: one page for all its paths, files for good, nothing else from disk."""

from __future__ import annotations

import gzip
import re
from importlib import resources
from pathlib import Path
from typing import TypeVar

import pytest
import yarl
from tests.web.web_rig import RunningWeb, running_web

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import ConnectionProblem
from teleport.web.app_pages import NOT_BUILT, AppPages, accepted
from teleport.web.origin import CSRF_COOKIE

Req = TypeVar("Req", bound=m.Request)
Rep = TypeVar("Rep", bound=m.Message)


class NoAuth:
    async def call(self, route: routes.Route[Req, Rep], request: Req) -> Rep:
        raise ConnectionProblem("away")


async def script_of(web: RunningWeb) -> str:
    page = await web.ask("GET", "/web")
    found = re.search(r'src="(/web/app/[^"]+\.js)"', page.text)
    assert found
    return found[1]


@pytest.mark.parametrize("path", ["/web", "/web/", "/web/cluster/a/nodes", "/web/what/ever?x=1", "/web/%2e%2e%2fx"])
async def test_every_path_of_the_client_is_its_page(tmp_path: Path, path: str) -> None:
    async with running_web(tmp_path, NoAuth(), ()) as web:
        answer = await web.ask("GET", path)
        assert answer.status == 200
        assert '<div id="app">' in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        assert CSRF_COOKIE in answer.headers["Set-Cookie"]


async def test_files_are_kept_for_good_and_come_compressed(tmp_path: Path) -> None:
    async with running_web(tmp_path, NoAuth(), ()) as web:
        path = await script_of(web)
        async with web.session.get(web.url + path, headers={"Accept-Encoding": "identity"}) as plain:
            assert plain.status == 200
            assert plain.headers["Content-Type"].startswith("text/javascript")
            assert "immutable" in plain.headers["Cache-Control"]
            assert "Content-Encoding" not in plain.headers
            body = await plain.read()
        for asked, coding in [("gzip", "gzip"), ("gzip, br", "br"), ("br;q=0, gzip", "gzip"), ("zstd", "")]:
            async with web.session.get(
                web.url + path, headers={"Accept-Encoding": asked}, auto_decompress=False
            ) as packed:
                assert packed.headers.get("Content-Encoding", "") == coding, asked
                assert packed.headers["Vary"] == "Accept-Encoding"
                got = await packed.read()
                assert (gzip.decompress(got) if coding == "gzip" else body) == body
                assert coding == "" or len(got) < len(body) / 2


def test_only_what_was_built_is_served() -> None:
    names = set(AppPages()._assets)
    assert names
    assert all(re.fullmatch(r"[\w.-]+-[\w-]{8}\.(js|css|svg)", name) for name in names), names
    on_disk = {entry.name for entry in (resources.files("teleport.web") / "static" / "app").iterdir()}
    assert on_disk - names - {"index.html"} == {name for name in on_disk if name.endswith((".br", ".gz"))}, (
        "nothing lies there that nobody serves"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/web/app/../../service.py",
        "/web/app/%2e%2e/%2e%2e/service.py",
        "/web/app/..%2f..%2fservice.py",
        "/web/app/..%5c..%5cservice.py",
        "/web/static/../service.py",
        "/web/static/%2e%2e/%2e%2e/service.py",
        "/web/../service.py",
        "/web/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/web/app//etc/passwd",
    ],
)
async def test_no_path_leads_elsewhere_on_disk(tmp_path: Path, path: str) -> None:
    """As it stands on the wire: clients would take the dots away."""
    async with (
        running_web(tmp_path, NoAuth(), ()) as web,
        web.session.get(yarl.URL(web.url + path, encoded=True)) as answer,
    ):
        text = await answer.text()
        assert answer.status == 404 or '<div id="app">' in text
        assert "import" not in text
        assert "root:" not in text


async def test_pages_that_were_not_built_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AppPages, "_index", b"")
    async with running_web(tmp_path, NoAuth(), ()) as web:
        answer = await web.ask("GET", "/web")
        assert (answer.status, answer.text) == (503, NOT_BUILT)


@pytest.mark.parametrize(
    ("header", "codings"),
    [
        ("", {""}),
        ("gzip, deflate, br", {"gzip", "deflate", "br"}),
        ("GZIP;q=0.5", {"gzip"}),
        ("br;q=0", set()),
        ("br; q=0.000, gzip;q=1", {"gzip"}),
        ("br;q=0.001", {"br"}),
    ],
)
def test_what_a_browser_takes(header: str, codings: set[str]) -> None:
    assert accepted(header) == codings
