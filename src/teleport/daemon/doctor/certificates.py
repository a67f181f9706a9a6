"""Certificates: those of the web listener, and this host's own."""

from __future__ import annotations

import shlex
from pathlib import Path

from teleport.daemon import credentials
from teleport.daemon.config.values import ServiceRole
from teleport.daemon.doctor.patient import Finding, Patient, Said, quoted
from teleport.daemon.keypairs import Files, not_covered, of_its_end, read_files
from teleport.errors import BadRequest, TeleportError
from teleport.identity import SystemRole
from teleport.pki.web_chain import WebPair

CHECK = "certificates"
_ROLES = {ServiceRole.AUTH: SystemRole.AUTH, ServiceRole.PROXY: SystemRole.PROXY, ServiceRole.NODE: SystemRole.NODE}
_CERTBOT = "/etc/letsencrypt/live"


def looked(patient: Patient) -> Said:
    config = patient.config
    if config.proxy is not None and not config.proxy.plain_http:
        pairs = []
        for files in config.proxy.keypairs:
            try:
                pair, said = read_files(files)
            except BadRequest as error:
                yield Finding(CHECK, f"https_keypairs cannot be used: {error.message}", _mend(patient, files, error))
                continue
            pairs.append(pair)
            for text in said:  # what else is said there, as of an authority of the site's own, is no fault
                what, _, mend = text.partition("; to mend it: ")
                if mend:
                    yield Finding(CHECK, what, mend)
            yield from _of_end(patient, pair, files)
        if pairs and config.proxy.acme is None:
            missing = not_covered(pairs, [address.host for address in config.proxy.public_addrs])
            if missing:
                yield Finding(
                    CHECK,
                    f"no certificate of https_keypairs is for {', '.join(missing)}",
                    patient.edit("https_keypairs"),
                )
    yield from _of_identities(patient)


def _mend(patient: Patient, files: Files, error: BadRequest) -> str:
    """The hint where that is a command, as it is for modes; else the place where other files are named."""
    if error.hint.startswith(("chmod ", "chgrp ", "chown ")):
        return error.hint
    return patient.edit(str(files.cert_file))


def _of_end(patient: Patient, pair: WebPair, files: Files) -> Said:
    text = of_its_end(pair, str(files.cert_file), patient.now)
    if not text:
        return
    cert = files.cert_file
    if str(cert).startswith(f"{_CERTBOT}/"):
        yield Finding(CHECK, text, f"certbot renew --force-renewal --cert-name {shlex.quote(cert.parent.name)}")
    else:
        yield Finding(
            CHECK,
            f"{text}. The command makes what the authority that issued it wants; its answer goes to that file",
            f"openssl req -new -key {quoted(files.key_file)} -subj / "
            f"-addext {shlex.quote('subjectAltName=' + ','.join(map(_san, pair.names)))}",
        )


def _san(name: str) -> str:
    return f"IP:{name}" if name.replace(".", "").isdecimal() or ":" in name else f"DNS:{name}"


def _of_identities(patient: Patient) -> Said:
    """What this host proves itself with. On an auth host auth makes new ones at each start."""
    proc = patient.config.data_dir / "proc"
    for service in patient.config.roles:
        role = _ROLES[service]
        folder = credentials.role_folder(proc, role)
        try:
            held = credentials.load(proc, role, only_look=True)
        except PermissionError:
            return  # said by the check of permissions
        except TeleportError as error:
            if not _may_look(folder):
                return
            yield Finding(CHECK, error.message, _join_again(patient, folder))
            continue
        if held is not None and patient.now >= held.expires:
            yield Finding(
                CHECK,
                f"the certificates in {folder} ended at {held.expires:%Y-%m-%d %H:%M} UTC: nobody believes this host",
                _join_again(patient, folder),
            )


def _may_look(folder: Path) -> bool:
    try:
        next(folder.iterdir(), None)
    except OSError:
        return False
    return True


def _join_again(patient: Patient, folder: Path) -> str:
    """Puts what is of no use aside; nothing is removed."""
    own = patient.config.auth is not None
    aside = folder if own else folder.parent
    then = "it makes new ones when it starts" if own else "then join anew: tctl tokens add, on the auth server"
    return f"mv {quoted(aside)} {quoted(f'{aside}.former')}   # while the daemon is stopped; {then}"
