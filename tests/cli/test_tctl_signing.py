"""`tctl auth export` and `tctl auth sign`: each form is read by the program that it is made for."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.cli.test_tctl_commands import Admin, administration, output_of

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.testing.auth import CLUSTER, Credentials


def piped(text: str, *commands: list[str]) -> str:
    """`text` through programs, one after the other, as in a shell."""
    data = text.encode()
    for command in commands:
        data = subprocess.run(command, input=data, capture_output=True, check=True).stdout
    return data.decode()


async def test_the_exported_host_authority_gives_the_pin_of_status(tmp_path: Path) -> None:
    """Made by openssl alone, as an operator checks it."""
    async with administration(tmp_path) as admin:
        exported = await admin.ok("auth", "export", "--type=tls")
        pins = [word for word in (await admin.ok("status")).split() if word.startswith("sha256:")]
    digest = piped(
        exported,
        ["openssl", "x509", "-pubkey", "-noout"],
        ["openssl", "pkey", "-pubin", "-outform", "der"],
        ["sha256sum"],
    )
    assert pins == [f"sha256:{digest.split()[0]}"]


async def test_exported_lines_are_what_openssh_reads(tmp_path: Path) -> None:
    """In today's form and in the old one; a private key is the one of the line, and its export is on record."""
    async with administration(tmp_path) as admin:
        user, host = await admin.ok("auth", "export", "--type=user"), await admin.ok("auth", "export", "--type=host")
        old = await admin.ok("auth", "export", "--compat=1.0")
        assert old == host + re.sub(r"cert-authority (\S+ \S+) .*", rf"@cert-authority *.{CLUSTER} \1 type=user", user)
        (tmp_path / "authorized_keys").write_text(user)
        (tmp_path / "known_hosts").write_text(host)
        assert "(ED25519)" in output_of("ssh-keygen", "-l", "-f", str(tmp_path / "authorized_keys"))
        shown = output_of("ssh-keygen", "-l", "-F", f"web.{CLUSTER}", "-f", str(tmp_path / "known_hosts"))
        assert "CA" in shown
        private = await admin.ok("auth", "export", "--type=host", "--keys")
        assert PrivateKey.load(private.encode()).public.line("") in host
        tls = await admin.ok("auth", "export", "--type=tls", "--keys")
        assert piped(tls, ["openssl", "pkey", "-pubout"]) == piped(
            await admin.ok("auth", "export", "--type=tls"), ["openssl", "x509", "-pubkey", "-noout"]
        )
        revealed = await admin.auth.events("secret.revealed", wait_for=2)
        assert [event["name"] for event in revealed] == [f"host/{CLUSTER}"] * 2
        for wrong in (["--compat=2.0"], ["--compat=1.0", "--keys"], ["--type=jwt"]):
            assert (await admin("auth", "export", *wrong)).status == 2
        nobody = await admin("auth", "export", "--type=tls", "--fingerprint=SHA256:other")
        assert (nobody.status, nobody.out) == (3, "")


async def signed(admin: Admin, tmp_path: Path, *arguments: str) -> list[Path]:
    """The files of one `auth sign`, all of them private."""
    await admin.ok("auth", "sign", *arguments)
    files = [Path(line) for line in (await admin.ok("auth", "sign", *arguments, "--overwrite")).splitlines()]
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".new")]
    return files


@pytest.mark.parametrize("form", ["db", "mongodb"])
async def test_a_database_gets_a_certificate_that_openssl_verifies_by_name(tmp_path: Path, form: str) -> None:
    """And that proves nothing to the cluster itself."""
    async with administration(tmp_path) as admin:
        arguments = ("--host=db.example.com,192.0.2.5", f"--format={form}", f"--out={tmp_path / 'db'}", "--ttl=2190h")
        files = await signed(admin, tmp_path, *arguments)
        assert [file.name for file in files] == (
            ["db.crt", "db.cas"] if form == "mongodb" else ["db.key", "db.crt", "db.cas"]
        )
        certificate, authorities = str(tmp_path / "db.crt"), str(tmp_path / "db.cas")
        for name in (["-verify_hostname", "db.example.com"], ["-verify_ip", "192.0.2.5"]):
            output_of("openssl", "verify", "-purpose", "sslserver", "-CAfile", authorities, *name, certificate)
        with pytest.raises(subprocess.CalledProcessError):
            output_of("openssl", "verify", "-CAfile", authorities, "-verify_hostname", "other", certificate)
        subject = output_of("openssl", "x509", "-in", certificate, "-noout", "-subject", "-nameopt", "RFC2253").strip()
        assert subject == "subject=" + (f"O={CLUSTER}," if form == "mongodb" else "") + "CN=db.example.com"
        key = tmp_path / ("db.crt" if form == "mongodb" else "db.key")
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        caller = Credentials(Path(certificate), key)
        with pytest.raises(AccessDenied):
            await admin.auth.call(caller, routes.STATUS, m.Empty())
        for event in await admin.auth.events("auth.sign", wait_for=2):
            assert (event["subject"], event["format"]) == ("db.example.com,192.0.2.5", form)
        assert "server" in {event["cert_type"] for event in await admin.auth.events("cert.create")}


