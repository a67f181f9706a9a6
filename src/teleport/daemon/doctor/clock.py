"""Auth, seen from here: whether it answers, whether it is the one that is pinned, and what time it has."""

from __future__ import annotations

import errno
import ipaddress
import shlex
import socket
from collections.abc import Callable
from datetime import datetime

from teleport.api.join import WEB_PORTS, check_clock, find_cluster
from teleport.daemon.doctor.patient import Finding, Patient, Said
from teleport.errors import ConnectionProblem, TeleportError
from teleport.pki.refusal import CertificateRefused
from teleport.transport.site_proxy import site_proxy

CHECK = "clock"
PORTS = "ports"
SET = "timedatectl set-ntp true"
AHEAD = 120.0  # seconds by which a file may be newer than now
SECONDS = 3.0  # for one attempt


def looked(patient: Patient, now: Callable[[], datetime]) -> Said:
    yield from _of_files(patient)
    if patient.config.auth is not None:
        return
    servers = [(one.host, one.port) for one in patient.config.auth_servers]
    reached = []
    for host, port in servers:
        # where the site has an HTTP proxy, that one is asked below
        why = unreached(host, port) if site_proxy(host, port) is None else None
        if why is None:
            reached.append((host, port))
        else:
            yield from _of_way(host, port, why)
    if not reached:
        return
    try:
        found = find_cluster(reached, patient.config.ca_pins, now)
        check_clock(found)
    except CertificateRefused as error:
        yield Finding(
            "certificates",
            f"teleport.ca_pin: {error.message} (`tctl status` on the auth server says what it is)",
            patient.edit("ca_pin"),
        )
    except ConnectionProblem as error:
        yield Finding(PORTS, error.message, patient.edit("auth_servers"))
    except TeleportError as error:
        yield Finding(CHECK, error.message, SET)


def _of_files(patient: Patient) -> Said:
    """A clock that went back: what was written is newer than now."""
    for path in (patient.config.data_dir / "epoch", patient.config.data_dir / "host_uuid"):
        try:
            ahead = path.stat().st_mtime - patient.now.timestamp()
        except OSError:
            continue
        if ahead > AHEAD:
            yield Finding(
                CHECK,
                f"the clock of this host says {patient.now:%Y-%m-%d %H:%M} UTC, which is before {path} was written",
                SET,
            )
            return


def unreached(host: str, port: int) -> OSError | None:
    """Why there is no connection to be had; None when there is. A name that is not known counts as another fault."""
    try:
        socket.create_connection((host, port), SECONDS).close()
    except (socket.gaierror, UnicodeError):
        return OSError(0, "the name is not known")
    except OSError as error:
        return error
    return None


def _of_way(host: str, port: int, why: OSError) -> Said:
    if why.errno == 0:
        return  # said by the check of DNS
    local = _is_loopback(host)
    there = "" if local else f"ssh {shlex.quote(host)} "
    service = "the proxy" if port in WEB_PORTS else "auth"
    if why.errno == errno.ECONNREFUSED:
        yield Finding(
            PORTS, f"nothing listens at {host}:{port}, where {service} is to be", f"{there}systemctl start teleport"
        )
    else:
        said = "no answer" if isinstance(why, TimeoutError) else why.strerror or str(why)
        yield Finding(
            PORTS,
            f"{service} at {host}:{port} is not reached ({said}): a firewall, here or there? `teleport ports` says "
            "what is needed",
            f"{there}nft insert rule inet filter input tcp dport {port} accept",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
