"""Without pins a leaf believes what the root's web page says of its authority, over HTTPS that this machine trusts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from teleport.auth.clusters.reaching import Reaching, apart, through_proxy
from teleport.errors import ConnectionProblem
from teleport.resources.authority import RoleMapping
from teleport.resources.metadata import Metadata
from teleport.resources.trusted_cluster import TrustedCluster, TrustedClusterSpec
from teleport.testing.web_lab import WebLab, running_web_lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[WebLab]:
    with running_web_lab(tmp_path) as running:
        yield running


def cluster(address: str, *pins: str) -> TrustedCluster:
    mapping = (RoleMapping(remote="access", local=("access",)),)
    spec = TrustedClusterSpec(web_proxy_addr=address, role_map=mapping, ca_pins=pins)
    return TrustedCluster(metadata=Metadata(name="root"), spec=spec)


def reaching() -> Reaching:
    return Reaching(lambda: datetime.now(UTC))


def test_the_web_page_names_the_authority(lab: WebLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(lab.web_cert))
    found = reaching().prove(cluster(lab.address))
    assert (found.name, list(found.ca_certs)) == ("lab.test", lab.cluster.ca_pems)
    assert not found.pinned
    assert str(found.door).endswith("(proxy)")


def test_a_page_that_nothing_proves_is_not_read(lab: WebLab) -> None:
    with pytest.raises(ConnectionProblem, match="does not prove who it is by a certificate") as refused:
        reaching().prove(cluster(lab.address))
    assert "ca_pins" in refused.value.hint


def test_the_way_is_the_proxy_whatever_its_port() -> None:
    door = through_proxy(cluster("root.example.com"))
    assert (door.address, door.through_proxy) == ("root.example.com:443", True)


async def test_nobody_waits_for_a_call_that_hangs_when_the_service_stops() -> None:
    """The thread is left behind; what it says later is nobody's."""
    release, began = threading.Event(), time.monotonic()

    def hanging() -> str:
        release.wait(30)
        return "late"

    task = asyncio.create_task(apart(hanging), name="hanging")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 25
    release.set()

    def failing() -> str:
        raise ConnectionProblem("no")

    with pytest.raises(ConnectionProblem, match="no"):
        await apart(failing)
    assert await apart(lambda: "yes") == "yes"
