"""Of which other clusters people are told, and whose keys they get: those that they may go to."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import NotFound
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec
from teleport.testing.auth import PASSWORD, RunningAuth
from teleport.testing.clock import FakeClock
from teleport.testing.two_clusters import two_clusters


async def told_at_login(auth: RunningAuth, name: str, roles: list[str]) -> list[str]:
    secret = await auth.person(name, roles)
    assert isinstance(auth.clock, FakeClock)
    auth.clock.advance(30)
    request = m.LoginRequest(
        user=name, password=PASSWORD, otp_token=auth.code(secret), public_key=generate_p256().public.line(), ttl=3600,
        client_addr="192.0.2.7:1",
    )  # fmt: skip
    answer = await auth.call(await auth.host(SystemRole.PROXY, name="proxy"), routes.LOGIN, request)
    return [one.domain_name for one in answer.host_signers]


async def test_people_are_told_of_no_cluster_that_they_may_not_go_to(tmp_path: Path) -> None:
    """T34: login, renewal and what an administrator signs name the clusters that `/webapi/sites` lists, and keys of no
    others; whoever asks for another one hears what is said of one that is none."""
    allow = Conditions(logins=("root",), cluster_labels={"env": ("prod",)})
    role = Role(metadata=Metadata(name="prod"), spec=RoleSpec(allow=allow))
    async with two_clusters(tmp_path) as both:
        await both.create(await both.document(await both.token(labels={"env": "prod"})))
        admin = await both.root.admin()
        await both.root.call(admin, routes.STORE["role"], m.StoreRequest(item=m.Document(to_json(role))))
        for name, roles, told in (("ann", ["access"], ["root"]), ("pia", ["access", "prod"], ["root", "leaf"])):
            assert await told_at_login(both.root, name, roles) == told, name
            request = m.SignUserRequest(name=name, public_key=generate_p256().public.line(), ttl=3600)
            signed = await both.root.call(admin, routes.SIGN_USER, request)
            assert [one.domain_name for one in signed.host_signers] == told, name
            who = await both.root.user(name, roles)
            renewed = await both.root.call(who, routes.RENEW_USER, m.RenewUserRequest())
            assert [one.domain_name for one in renewed.host_signers] == told, name
        ann, pia = await both.root.user("ann", ["access"]), await both.root.user("pia", ["access", "prod"])
        await both.root.call(pia, routes.RENEW_USER, m.RenewUserRequest(route_to_cluster="leaf"))
        said = []
        for cluster in ("leaf", "none"):
            with pytest.raises(NotFound) as refused:
                await both.root.call(ann, routes.RENEW_USER, m.RenewUserRequest(route_to_cluster=cluster))
            said.append(refused.value.message.replace(repr(cluster), "it"))
        assert said[0] == said[1]
