"""A web terminal with real daemons: an editor in it survives a cut socket, a HUP and a restart of the proxy, and a lock
ends it at once."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest
from tests.cluster.cluster_restarting import Restarting
from tests.cluster.cluster_trust import LEAF, trusting
from tests.web.session_rig import LOGIN, Browser
from tests.web.terminal_rig import Page
from tests.web.web_rig import remote_web

from teleport.testing.cluster import LOOPBACK, NODE, Cluster, DaemonProcess, Host, Person, at, wait_until
from teleport.testing.person import PASSWORD
from teleport.wire.web_terminal import End, Kind


class Split(Cluster):
    """Auth and node in one daemon, the proxy in another one, which may be replaced."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.proxy = Host(
            folder / "proxy",
            {
                "teleport": {"nodename": "proxy", "auth_servers": [at(self.auth_port)]},
                "auth_service": {"enabled": False},
                "ssh_service": {"enabled": False},
                "proxy_service": self.config["proxy_service"],
            },
        )
        self.pid_file = self.proxy.folder / "teleport.pid"
        self.proxy.daemon = DaemonProcess(
            self.proxy.folder,
            ["--config", self.proxy.config_path, "--pid-file", self.pid_file],
            diag_port=self.proxy.diag_port,
        )
        self.config["proxy_service"] = {"enabled": False}
        self.write()

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def join(self) -> None:
        token = self.folder / "token"
        self.tctl("tokens", "add", "--type=proxy", f"--out={token}").ok()
        self.proxy.config["teleport"] |= {"auth_token": str(token), "ca_pin": self.ca_pin()}
        self.proxy.write()
        self.proxy.daemon.start()

    def serving(self) -> int:
        return int(self.pid_file.read_text())


@pytest.fixture
def split(tmp_path: Path) -> Iterator[Split]:
    with Split(tmp_path / "cluster") as cluster:
        cluster.join()
        try:
            yield cluster
        finally:
            last = cluster.serving() if cluster.pid_file.exists() else 0
            if last:
                os.kill(last, signal.SIGTERM)
            wait_until("the proxy is gone", lambda: not cluster.pid_file.exists())
            if last == cluster.proxy.daemon.pid:
                cluster.proxy.daemon.ended()  # a second TERM would meet it where it handles none any more
            cluster.proxy.daemon.stop()


@pytest.fixture
def erin(split: Split, login: str) -> Person:
    return split.add_person("erin", logins=[login])


@asynccontextmanager
async def browser(erin: Person) -> AsyncIterator[Browser]:
    """Logged in."""
    async with remote_web((LOOPBACK, erin.cluster.web_port)) as web:
        window = Browser(web)
        code = await asyncio.to_thread(erin.code)
        body = {"user": erin.name, "pass": PASSWORD, "second_factor_token": code}
        answer = await window.ask("POST", LOGIN, json=body)
        assert answer.status == 200, answer.text
        window.token = answer.json["token"]
        yield window


async def test_an_editor_survives_its_network_and_its_proxy(split: Split, erin: Person, login: str) -> None:
    if shutil.which("vim") is None:
        pytest.skip("needs vim")
    text = split.folder / "text"
    text.write_text("".join(f"line {number}\n" for number in range(1, 100)))
    async with browser(erin) as window:
        async with Page.opened(window, host=NODE, login=login) as page:
            resume = (await page.hears(Kind.STARTED, seconds=30))["resume"]
            await page.type(f"exec vim -u NONE -N {text}\n")
            await page.sees("line 23")
            await page.type("gg0")
            page.cut()
            await page.ends()
        # in another window's size: the editor repaints all of it
        async with Page.opened(window, resume=resume, term={"w": 100, "h": 40}) as page:
            assert (await page.hears(Kind.STARTED, seconds=30))["resumed"]
            await page.sees("\x1b[?1049h")
            await page.sees("line 39")

            former = split.proxy.daemon.pid
            os.kill(former, signal.SIGHUP)
            await asyncio.to_thread(wait_until, "a new process serves", lambda: split.serving() != former, 60)
            await page.type("iafter the HUP \x1b")
            await page.sees("after the HUP line 1")
        # a page that is loaded anew lands in the new process
        async with Page.opened(window, resume=resume, term={"w": 100, "h": 30}) as page:
            assert (await page.hears(Kind.STARTED, seconds=30))["resumed"]
            await page.sees("after the HUP line 1")
            assert await asyncio.to_thread(split.proxy.daemon.ended) == 0, "nobody is left in the old one"
            os.kill(split.serving(), signal.SIGTERM)
            assert await page.ends(20) in (End.AGAIN, End.LEAVING, 1006)
        await asyncio.to_thread(wait_until, "the proxy is gone", lambda: not split.pid_file.exists())
        await asyncio.to_thread(split.proxy.daemon.start)
        async with Page.opened(window, resume=resume) as page:
            assert (await page.hears(Kind.STARTED, seconds=30))["resumed"]
            await page.sees("after the HUP line 1")
            await page.type("GA the end\x1b:wq\n")
            assert (await page.hears(Kind.CLOSED))["status"] == 0
        assert text.read_text().startswith("after the HUP line 1\n")
        assert text.read_text().endswith("line 99 the end\n")

        async with Page.opened(window, host=NODE, login=login) as page:
            await page.hears(Kind.STARTED, seconds=30)
            await asyncio.to_thread(lambda: split.tctl("lock", "--user=erin", "--ttl=10m").ok())
            assert await page.ends(2) in (End.NOT_LOGGED_IN, End.DONE)
    ends = await asyncio.to_thread(wait_until, "both ends", lambda: two(split.events("--type=session.end")))
    assert [end["user"] for end in ends] == ["erin", "erin"]
    assert len(split.events("--type=session.start")) == 2
    assert {event["user"] for event in split.events("--type=session.join")} == {"erin"}


