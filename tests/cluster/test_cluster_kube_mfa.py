"""A second factor for calls to Kubernetes clusters, with the real kubectl: at the proxy, and by services that are
reached directly and by a tunnel; with codes and with a security key."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster_kube import KubeHost, serve_kubectl, wait_known
from tests.cluster.test_cluster_second_factors import devices, set_factor

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.sync_client import SyncAuthClient
from teleport.client.access import Access, from_profile
from teleport.client.cluster import cluster_client
from teleport.client.hardware_keys import KeyQuestion
from teleport.client.home import Home
from teleport.errors import AccessDenied
from teleport.kube.introduction import Introduction, encode
from teleport.pki.x509subject import decode_user
from teleport.pki.x509verify import load_certificate
from teleport.testing.authenticator import SoftwareKeys
from teleport.testing.cluster import LOOPBACK, NODE, PASSWORD, Cluster, Person, Ran, at, free_port, run, wait_until
from teleport.testing.kube_api import KubeApi, running_kube_api
from teleport.testing.processes import BIN
from teleport.testing.terminal import Terminal
from teleport.wire.alpn import KUBE_SERVICE

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")

DUE = "This session needs a second factor."
ROLE = """
kind: role
version: v5
metadata: {{name: careful}}
spec:
  options: {{require_session_mfa: yes}}
  allow:
    logins: [{login}]
    node_labels: {{'*': '*'}}
    kubernetes_labels: {{'*': '*'}}
    kubernetes_groups: [developers]
    join_sessions: [{{roles: [careful], kinds: [k8s], modes: [peer]}}]
"""
WAYS = ("one", "direct", "behind")


@dataclass
class Kube:
    cluster: Cluster
    api: KubeApi
    folder: Path
    port: int  # of the service that is reached directly

    def introduced(self, pem: str, way: str) -> str:
        """What that service answers to this cluster's proxy, which says that it forwards calls of whoever has this
        certificate: a proxy in strange hands can say so of everybody who came to it."""
        said = encode(Introduction(ssl.PEM_cert_to_DER_cert(pem), LOOPBACK, 1, way))
        context = ssl.create_default_context(cadata=self.cluster.authority())
        context.check_hostname = False
        context.set_alpn_protocols([KUBE_SERVICE])
        proxy = self.cluster.data_dir / "proc" / "proxy"
        context.load_cert_chain(proxy / "tls.crt", proxy / "tls.key")
        request = b"GET /api/v1/namespaces/dev/pods HTTP/1.1\r\nHost: kube\r\nConnection: close\r\n\r\n"
        with socket.create_connection((LOOPBACK, self.port), timeout=10) as raw, context.wrap_socket(raw) as tls:
            tls.sendall(said + request)
            answer = b""
            while piece := tls.recv(65536):
                answer += piece
        return answer.decode()

    @property
    def address(self) -> str:
        found: str = self.cluster.config["proxy_service"]["kubernetes"]["public_addr"]
        return found

    def keyed(self, name: str, role: str = "careful") -> Keyed:
        """Somebody with a security key, and with kubectl that leads to no cluster yet."""
        set_factor(self.cluster, "off")
        person = self.cluster.add_person(name, roles=[role], logins=[])
        person.log_in()
        set_factor(self.cluster, "on")
        key = self.folder / f"{name}-key"
        person.tsh_with_key(key, "mfa", "add", "--type=webauthn", "--name=key", stdin=f"{PASSWORD}\n").ok()
        wait_known(person, self.address)
        wrapper = self.folder / f"{name}-tsh"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m teleport.testing.authenticator {key} "$@"\n')
        wrapper.chmod(0o700)
        return Keyed(person, key, wrapper)


@dataclass
class Keyed:
    """Somebody whose security key is plugged in where tsh runs."""

    person: Person
    key: Path
    tsh: Path  # that finds the key

    @property
    def device(self) -> str:
        return devices(self.person)["key"]["id"]

    def choose(self, way: str) -> Ran:
        """`tsh kube login`; the kubeconfig names the tsh with the key."""
        done = self.person.tsh_with_key(self.key, "kube", "login", way).ok()
        config = self.person.home / ".kube" / "config"
        config.write_text(re.sub(r"command: .*", f"command: {self.tsh}", config.read_text()))
        return done

    def kubectl(self, *arguments: str) -> Ran:
        return run("kubectl", *arguments, environment=self.person.environment)

    def later(self, way: str) -> None:
        """As if what is kept had ended: it is not there any more."""
        kept(self.person, way).unlink()

    def access(self) -> Access:
        return from_profile(Home(self.person.home / ".tsh"), "", "", "", datetime.now(UTC))

    def client(self, pem: str = "") -> SyncAuthClient:
        """The auth API, by the login's certificate or by another one of its key."""
        access = self.access()
        if pem:
            file = self.key.with_suffix(".shown")
            file.write_text(pem)
            access = replace(access, credentials=replace(access.credentials, tls_file=file))
        return cluster_client(access, datetime.now(UTC))

    def answer(self, challenge: m.FactorChallenge) -> m.FactorResponse:
        """What the key signs."""
        asked = challenge.webauthn
        assert asked is not None
        question = KeyQuestion(asked.challenge, asked.rp_id, tuple(asked.credentials))
        signed = SoftwareKeys(self.key).sign(question, f"https://{asked.rp_id}", lambda text: None)
        return m.FactorResponse(
            challenge_id=challenge.id,
            webauthn=m.WebauthnAssertion(
                credential_id=signed.credential_id,
                client_data=signed.client_data,
                authenticator_data=signed.authenticator_data,
                signature=signed.signature,
            ),
        )

    def marked(self, **where: Any) -> m.UserCerts:
        """Certificates for one session, as auth gives them."""
        with self.client() as client:
            challenge = client.call(routes.SESSION_CHALLENGE, m.SessionChallengeRequest(**where))
            return client.call(routes.SESSION_CERT, m.SessionCertRequest(**where, factor=self.answer(challenge)))

    def shows(self, address: str, pem: str, *arguments: str) -> Ran:
        """kubectl with this certificate of the login's key."""
        (folder,) = (self.person.home / ".tsh" / "keys").iterdir()
        file = self.key.with_suffix(".shown")
        file.write_text(pem)
        words = [f"--server=https://{address}", f"--certificate-authority={folder}/certs.pem"]
        words += [f"--client-certificate={file}", f"--client-key={folder}/{self.person.name}", *arguments]
        return run("kubectl", "--kubeconfig=/dev/null", *words, environment=self.person.environment)


