"""The script that sets a plain sshd up: run by a real shell, against a real sshd's idea of its configuration."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from teleport.api.messages.agentless import OpensshHost
from teleport.cli.tctl.openssh_script import script
from teleport.errors import TeleportError
from teleport.identity import SystemRole
from teleport.pki.agentless import bundle, sign_bundle
from teleport.pki.keys import PublicKey, generate_ed25519, generate_p256
from teleport.pki.pin import ca_pin
from teleport.pki.sshcert import HostCertRequest, issue_host_cert
from teleport.pki.x509cert import new_tls_authority, pem_of

HOST = "0b3c6f0e-5d0b-4d1f-9d51-6f3d8a1c2b3d"
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"

pytestmark = [
    pytest.mark.skipif(not Path(SSHD).exists(), reason="there is no sshd here to set up (package openssh-server)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="sshd -T asks for root"),
]


@dataclass
class Place:
    """A configuration of sshd with a host key, and the script for it."""

    config: Path
    key: PublicKey
    made: OpensshHost

    def run(self, text: str = "", *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        file = self.config.parent / "setup.sh"
        file.write_text(text or script(self.made))
        return subprocess.run(
            ["sh", str(file), *(arguments or (self.made.ca_pin,))],
            env={"PATH": os.environ["PATH"], "SSHD_CONFIG": str(self.config), "SSHD": SSHD, **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def settings(self) -> dict[str, str]:
        shown = subprocess.run([SSHD, "-T", "-f", str(self.config)], capture_output=True, text=True, check=True)
        return dict(line.partition(" ")[::2] for line in shown.stdout.splitlines())


def told(key: PublicKey, *, host: str = HOST) -> OpensshHost:
    """What auth says of a host with this key."""
    now = datetime.now(UTC)
    authority, tls = generate_ed25519(), generate_p256()
    pem = pem_of(new_tls_authority("main", tls, now))
    certificate = issue_host_cert(HostCertRequest(key, host, SystemRole.NODE, ("web",)), authority, "main", now)
    text = bundle("main", host, (generate_ed25519().public, generate_ed25519().public), certificate.line())
    return OpensshHost(
        host_id=host,
        bundle=text,
        signature=base64.b64encode(sign_bundle(text, tls)).decode(),
        authority=pem.decode(),
        ca_pin=ca_pin(pem),
        expires=now + timedelta(days=90),
    )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    key = tmp_path / "ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    config = tmp_path / "sshd_config"
    config.write_text(f"HostKey {key}\nPort 2222\nX11Forwarding yes\nMatch User nobody\n  X11Forwarding no\n")
    config.chmod(0o600)
    public = PublicKey.parse(key.with_suffix(".pub").read_text())
    return Place(config, public, told(public))


def test_it_sets_up_what_the_host_needs_and_nothing_else(place: Place) -> None:
    before, text = place.settings(), place.config.read_text()
    done = place.run()
    assert done.returncode == 0, done.stderr
    folder = place.config.parent / "teleport"
    after = place.settings()
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {
        "trustedusercakeys", "authorizedprincipalsfile", "authorizedprincipalscommand",
        "authorizedprincipalscommanduser", "hostcertificate",
    } - ({"authorizedprincipalsfile"} if before["authorizedprincipalsfile"] == "none" else set())  # fmt: skip
    assert after["trustedusercakeys"] == str(folder / "user_ca.pub")
    assert after["authorizedprincipalscommand"].endswith(f"echo %u@{HOST}")
    assert after["hostcertificate"] == str(folder / "host-cert.pub")
    assert len((folder / "user_ca.pub").read_text().splitlines()) == 2
    assert place.config.with_name("sshd_config.before-teleport").read_text() == text
    assert place.config.stat().st_mode & 0o777 == 0o600
    assert "run this again with a new script before" in done.stdout


def test_it_may_be_run_again_and_with_what_is_new(place: Place) -> None:
    place.run()
    once = place.config.read_text()
    assert place.run().returncode == 0
    assert place.config.read_text() == once
    place.made = told(place.key)
    assert place.run().returncode == 0
    assert place.config.read_text() == once
    assert (place.config.parent / "teleport" / "host-cert.pub").read_text().split()[1] in place.made.bundle


def test_sshd_is_told_to_read_it(place: Place) -> None:
    done = place.run(SSHD_RELOAD=f"touch '{place.config.parent}/reloaded'")
    assert done.returncode == 0
    assert (place.config.parent / "reloaded").exists()
    assert "serves the cluster main" in done.stdout


@pytest.mark.parametrize("pin", ["sha256:" + "0" * 64, "", "sha256:", "x' ; touch pwned; '"])
def test_nothing_happens_when_the_pin_does_not_fit(place: Place, pin: str) -> None:
    text = place.config.read_text()
    done = place.run("", pin)
    assert done.returncode == 1
    assert place.config.read_text() == text
    assert not (place.config.parent / "teleport").exists()


def test_nothing_happens_without_a_pin(place: Place) -> None:
    file = place.config.parent / "setup.sh"
    file.write_text(script(place.made))
    done = subprocess.run(["sh", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, "give the CA pin" in done.stderr) == (1, True)


@pytest.mark.parametrize("what", ["user-ca", "host ", "host-cert", "cluster"])
def test_what_the_authority_did_not_sign_is_not_believed(place: Place, what: str) -> None:
    other = told(place.key, host="11111111-5d0b-4d1f-9d51-6f3d8a1c2b3d")
    lines = place.made.bundle.splitlines()
    theirs = {line.split()[0]: line for line in other.bundle.replace("cluster main", "cluster evil").splitlines()}
    bent = [theirs[line.split()[0]] if line.startswith(what) else line for line in lines]
    assert bent != lines
    text = script(place.made).replace(place.made.bundle.strip(), "\n".join(bent))
    done = place.run(text)
    assert done.returncode == 1
    assert "altered" in done.stderr
    assert not (place.config.parent / "teleport").exists()


def test_a_certificate_for_another_key_is_not_installed(place: Place) -> None:
    place.made = told(generate_ed25519().public)
    done = place.run()
    assert done.returncode == 1
    assert "which this sshd does not have" in done.stderr
    assert not (place.config.parent / "teleport").exists()


@pytest.mark.parametrize(
    "line",
    [
        "TrustedUserCAKeys /etc/own_ca.pub",
        "AuthorizedPrincipalsCommand /bin/echo x\nAuthorizedPrincipalsCommandUser nobody",
    ],
)
def test_what_the_host_trusts_already_is_not_taken_away(place: Place, line: str) -> None:
    text = f"{line}\n{place.config.read_text()}"
    place.config.write_text(text)
    done = place.run()
    assert done.returncode == 1
    assert "remove it" in done.stderr
    assert place.config.read_text() == text


def test_what_an_sshd_that_was_never_started_lacks_is_made(place: Place, tmp_path: Path) -> None:
    """Debian's unit makes /run/sshd when it starts; on a host whose sshd waits for its socket it is not there yet."""
    missing, sshd = tmp_path / "run" / "sshd", tmp_path / "sshd"
    sshd.write_text(
        f"#!/bin/sh\nif ! [ -d {missing} ]\n"
        f"then echo 'Missing privilege separation directory: {missing}' >&2; exit 255; fi\n"
        f'exec {SSHD} "$@"\n'
    )
    sshd.chmod(0o755)
    done = place.run(SSHD=str(sshd))
    assert (done.returncode, missing.is_dir()) == (0, True), done.stderr


def test_a_configuration_that_is_broken_already_stays(place: Place) -> None:
    place.config.write_text("Nonsense yes\n" + place.config.read_text())
    done = place.run()
    assert done.returncode == 1
    assert "Nonsense" in done.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bundle", "teleport-openssh-v1\ncluster $(reboot)\n"),
        ("bundle", "teleport-openssh-v1\nEND_OF_TEXT\nreboot\n"),
        ("signature", "'; reboot; '"),
        ("authority", "`reboot`"),
        ("bundle", "a\rb"),
        ("bundle", "a\u2028b"),
    ],
)
def test_no_text_of_anybodys_becomes_a_command(field: str, value: str) -> None:
    good = told(generate_ed25519().public)
    fields = {name: getattr(good, name) for name in good.__struct_fields__}
    with pytest.raises(TeleportError, match="cannot stand in a script"):
        script(OpensshHost(**{**fields, field: value}))
