"""CA pins through a rotation of the host authority: which let a host join in which phase; no old one after it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

from tests.auth.test_auth_rotation import step

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.join import find_cluster, join_cluster
from teleport.errors import ConnectionProblem
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.testing.auth import RunningAuth, running_auth


async def joins(auth: RunningAuth, token: str, *pins: str) -> str:
    """How a new host with these pins fares: `joined`, or what kind of refusal came."""
    ssh, tls = generate_ed25519().public, generate_p256().public
    request = m.JoinRequest(
        token=token,
        host_id=str(uuid.uuid4()),
        node_name="new",
        role="Node",
        public_ssh_key=ssh.line(),
        public_tls_key=tls.spki_pem().decode(),
    )

    def work() -> str:
        try:
            cluster = find_cluster([auth.address], pins)
            join_cluster(cluster, request, lambda: datetime.now(UTC))
        except CertificateRefused as refused:
            return "wrong pin" if refused.reason is Refusal.WRONG_PIN else refused.message
        except ConnectionProblem:
            return "not proved"
        return "joined"

    return await auth.in_thread(work)


async def test_old_pins_are_refused_after_a_rotation_and_both_together_always_join(tmp_path: Path) -> None:
    """The token is sent only to a server that proves a certificate of a pinned authority, so one pin alone holds as
    long as the servers show certificates of its keys."""
    async with running_auth(tmp_path) as auth:
        token = (
            await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"], ttl=3600))
        ).token
        (old,) = await auth.service.cluster_api.pins()
        assert await joins(auth, token, old) == "joined"
        await step(auth, "init", "host")
        (new,) = set(await auth.service.cluster_api.pins()) - {old}
        expected = {
            "init": ("joined", "not proved"),
            "update_clients": ("joined", "not proved"),
            "update_servers": ("not proved", "joined"),
            "standby": ("wrong pin", "joined"),
        }
        for phase, (with_old, with_new) in expected.items():
            if phase != "init":
                await step(auth, phase, "host")
            if phase in ("update_servers", "standby"):
                await auth.follow_rotation()
            found = [await joins(auth, token, *pins) for pins in ((old,), (new,), (old, new))]
            assert found == [with_old, with_new, "joined"], phase
        made = await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"], ttl=3600))
        assert made.ca_pins == [new]


async def test_after_a_rollback_the_new_pin_is_the_one_that_is_refused(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        token = (
            await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"], ttl=3600))
        ).token
        (old,) = await auth.service.cluster_api.pins()
        await step(auth, "init", "host")
        (new,) = set(await auth.service.cluster_api.pins()) - {old}
        await step(auth, "update_clients", "host")
        await step(auth, "rollback", "host")
        await step(auth, "standby", "host")
        assert [await joins(auth, token, pin) for pin in (old, new)] == ["joined", "wrong pin"]