def test_a_signature_is_good_once_and_for_what_it_was_asked_for(kube: Kube, login: str) -> None:
    """T36: neither again, nor for another Kubernetes cluster, a host or the API, nor for joining in place of calls."""
    sue = kube.keyed("sue")
    places: list[dict[str, Any]] = [
        {"kube_cluster": "one"},
        {"kube_cluster": "direct"},
        {"kube_cluster": "one", "joins": True},
        {"host": NODE, "login": login},
        {},
    ]
    with sue.client() as client:
        for asked in places[:2]:
            for given in places:
                challenge = client.call(routes.SESSION_CHALLENGE, m.SessionChallengeRequest(**asked))
                proof = m.SessionCertRequest(**given, factor=sue.answer(challenge))
                if given == asked:
                    client.call(routes.SESSION_CERT, proof)
                with pytest.raises(AccessDenied, match="wrong, was used before"):
                    client.call(routes.SESSION_CERT, proof)
                if given != asked:
                    sue.marked(kube_cluster="one")  # so that failures in a row are too few to lock


def kept(person: Person, way: str) -> Path:
    """Where tsh keeps the certificate for a Kubernetes cluster."""
    (found,) = (person.home / ".tsh" / "keys").rglob(f"{way}-x509.pem")
    return found


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory, login: str) -> Iterator[Kube]:
    folder = tmp_path_factory.mktemp("kube")
    with ExitStack() as stack:
        api = stack.enter_context(running_kube_api(folder))
        cluster = Cluster(folder / "cluster")
        serve_kubectl(cluster, api)
        stack.enter_context(cluster)
        cluster.tctl("create", "-f", stdin=ROLE.format(login=login)).ok()
        port = free_port()
        direct = KubeHost(folder / "direct", cluster, "direct", api, context="direct", listen_addr=at(port))
        behind = KubeHost(folder / "behind", cluster, "behind", api, context="behind")
        for host in (direct, behind):
            stack.enter_context(host)
        wait_until("both services are here", lambda: all(way in cluster.tctl("kube", "ls").stdout for way in WAYS))
        yield Kube(cluster, api, folder, port)


