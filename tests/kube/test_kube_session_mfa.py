"""Calls for which a second factor of their own is due: what the mark of a certificate opens at the listener, for how
long, and what is on record of it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.kube.test_kube_joining import NO_SUCH, Shared, shared
from tests.kube.test_kube_service import PODS, requests, settled, status

from teleport.authz.decision import ClusterDefaults
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.testing.kube_lab import Lab, kube_lab

MINUTE = timedelta(minutes=1)
DUE = ClusterDefaults(require_session_mfa=True)
AFTER = timedelta(seconds=70)


def marked(
    lab: Lab, target: str = "kube:one", *, login: timedelta = timedelta(hours=1), **subject: Any
) -> tuple[Path, Path]:
    """A certificate as auth makes it for the session of a login that has `login` left."""
    ends = datetime.now(UTC) + login
    said = {
        "usage": ("usage:kube",),
        "kube_cluster": "one",
        "mfa_device": "phone",
        "mfa_target": target,
        "login_expires": str(int(ends.timestamp())),
        "login_serial": "17",
        "ttl": MINUTE,
        **subject,
    }
    return lab.pair(**said)


def lock(**target: str) -> Lock:
    return Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(**target)))


async def test_the_mark_opens_its_cluster_and_is_on_record(tmp_path: Path) -> None:
    """Without it the person reads what to do; what the API server was not asked is on record without a device."""
    async with kube_lab(tmp_path) as lab:
        lab.defaults = DUE
        async with lab.connected(lab.pair(kube_cluster="one")) as without:
            refused = await without.ask(f"GET {PODS}")
        assert refused.status == 403
        assert "This session needs a second factor." in status(refused.body)
        assert "tsh kube login" in status(refused.body)
        assert lab.api.calls == []
        async with lab.connected(marked(lab)) as wire:
            assert (await wire.ask(f"GET {PODS}")).status == 200
        no, yes = await requests(lab, 2)
        assert (no.success, "with_mfa" in json.loads(no_json(no))) == (False, False)
        assert no.error.startswith("mfa_required")
        assert (yes.success, yes.with_mfa) == (True, "phone")


def no_json(event: object) -> str:
    import msgspec

    return msgspec.json.encode(event).decode()


@pytest.mark.parametrize(
    ("target", "subject"),
    [
        pytest.param("kube:two", {}, id="of another cluster"),
        pytest.param("kube:one", {"kube_cluster": "two"}, id="that goes to another cluster"),
        pytest.param("kube:one", {"kube_cluster": ""}, id="that goes to no cluster"),
        pytest.param("one", {}, id="of a host that is called as the cluster"),
        pytest.param("kube:", {"kube_cluster": ""}, id="of no cluster"),
        pytest.param("kube:ONE", {}, id="in other letters"),
        pytest.param("api", {}, id="of the auth API"),
        pytest.param("0e1f2a3b-0000-4000-8000-000000000001", {"usage": ()}, id="of a host"),
    ],
)
async def test_no_other_mark_opens_anything(tmp_path: Path, target: str, subject: dict[str, Any]) -> None:
    """Whether or not a second factor is due: a certificate for one session is good there alone."""
    async with kube_lab(tmp_path, more={"two": {}}) as lab, lab.connected(marked(lab, target, **subject)) as wire:
        for lab.defaults in (DUE, ClusterDefaults()):
            answer = await wire.ask(f"GET {PODS}")
            assert answer.status == 403
            assert "This session needs" not in status(answer.body)
        assert lab.api.calls == []
        for event in await requests(lab, 2):
            assert "for one session elsewhere" in event.error


async def test_a_mark_without_a_device_is_none(tmp_path: Path) -> None:
    async with kube_lab(tmp_path) as lab, lab.connected(marked(lab, mfa_device="")) as wire:
        lab.defaults = DUE
        assert (await wire.ask(f"GET {PODS}")).status == 403
        assert lab.api.calls == []


async def test_what_is_open_goes_on_and_nothing_new_begins_after_the_minute(tmp_path: Path) -> None:
    """Logs and watches that the minute opened; on the same kept connection, and on one that was open before, the next
    call is refused. A lock on the device ends them."""
    async with kube_lab(tmp_path) as lab:
        lab.defaults = DUE
        pair = marked(lab)
        async with lab.connected(pair) as wire, lab.connected(pair) as kept:
            await wire.send(f"GET {PODS}/web/log?follow=true")
            await wire.head()
            assert await wire.chunk() == b"first line\n"
            assert (await kept.ask(f"GET {PODS}")).status == 200
            assert lab.server is not None
            lab.ahead = AFTER
            lab.server.reconsider()
            lab.api.say(b"later\n")
            assert await wire.chunk() == b"later\n"
            before = len(lab.api.calls)
            refused = await kept.ask(f"GET {PODS}")
            assert refused.status == 403
            assert "expired" in status(refused.body)
            assert len(lab.api.calls) == before
            lab.server.reconsider()
            lab.api.say(b"still\n")
            assert await wire.chunk() == b"still\n"
            lab.locks.append(lock(mfa_device="phone"))
            lab.server.reconsider()
            assert await wire.ended() == b""
            await settled(lab, 0)


@pytest.mark.parametrize("change", ["login's lock", "login's end", "role", "user", "authority"])
async def test_what_ends_the_login_ends_what_the_minute_opened(tmp_path: Path, change: str) -> None:
    """The end of the login that the certificate came from, and all that ends every other stream."""
    async with kube_lab(tmp_path) as lab, lab.connected(marked(lab, login=timedelta(hours=1))) as wire:
        await wire.send(f"GET {PODS}?watch=true")
        await wire.head()
        await settled(lab, 1)
        assert lab.server is not None
        lab.ahead = AFTER
        match change:
            case "login's lock":
                lab.locks.append(lock(serial="17"))
            case "login's end":
                lab.ahead = timedelta(hours=1, seconds=1)
            case "role":
                lab.roles.clear()
            case "user":
                lab.gone.add("alice")
            case "authority":
                lab.trusting = False
        lab.server.reconsider()
        assert await wire.ended() == b""
        await settled(lab, 0)


async def test_a_stream_ends_by_itself_when_the_login_does(tmp_path: Path) -> None:
    """Without anything else that changes."""
    async with kube_lab(tmp_path) as lab, lab.connected(marked(lab, login=timedelta(seconds=3))) as wire:
        await wire.send(f"GET {PODS}?watch=true")
        await wire.head()
        async with asyncio.timeout(10):
            assert await wire.ended() == b""
        await settled(lab, 0)


async def test_an_ordinary_certificate_ends_what_it_opened(tmp_path: Path) -> None:
    """Only a mark lets anything go on; the end of the login that a certificate names does not."""
    ends = str(int((datetime.now(UTC) + timedelta(hours=1)).timestamp()))
    async with kube_lab(tmp_path) as lab:
        pair = lab.pair(kube_cluster="one", ttl=MINUTE, login_expires=ends, login_serial="17")
        async with lab.connected(pair) as wire:
            await wire.send(f"GET {PODS}?watch=true")
            await wire.head()
            await settled(lab, 1)
            lab.ahead = AFTER
            assert lab.server is not None
            lab.server.reconsider()
            assert await wire.ended() == b""
            await settled(lab, 0)


async def test_what_was_open_before_a_factor_was_asked_for_ends(tmp_path: Path) -> None:
    """As sessions on hosts do when a role that lets in begins to ask."""
    async with kube_lab(tmp_path) as lab, lab.connected(lab.pair(kube_cluster="one")) as wire:
        await wire.send(f"GET {PODS}?watch=true")
        await wire.head()
        await settled(lab, 1)
        lab.defaults = DUE
        assert lab.server is not None
        lab.server.reconsider()
        assert await wire.ended() == b""
        await settled(lab, 0)


# joining sessions in pods


def for_joining(target: str = "kube:one", *, login: timedelta = timedelta(hours=1)) -> dict[str, Any]:
    """What auth says in an SSH certificate for joining."""
    ends = datetime.now(UTC).replace(microsecond=0) + login
    return {"mfa_device": "phone", "mfa_target": target, "login_expires": ends, "login_serial": "17", "ttl": MINUTE}


async def test_who_joins_goes_on_after_the_minute_and_begins_nothing_then(tmp_path: Path) -> None:
    """The mark counts for the session's own Kubernetes cluster, also where nobody named it; a lock on the device ends
    the part that it opened, and nothing else."""
    async with shared(tmp_path) as run:
        assert "second factor" in await run.refusal(run.sid, "factor")
        async with run.guests.guest(run.sid, "bob", "factor", **for_joining()) as bob:
            await bob.sees(b"ready")
            run.lab.ahead = AFTER
            run.reconsider()
            bob.types(b"typed")
            await run.sees(b"typed")
            run.lab.locks.append(lock(mfa_device="phone"))
            run.reconsider()
            assert await bob.over() == 255
        await run.types(b"still here")
        await run.sees(b"still here")


async def test_a_connection_that_waited_joins_nothing_after_the_minute(tmp_path: Path) -> None:
    """It may be there until the login ends; what it asks for is decided by the certificate's own end."""
    async with shared(tmp_path) as run:
        decides = run.guests.permit_join
        run.guests.permit_join = _later(run.lab, decides)  # type: ignore[method-assign]
        assert "expired" in await _refused(run, **for_joining())


def _later(lab: Lab, decides: Any) -> Any:
    def decide(*arguments: Any) -> Any:
        lab.ahead = AFTER  # since the connection was let in
        return decides(*arguments)

    return decide


@pytest.mark.parametrize("target", ["kube:two", "one", "api", "kube:"])
async def test_another_mark_joins_nothing(tmp_path: Path, target: str) -> None:
    """Whether or not a second factor is due; the sentence is that for an id which nobody has."""
    async with shared(tmp_path) as run:
        for role in ("factor", "help"):
            assert await _refused(run, role, **for_joining(target)) == NO_SUCH


async def _refused(run: Shared, role: str = "factor", **certificate: Any) -> str:
    """What somebody hears who may not join."""
    async with run.guests.guest(run.sid, "bob", role, **certificate) as bob:
        assert await bob.over() == 255
        return bob.shown.decode().strip()
