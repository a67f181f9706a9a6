"""IPv6: listened on where it is switched off, or promised by DNS where nobody listens."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

from teleport.daemon.doctor import names
from teleport.daemon.doctor.listening import wanted
from teleport.daemon.doctor.patient import Finding, Patient, Said

CHECK = "ipv6"
_OFF = "proc/sys/net/ipv6/conf/{}/disable_ipv6"


def own(address: str) -> bool:
    """Whether this host has the address."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def looked(
    patient: Patient, resolve: Callable[[str], list[str]] = names.addresses, mine: Callable[[str], bool] = own
) -> Said:
    listeners = wanted(patient)
    six = [one for one in listeners if ":" in one.host]
    if six:
        of = "lo" if all(ipaddress.ip_address(one.host).is_loopback for one in six) else "all"
        try:
            off = (patient.root / _OFF.format(of)).read_text().strip() == "1"
        except OSError:
            off = True  # a kernel without it
        if off:
            keys = ", ".join(one.key for one in six)
            yield Finding(
                CHECK, f"IPv6 is switched off, and listened on ({keys})", f"sysctl -w net.ipv6.conf.{of}.disable_ipv6=0"
            )
    if patient.config.proxy is None:
        return
    web = patient.config.proxy.web_listen_addr
    if web.host != "0.0.0.0":  # noqa: S104 - compared with, never bound
        return
    for host in {one.host for one in patient.config.proxy.public_addrs}:
        try:
            six_of = [
                one for one in resolve(host) if ":" in one and not ipaddress.ip_address(one).is_loopback and mine(one)
            ]
        except ValueError:
            continue
        if six_of:
            yield Finding(
                CHECK,
                f"{host} has the address {six_of[0]}, and the proxy listens on IPv4 only ({web})",
                patient.replace(str(web), f"[::]:{web.port}"),
            )
            return