@contextmanager
def began(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


LIST = ("get", "pods", "-n", "dev", "-o", "name")


@pytest.mark.parametrize("way", WAYS)
def test_kubectl_works_for_a_minute_once_a_key_was_touched(kube: Kube, way: str) -> None:
    """Once for many calls; on record with the device at each, and in the session of an exec."""
    kim = kube.keyed(f"kim-{way}")
    chosen = kim.choose(way)
    assert f"the Kubernetes cluster {way} needs a second factor" in chosen.stderr
    assert "Touch your security key" in chosen.stderr
    for _ in range(2):
        listed = kim.kubectl(*LIST).ok()
        assert (listed.stdout.split("\n")[0], listed.stderr) == ("pod/web", "")
    assert kim.kubectl("exec", "web", "-n", "dev", "--", "echo", "hi").ok().stdout == "hi\n"
    name = kim.person.name
    (proved,) = kube.cluster.events("--type=session.mfa", f"--user={name}")
    assert (proved["purpose"], proved["kubernetes_cluster"], proved["server_id"]) == ("session", way, "")
    assert proved["mfa_device"]["mfa_device_uuid"] == kim.device
    start = kube.cluster.wait_event("session.start", user=name)
    assert (start["with_mfa"], start["kubernetes_cluster"]) == (kim.device, way)
    calls = [one for one in kube.cluster.events("--type=kube.request", f"--user={name}") if one["success"]]
    assert calls
    assert {one["with_mfa"] for one in calls} == {kim.device}
    kim.later(way)
    again = kim.kubectl(*LIST).ok()
    assert "Touch your security key" in again.stderr
    assert again.stdout.startswith("pod/web")


def test_kubectl_asks_for_a_code_at_its_terminal(kube: Kube) -> None:
    """By its plugin, once for all that it asks the API server; also where its stdin is a pipe. Nobody there: it says
    what to run."""
    set_factor(kube.cluster, "on")
    tina = kube.cluster.add_person("tina", roles=["careful"], logins=[])
    tina.log_in()
    wait_known(tina, kube.address)
    unasked = tina.tsh("kube", "login", "direct")
    assert unasked.status == 2
    assert "there is nobody to ask for: One-time code" in unasked.stderr
    assert "in a terminal: tsh kube login direct" in unasked.stderr
    with Terminal([str(BIN / "tsh"), "kube", "login", "direct"], tina.environment) as terminal:
        terminal.expect("One-time code: ")
        code = tina.code()
        terminal.type(f"{code}\n")
        terminal.expect("kubectl uses the Kubernetes cluster direct now")
        assert terminal.ended() == 0
    kept(tina, "direct").unlink()
    with Terminal(["kubectl", "get", "pods", "-n", "dev"], tina.environment) as terminal:
        terminal.expect("One-time code: ")
        terminal.type(f"{code}\n")
        terminal.expect("the second factor is wrong, was used before, or came too late")
        terminal.expect("One-time code: ")  # for what kubectl asks next
        assert list((tina.home / ".tsh" / "keys").rglob("direct-x509.pem")) == []
        terminal.type(f"{tina.code()}\n")
        terminal.expect("NAME +STATUS")
        assert terminal.ended() == 0
    assert kube.cluster.wait_event("session.mfa", user="tina", success=False)["code"] == "T9140W"
    kept(tina, "direct").unlink()
    pod = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"tin"},"spec":{"containers":[{"name":"a","image":"b"}]}}'
    piped = f"echo '{pod}' | kubectl create -n dev --validate=false -f - && kubectl get pods -n dev"
    with Terminal(["sh", "-c", piped], tina.environment) as terminal:
        terminal.expect("One-time code: ")
        terminal.type(f"{tina.code()}\n")
        terminal.expect("pod/tin created")
        terminal.expect("NAME +STATUS")
        assert terminal.ended() == 0
        assert terminal.shown.count(b"One-time code") == 1
    kept(tina, "direct").unlink()
    silent = run("setsid", "kubectl", *LIST, environment=tina.environment)
    assert silent.status != 0
    assert "there is nobody to ask for: One-time code" in silent.stderr


