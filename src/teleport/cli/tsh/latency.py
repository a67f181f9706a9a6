"""`tsh latency`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.client.access import Access
    from teleport.client.latency import Connected, Hops

COUNT = 5  # measures, where nobody looks on


@click.command()
@click.argument("target")
@click.option("-p", "--port", type=click.IntRange(1, 65535), default=None, help="port, where a name fits several hosts")
@click.option(
    "--count", type=click.IntRange(1, 100_000), default=None, help="measures; without it until Ctrl-C at a terminal"
)
@click.option("--interval", type=click.FloatRange(0.05, 3600), default=1.0, help="seconds from one to the next")
@click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), default="text", help="form of the output")
@cluster_option
@takes_flags
def latency(
    flags: Flags, target: str, port: int | None, count: int | None, interval: float, form: str, cluster: str
) -> int:
    """Measure how long each hop to a host takes, there and back: to the proxy, and from there. TARGET: [user@]host.

    It connects as `tsh ssh` does and needs the same right; no session is opened.
    """
    from teleport.cli.tsh.ssh import check_login, local_user, with_factor
    from teleport.client.latency import Plan

    login, at, host = target.rpartition("@")
    if not host or (at and not login) or "=" in host:
        raise BadRequest(f"{target[:80]!r} names no host", hint="tsh latency [user@]host")
    login = login or flags.login or local_user()
    found = access(flags, cluster)
    if not cluster:
        from teleport.client.other_clusters import towards

        found = towards(found, host)
    check_login(found.credentials.ssh_certificate, login)
    live = form == "text" and sys.stdout.isatty()
    plan = Plan(count or (0 if live else COUNT), interval)
    shown = _Shown(form == "json")
    with_factor(found, host, port or 0, login, lambda way: _measured(way, (host, port or 0, login), plan, shown))
    shown.end()
    return 0


def _measured(found: Access, target: tuple[str, int, str], plan: Any, shown: _Shown) -> int:
    import asyncio
    import gc

    from teleport.client.latency import measure

    gc.freeze()
    gc.enable()
    asyncio.run(measure(found, target, plan, now(), shown.begin, shown.add))
    return 0


class _Shown:
    """What is printed: line by line, or as one JSON object at the end."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._way: Connected | None = None
        self._hops: list[Hops] = []

    def begin(self, way: Connected) -> None:
        self._way = way
        if self._as_json:
            return
        took = f"connecting took {_ms(way.proxy_seconds)} to the proxy {way.proxy}, {_ms(way.host_seconds)} from there"
        render.out(f"{render.printable(way.host)} of {render.printable(way.cluster)}: {took}\n")
        if way.ends_at_proxy:
            render.out("sessions end and are recorded at the proxy, which asks the host\n")
        render.out(f"{'to the proxy':>14} {'proxy to host':>14} {'sum':>14}\n")
        sys.stdout.flush()

    def add(self, hops: Hops) -> None:
        self._hops.append(hops)
        if not self._as_json:
            render.out(_line(hops.proxy, hops.beyond, hops.host))
            sys.stdout.flush()

    def end(self) -> None:
        from teleport.client.latency import medians

        if self._way is None or not self._hops:
            return
        middle = medians(self._hops)
        if not self._as_json:
            render.out(_line(*middle).rstrip("\n") + f"  median of {len(self._hops)}\n")
            return
        from teleport.cli.tsh.output import json_text

        way = self._way
        render.out(
            json_text(
                {
                    "host": way.host,
                    "cluster": way.cluster,
                    "proxy": way.proxy,
                    "ends_at_proxy": way.ends_at_proxy,
                    "connect": {
                        "client_to_proxy_ms": _number(way.proxy_seconds),
                        "proxy_to_host_ms": _number(way.host_seconds),
                    },
                    "median": _object(*middle),
                    "measures": [_object(one.proxy, one.beyond, one.host) for one in self._hops],
                }
            )
        )


def _object(proxy: float, beyond: float, whole: float) -> dict[str, float]:
    return {
        "client_to_proxy_ms": _number(proxy),
        "proxy_to_host_ms": _number(beyond),
        "sum_ms": _number(whole),
    }


def _number(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _line(proxy: float, beyond: float, whole: float) -> str:
    return f"{_ms(proxy):>14} {_ms(beyond):>14} {_ms(whole):>14}\n"