async def test_no_server_is_signed_under_a_name_of_the_clusters_own_services(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        names = ["teleport.cluster.local", "6578616d706c65.teleport.cluster.local", "*.example.com", "", "a b"]
        for name in (*names, admin.auth.host_id, f"{admin.auth.host_id}.{CLUSTER}"):
            ran = await admin("auth", "sign", f"--host=,{name}", "--format=db", f"--out={tmp_path / 'x'}")
            assert (ran.status, "Traceback" in ran.err) == (2, False), name
        assert not [name for name in os.listdir(tmp_path) if name.startswith("x")]


async def test_only_the_administrator_of_an_auth_host_signs_for_servers(tmp_path: Path) -> None:
    """Not even who may edit everything, and no service."""
    async with administration(tmp_path) as admin:
        auth = admin.auth
        key = generate_p256().public
        request = m.SignServerRequest(names=["db.example.com"], public_key=key.line())
        callers = [await auth.user("ed", ["editor", "access"]), await auth.host(SystemRole.PROXY)]
        for caller in [*callers, await auth.host(SystemRole.NODE), Credentials()]:
            with pytest.raises(AccessDenied):
                await auth.call(caller, routes.SIGN_SERVER, request)
        denied = await auth.events("api.denied", wait_for=3)
        assert {event["route"] for event in denied} == {"sign_server"}


async def test_a_kubeconfig_is_read_by_kubectl_and_good_for_nothing_else(tmp_path: Path) -> None:
    """The server is the proxy's public host on 3026 unless it is named; the certificate is limited to Kubernetes."""
    async with administration(tmp_path) as admin:
        await admin.ok("users", "add", "ann", "--roles=access")
        out = tmp_path / "kube"
        arguments = ("--user=ann", "--format=kubernetes", f"--out={out}", "--kube-cluster-name=prod")
        missing = await admin("auth", "sign", *arguments)
        assert (missing.status, "--proxy" in missing.err, out.exists()) == (3, True, False)
        (file,) = await signed(admin, tmp_path, *arguments, "--proxy=proxy.example.com")
        assert file == out
        if shutil.which("kubectl"):
            shown = output_of("kubectl", "--kubeconfig", str(out), "config", "view", "--raw", "--minify", "-o", "json")
            config = json.loads(shown)
        else:
            config = yaml.safe_load(out.read_text())
        assert config["current-context"] == f"{CLUSTER}-prod"
        (cluster,), (user,) = config["clusters"], config["users"]
        assert cluster["cluster"]["server"] == "https://proxy.example.com:3026"
        parts = {"crt": user["user"]["client-certificate-data"], "key": user["user"]["client-key-data"]}
        parts["cas"] = cluster["cluster"]["certificate-authority-data"]
        for ending, data in parts.items():
            (tmp_path / f"part.{ending}").write_text(piped(data, ["base64", "-d"]))
        subject = output_of("openssl", "x509", "-in", str(tmp_path / "part.crt"), "-noout", "-subject")
        assert "usage:kube" in subject
        assert "prod" in subject
        caller = Credentials(tmp_path / "part.crt", tmp_path / "part.key")
        for route in (routes.STATUS, routes.RENEW_USER):
            with pytest.raises(AccessDenied):
                await admin.auth.call(caller, route, m.Empty())
        assert (tmp_path / "part.cas").read_text() == admin.auth.tls_cas[0]


async def test_what_does_not_go_together_is_refused_before_anything_is_signed(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        out = f"--out={tmp_path / 'x'}"
        for wrong in (
            ["--host=a", "--format=ppk"],
            ["--host=a", "--format=kubernetes"],
            ["--user=ann", "--format=db"],
            ["--user=ann", "--format=mongodb"],
            ["--user=ann", "--proxy=p"],
            ["--user=ann", "--compat=oldssh"],
            ["--user=ann", "--kube-cluster-name=k"],
            ["--user=ann", "--leaf-cluster=l"],
            ["--host=a.example.com", "--format=db", "--ttl=2191h"],
        ):
            ran = await admin("auth", "sign", *wrong, out)
            assert ran.status == 2, (wrong, ran.err)
        assert not await admin.auth.events("auth.sign", wait_for=0)
        assert not [name for name in os.listdir(tmp_path) if name.startswith("x")]


async def test_files_that_cannot_be_written_leave_nothing_behind(tmp_path: Path) -> None:
    """A link in the way is replaced, not followed; a folder that is not there is named."""
    async with administration(tmp_path) as admin:
        await admin.ok("users", "add", "ann", "--roles=access")
        kept = tmp_path / "kept"
        kept.write_text("theirs")
        (tmp_path / "id").symlink_to(kept)
        await admin.ok("auth", "sign", "--user=ann", f"--out={tmp_path / 'id'}", "--overwrite")
        assert kept.read_text() == "theirs"
        assert not (tmp_path / "id").is_symlink()
        ran = await admin("auth", "sign", "--user=ann", f"--out={tmp_path / 'no' / 'id'}")
        assert (ran.status, "No such file" in ran.err) == (1, True)


async def test_a_putty_key_file_holds_key_and_certificate(tmp_path: Path) -> None:
    """Byte by byte as PuTTY's manual says; `tests/cluster/test_cluster_putty.py` has plink use one."""
    async with administration(tmp_path) as admin:
        await admin.ok("users", "add", "ann", "--roles=access", "--logins=root")
        (file,) = await signed(admin, tmp_path, "--user=ann", "--format=ppk", f"--out={tmp_path / 'ann.ppk'}")
        lines = file.read_text().splitlines()
    assert lines[:3] == [
        "PuTTY-User-Key-File-3: ecdsa-sha2-nistp256-cert-v01@openssh.com",
        "Encryption: none",
        f"Comment: ann at {CLUSTER}",
    ]
    count = int(lines[3].removeprefix("Public-Lines: "))
    (tmp_path / "cert.pub").write_text(f"ecdsa-sha2-nistp256-cert-v01@openssh.com {''.join(lines[4 : 4 + count])}\n")
    shown = await asyncio.to_thread(output_of, "ssh-keygen", "-L", "-f", str(tmp_path / "cert.pub"))
    assert 'Key ID: "ann"' in shown