@pytest.mark.parametrize("way", WAYS)
def test_without_the_mark_every_call_is_refused(kube: Kube, way: str) -> None:
    """A certificate that `tctl auth sign` made names the cluster and no factor: kubectl says what to do."""
    sid = f"sid-{way}"
    kube.cluster.add_person(sid, roles=["careful"], logins=[])
    file = kube.folder / f"{sid}.kubeconfig"
    words = ["auth", "sign", f"--user={sid}", "--format=kubernetes", f"--kube-cluster-name={way}"]
    kube.cluster.tctl(*words, f"--proxy={kube.address}", f"--out={file}").ok()
    before = len(kube.api.calls)
    refused = run("kubectl", f"--kubeconfig={file}", *LIST, environment=kube.cluster.add_person(f"{sid}2").environment)
    assert refused.status != 0
    assert DUE in refused.stderr
    assert "tsh kube login" in refused.stderr
    assert len(kube.api.calls) == before
    event = kube.cluster.wait_event("kube.request", user=sid, success=False)
    assert event["error"].startswith("mfa_required: role 'careful' requires MFA for each session")
    assert "with_mfa" not in event


def test_a_certificate_is_good_for_its_cluster_alone(kube: Kube, login: str) -> None:
    """T06: marked for another Kubernetes cluster, for a host, or for the API it opens nothing; what opens one cluster
    opens neither a host nor the API, and begets no other certificate."""
    mia = kube.keyed("mia")
    one = mia.marked(kube_cluster="one")
    subject = decode_user(load_certificate(one.tls_cert.encode()).subject)
    assert (subject.kube_cluster, subject.mfa_target, subject.mfa_device) == ("one", "kube:one", mia.device)
    assert (one.cert, subject.usage, subject.logins) == ("", ("usage:kube",), ())
    assert mia.shows(kube.address, one.tls_cert, *LIST).ok().stdout.startswith("pod/web")
    assert (one.expires - datetime.now(UTC)).total_seconds() <= 60

    (folder,) = (mia.person.home / ".tsh" / "keys").iterdir()
    plain = mia.shows(kube.address, (folder / "mia-x509.pem").read_text(), *LIST)
    assert (plain.status != 0, DUE in plain.stderr) == (True, True), "the login's own certificate"
    for where in ({"host": NODE, "login": login}, {}):
        other = mia.marked(**where)
        refused = mia.shows(kube.address, other.tls_cert, *LIST)
        assert refused.status != 0
        assert "your roles allow none of those here" in refused.stderr

    with mia.client(one.tls_cert) as limited:
        calls: list[Callable[[], object]] = [
            lambda: limited.call(routes.WHO_AM_I, m.Empty()),
            lambda: limited.call(routes.RENEW_USER, m.RenewUserRequest(kube_cluster="one")),
            lambda: limited.call(routes.SESSION_CHALLENGE, m.SessionChallengeRequest(kube_cluster="one")),
        ]
        for call in calls:
            with pytest.raises(AccessDenied, match="limited to another use"):
                call()
    direct = mia.marked(kube_cluster="direct").tls_cert
    assert kube.introduced(direct, "direct").startswith("HTTP/1.1 200 ")
    for pem, way in ((one.tls_cert, "direct"), (direct, "behind"), (direct, "one")):
        answer = kube.introduced(pem, way)
        assert answer.startswith("HTTP/1.1 403 ")
        assert "for another Kubernetes cluster" in answer
    joining = mia.marked(kube_cluster="one", joins=True)
    assert joining.tls_cert == ""
    assert joining.logins == []


@pytest.mark.parametrize("way", WAYS)
def test_a_lock_on_the_device_ends_an_open_exec_and_a_watch(kube: Kube, way: str) -> None:
    """Within two seconds, at the API server too; the next call hears of the lock, and no factor is looked at."""
    lou = kube.keyed(f"lou-{way}")
    lou.choose(way)
    shell = ["kubectl", "exec", "-n", "dev", "-it", "web", "--", "sh", "-c", "stty -echo; echo ready; exec sh"]
    watch = ["kubectl", "get", "pods", "-n", "dev", "-w"]
    before = kube.api.open_streams
    with (
        Terminal(shell, lou.person.environment) as terminal,
        began(subprocess.Popen(watch, env=lou.person.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)),
    ):
        terminal.expect("ready")
        wait_until("both are open", lambda: kube.api.open_streams == before + 2)
        kube.cluster.tctl("lock", f"--mfa-device={lou.device}").ok()
        begun = time.monotonic()
        wait_until("both are cut", lambda: kube.api.open_streams == before, 2.0 * 5)
        print(f"an exec and a watch ended {time.monotonic() - begun:.2f} s after the lock of their device")
        assert terminal.ended() != 0
    assert kube.cluster.wait_event("session.end", user=lou.person.name)["kubernetes_cluster"] == way
    assert "Access is locked" in lou.kubectl(*LIST).stderr
    lou.later(way)
    touched = lou.kubectl(*LIST)
    assert touched.status != 0
    assert "the second factor is wrong" in touched.stderr