async def test_a_reload_finds_the_session_of_the_process_that_was_replaced(tmp_path: Path, login: str) -> None:
    """Where one daemon is proxy and node the session stays with the old process, and the page comes to the new one,
    which leads it there; for nobody else it is there."""
    with Restarting(tmp_path / "cluster") as cluster:
        erin = cluster.add_person("erin", logins=[login])
        async with browser(erin) as window:
            async with Page.opened(window, host=NODE, login=login) as page:
                resume = (await page.hears(Kind.STARTED, seconds=30))["resume"]
                await page.type("stty -echo; x=kept; echo re''ady\n")
                await page.sees("ready")
                former = cluster.daemon.pid
                os.kill(former, signal.SIGHUP)
                await asyncio.to_thread(cluster.wait_successor)
                await page.type("echo af''ter\n")
                await page.sees("after")
            for _ in range(2):
                async with Page.opened(window, resume=resume) as page:
                    assert (await page.hears(Kind.STARTED, seconds=30))["resumed"]
                    await page.sees("after")
                    await page.type("echo $x $PPID\n")
                    await page.sees("kept")
            made_up = f"{resume[:-1]}x"
            async with Page.opened(window, resume=made_up) as page:
                assert (await page.hears(Kind.ERROR))["code"] == "denied"
            async with Page.opened(window, resume=resume) as page:
                await page.hears(Kind.STARTED, seconds=30)
                await page.say(Kind.QUIT, {})
                assert await page.ends() == End.DONE
            assert await asyncio.to_thread(cluster.daemon.ended) == 0, "nobody is left in the old one"
            async with Page.opened(window, resume=resume) as page:
                assert (await page.hears(Kind.ERROR, seconds=30))["code"] == "gone"
            async with Page.opened(window, host=NODE, login=login) as page:
                await page.hears(Kind.STARTED, seconds=30)
                await page.say(Kind.QUIT, {})


async def test_a_host_of_a_leaf_cluster(tmp_path: Path, login: str) -> None:
    """It is led there as `tsh ssh --cluster` is, comes back, and is nothing of this cluster's; a cluster that nobody
    knows leads nowhere."""
    with trusting(tmp_path) as both:
        erin = both.root.add_person("erin", logins=[login])
        both.trust({"access": ["access"]})
        erin.log_in()
        both.wait_online(erin)
        async with browser(erin) as window:
            async with Page.opened(window, site=LEAF, host=NODE, login=login) as page:
                started = await page.hears(Kind.STARTED, seconds=30)
                await page.type("stty -echo; x=kept; echo re''ady\n")
                await page.sees("ready")
            async with Page.opened(window, site=LEAF, host=NODE, login=login, resume=started["resume"]) as page:
                assert (await page.hears(Kind.STARTED, seconds=30))["resumed"]
                await page.type("echo $x\n")
                await page.sees("kept")
                await page.say(Kind.QUIT, {})
                assert await page.ends() == End.DONE
            async with Page.opened(window, host=NODE, login=login, resume=started["resume"]) as page:
                assert (await page.hears(Kind.ERROR, seconds=30))["code"] == "bad_request"
            async with Page.opened(window, site="elsewhere.test", host=NODE, login=login) as page:
                told = await page.hears(Kind.ERROR, seconds=30)
                assert "elsewhere.test" in told["message"]
        both.leaf.wait_event("session.end", sid=started["sid"])
        assert not both.root.events("--type=session.start")


def two(found: list[dict[str, object]]) -> list[dict[str, object]] | None:
    return found if len(found) == 2 else None
