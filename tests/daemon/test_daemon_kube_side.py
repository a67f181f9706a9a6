"""Who comes to the listener for Kubernetes, judged by what a real auth service says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.authz.decision import AccessDenial, DenialCode
from teleport.authz.kube import ActAs, KubeAccessPermit
from teleport.daemon.kube.side import KubeRules
from teleport.errors import AccessDenied
from teleport.identity import SystemRole
from teleport.kube.credentials import KubeCluster
from teleport.pki.keys import generate_p256
from teleport.pki.x509verify import load_certificate
from teleport.resources.codec import Resource, to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.parse import parse_resources
from teleport.resources.values import HostPort
from teleport.store.cache import Cache
from teleport.testing.auth import RunningAuth, present_clock, running_auth
from teleport.testing.running import wait_until
from teleport.testing.views import filled_view

ROLE = """
kind: role
version: v5
metadata: {name: dev}
spec: {allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: ['{{internal.kubernetes_groups}}']}}
"""
ONE = KubeCluster("one", HostPort("kube", 6443), "")


def der(pem: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return load_certificate(pem.encode()).public_bytes(Encoding.DER)


async def signed(auth: RunningAuth, *, usage: str = "", kube_cluster: str = "") -> bytes:
    """Alice's TLS certificate."""
    admin = await auth.admin()
    request = m.SignUserRequest(
        name="alice", public_key=generate_p256().public.line(), ttl=3600, usage=usage, kube_cluster=kube_cluster
    )
    return der((await auth.call(admin, routes.SIGN_USER, request)).tls_cert)


async def put(auth: RunningAuth, resource: Resource) -> None:
    item = m.StoreRequest(item=m.Document(to_json(resource)))
    await auth.call(await auth.admin(), routes.STORE[resource.kind], item)


async def test_who_comes_and_what_they_may(tmp_path: Path) -> None:
    """The user authority says whose a certificate is, no host comes in; users, roles and locks count as of now."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        (role,) = parse_resources(ROLE, "role.yaml")
        await put(auth, role)
        added = m.AddUserRequest(name="alice", roles=["dev"], traits={"kubernetes_groups": ["blue"]})
        await auth.call(await auth.admin(), routes.ADD_USER, added)
        clock.advance(2)

        async def soon(_: float) -> None:
            await asyncio.sleep(0.01)

        cache = Cache("test", clock, jitter=lambda: 0.0, sleep=soon)
        async with filled_view(auth, cache, SystemRole.PROXY, "proxy") as view:
            rules = KubeRules(view)
            identity = rules.verify_user_tls(await signed(auth))
            assert (identity.name, identity.kube_cluster) == ("alice", "")
            limited = rules.verify_user_tls(await signed(auth, usage="usage:kube", kube_cluster="two"))
            assert limited.kube_cluster == "two"
            with pytest.raises(AccessDenied, match="limited to another use"):
                rules.verify_user_tls(await signed(auth, usage="usage:apps"))
            node = await auth.host(SystemRole.NODE, name="node")
            assert node.cert is not None
            with pytest.raises(AccessDenied, match="not signed by an authority"):
                rules.verify_user_tls(der(node.cert.read_text()))

            certificate = await signed(auth)
            for _ in range(2):  # the second time, its signature is not looked at again
                assert rules.verify_user_tls(certificate).name == "alice"
            damaged = certificate[:-1] + bytes([certificate[-1] ^ 1])
            with pytest.raises(AccessDenied):
                rules.verify_user_tls(damaged)

            permit = rules.permit_kube(identity, ONE, "one", "192.0.2.7", ActAs())
            assert isinstance(permit, KubeAccessPermit)
            assert (permit.kube_user, permit.kube_groups) == ("alice", ("blue", "system:authenticated"))
            late = replace(identity, expires=view.clock.now() - timedelta(seconds=1))
            assert isinstance(rules.permit_kube(late, ONE, "one", "192.0.2.7", ActAs()), AccessDenial)

            await put(auth, Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"))))
            await wait_until(lambda: bool(view.locks()))
            locked = rules.permit_kube(identity, ONE, "one", "192.0.2.7", ActAs())
            assert isinstance(locked, AccessDenial)
            assert locked.code is DenialCode.LOCKED

            certificate = await signed(auth)
            await auth.call(await auth.admin(), routes.REMOVE["user"], m.ExpelRequest(name="alice"))
            await wait_until(lambda: view.present(identity) is None)
            with pytest.raises(AccessDenied, match="does not exist any more"):
                rules.verify_user_tls(certificate)
            clock.advance(3600)
            with pytest.raises(AccessDenied, match="expired"):
                rules.verify_user_tls(certificate)