@pytest.mark.parametrize("way", ["one", "behind"])
def test_who_joins_a_session_in_a_pod_is_asked_too(kube: Kube, way: str) -> None:
    """T35: `tsh join` is no way around. A lock on the device that joined ends its part, and nobody else's."""
    ann, pia = kube.keyed(f"ann-{way}"), kube.keyed(f"pia-{way}")
    ann.choose(way)
    shell = ["kubectl", "exec", "-n", "dev", "-it", "web", "--", "sh", "-c", "stty -echo; echo ready; exec sh"]
    with Terminal(shell, ann.person.environment) as began_by_ann:
        began_by_ann.expect("ready")
        found: list[str] = []

        def listed() -> bool:
            rows = pia.person.tsh("sessions", "ls", "--format=json").ok().json()
            found[:] = [one["sid"] for one in rows if one["user"] == ann.person.name and one["modes"]]
            return len(found) == 1

        wait_until("the session is listed", listed)
        without = pia.person.tsh("join", found[0])
        assert without.status == 255
        assert "no security key at this machine" in without.stderr
        with Terminal([str(pia.tsh), "join", found[0]], pia.person.environment) as joined:
            joined.expect("Touch your security key")
            began_by_ann.expect(f"{pia.person.name} has joined this session as peer")
            joined.type("echo from-''pia\n")
            began_by_ann.expect("from-pia")
            proved = kube.cluster.wait_event("session.mfa", user=pia.person.name)
            assert (proved["kubernetes_cluster"], proved["purpose"]) == (way, "join")
            kube.cluster.tctl("lock", f"--mfa-device={pia.device}").ok()
            joined.expect("This session is over for you", 2.0 * 5)
        began_by_ann.type("echo still-''here\n")
        began_by_ann.expect("still-here")


MINUTE_AND_MORE = 90.0  # seconds


def test_what_was_opened_outlives_the_minute_and_nothing_else_does(kube: Kube) -> None:
    """The whole minute, by both hops: a shell goes on; the certificate opens nothing any more, neither at the proxy nor
    at a service to which a proxy introduces it; tsh does not show what it keeps, and asks anew."""
    max_ = kube.keyed("max")
    max_.choose("direct")
    pem = kept(max_.person, "direct").read_text()
    pem = pem[pem.index("-----BEGIN") :]
    assert kube.introduced(pem, "direct").startswith("HTTP/1.1 200 ")
    shell = ["kubectl", "exec", "-n", "dev", "-it", "web", "--", "sh", "-c", "stty -echo; echo ready; exec sh"]
    with Terminal(shell, max_.person.environment) as terminal:
        terminal.expect("ready")
        over = "HTTP/1.1 403 "
        wait_until("it is over", lambda: kube.introduced(pem, "direct").startswith(over), MINUTE_AND_MORE)
        assert "expired" in kube.introduced(pem, "direct")
        before = len(kube.api.calls)
        refused = max_.shows(kube.address, pem, *LIST)
        assert (refused.status != 0, len(kube.api.calls)) == (True, before)
        terminal.type("echo still-''here\n")
        terminal.expect("still-here")
        again = max_.kubectl(*LIST).ok()
        assert "Touch your security key" in again.stderr
        terminal.type("echo and-''now\n")
        terminal.expect("and-now")
        kube.cluster.tctl("users", "update", "max", "--set-roles=access").ok()
        assert terminal.ended() != 0
    proofs = kube.cluster.events("--type=session.mfa", "--user=max")
    assert [one["kubernetes_cluster"] for one in proofs] == ["direct", "direct"]
