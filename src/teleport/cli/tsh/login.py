"""`tsh login`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tsh import prompts
from teleport.cli.tsh.flags import PASSWORDLESS, Flags, now, takes_flags
from teleport.client import profile as profiles
from teleport.client.addresses import ProxyAddress
from teleport.client.home import Home
from teleport.client.profile import Profile
from teleport.errors import AlreadyExists, BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.client.webapi import WebAPI

BROWSER_PAUSE = 2.0  # seconds between looks whether somebody has answered in the browser


@click.command()
@click.argument("cluster", default="")
@click.option("--ca-pin", "pins", multiple=True, help="trust the cluster by its pin, sha256:...; repeatable")
@click.option("-o", "--out", default="", help="write the credentials to this file and leave the profile alone")
@click.option(
    "--format", "form", type=click.Choice(["file", "openssh", "ppk"]), default="file", help="form of --out; ppk: PuTTY"
)
@click.option("--overwrite", is_flag=True, help="replace the files of --out")
@click.option("--browser", is_flag=True, help="answer on a page of the proxy, in a browser anywhere")
@click.option(
    "--kube-cluster",
    default="",
    envvar="TELEPORT_KUBE_CLUSTER",
    show_envvar=True,
    help="make this Kubernetes cluster the current one of kubectl",
)
@takes_flags
def login(
    flags: Flags,
    cluster: str,
    pins: tuple[str, ...],
    out: str,
    form: str,
    overwrite: bool,
    browser: bool,
    kube_cluster: str,
) -> None:
    """Log in to a cluster and get certificates.

    Asks for password and one-time code; where stdin is no terminal, reads them from it, a line each.
    The kubeconfig gets a context for each Kubernetes cluster that you may use; which one is current stays as it is.
    """
    if flags.identity:
        raise BadRequest("an identity file needs no login", hint="leave -i away")
    home = flags.home
    address, known = _where(flags, home)
    user = flags.user or (known.user if known else "") or _local_user()
    if out and kube_cluster:
        raise BadRequest("--kube-cluster changes the kubeconfig, and --out nothing but its file", hint="leave one away")
    if out:
        _check_free(out, form, overwrite)
    elif known and not flags.ttl and _switched(flags, known, address, user, cluster, pins):
        _show(home)
        _to_kubectl(home, known.name, kube_cluster)
        return
    elif known and not flags.ttl and _still_good(home, known, address, user, cluster, pins):
        profiles.save(home, known.with_cluster(cluster or known.cluster))
        _show(home)
        _to_agent(flags, known)
        _refresh_hosts(flags, known.name)
        _to_kubectl(home, known.name, kube_cluster)
        return
    _log_in(flags, home, address, known, user, cluster, pins, out, form, browser=browser)
    if not out:
        _to_kubectl(home, address.host, kube_cluster)


def _switched(
    flags: Flags, known: Profile, address: ProxyAddress, user: str, cluster: str, pins: tuple[str, ...]
) -> bool:
    """Whether another cluster is chosen by the login that there is: its certificates are made anew to lead there, and
    nothing needs to be typed. Raises `NotFound` for a cluster that is none."""
    home = flags.home
    if cluster in ("", known.root_cluster) or not _still_good(home, known, address, user, known.root_cluster, pins):
        return False
    from teleport.client import keystore, renewal
    from teleport.client.other_clusters import unknown

    files = keystore.KeyFiles(known.name, known.user)
    renewal.renew(home, known.with_cluster(known.root_cluster), now())  # says which clusters there are now
    if cluster not in (names := keystore.clusters_of(home, files)):
        raise unknown(cluster, names)
    chosen = known.with_cluster(cluster)
    renewal.renew(home, chosen, now())
    profiles.save(home, chosen)
    return True


def log_in_again(flags: Flags) -> None:
    """The login of the profile that a command uses, once more: same proxy, user and cluster, proved as before.

    Nothing goes to stdout, which belongs to the command.
    """
    home = flags.home
    address = ProxyAddress.parse(flags.proxy) if flags.proxy else None
    known = profiles.choose(home, address.host if address else "", flags.user)
    again = ProxyAddress(known.name, known.web[1], known.ssh[1] if known.ssh[0] == known.name else 0)
    current = profiles.current_name(home)
    _log_in(flags, home, again, known, known.user, known.cluster, (), "", "file", show=False)
    active = profiles.load(home, current) if current and current != known.name else None
    if active is not None:
        profiles.save(home, active)


def _where(flags: Flags, home: Home) -> tuple[ProxyAddress, Profile | None]:
    """The proxy that is meant, and what is remembered of it."""
    if flags.proxy:
        address = ProxyAddress.parse(flags.proxy)
        known = profiles.load(home, address.host)
        if known and not address.web_port:
            address = ProxyAddress(address.host, known.web[1], address.ssh_port)
        return address, known
    name = profiles.current_name(home)
    known = profiles.load(home, name) if name else None
    if known is None:
        raise BadRequest("no proxy was named", hint="tsh login --proxy=host[:https_port[,ssh_port]]")
    return ProxyAddress(known.name, known.web[1], known.ssh[1] if known.ssh[0] == known.name else 0), known


def _still_good(
    home: Home, known: Profile, address: ProxyAddress, user: str, cluster: str, pins: tuple[str, ...]
) -> bool:
    """Whether the login there is does what is asked, so that nothing needs to be typed."""
    from teleport.client import keystore

    files = keystore.KeyFiles(known.name, known.user)
    line = home.read(*files.ssh(cluster or known.cluster))
    if known.user != user or known.web[1] != address.web_port or line is None:
        return False
    if address.ssh_port and known.ssh != (address.host, address.ssh_port):
        return False
    try:
        there = keystore.facts(line.decode("ascii", "replace"))
        if there.expired(now()) or (there.ends_soon(now()) and prompts.interactive()):
            return False
        if pins:
            from teleport.pki.pin import check_pin

            check_pin(pins, [pem.encode() for pem in keystore.authorities_of(home, files, known.root_cluster)])
            if known.proxy_trust != "cluster":
                return False
    except TeleportError:
        return False
    from teleport.client import renewal

    return not renewal.left_behind(home, known, now())


def _log_in(
    flags: Flags,
    home: Home,
    address: ProxyAddress,
    known: Profile | None,
    user: str,
    cluster: str,
    pins: tuple[str, ...],
    out: str,
    form: str,
    *,
    show: bool = True,
    browser: bool = False,
) -> None:
    from teleport.client import login as steps
    from teleport.client.webapi import WebAPI
    from teleport.pki.pin import parse_pin

    steps.with_user_checked(user)
    checked_pins = [parse_pin(pin) for pin in pins]
    person = prompts.Person()
    port = steps.reachable_port(address)
    same = known if known and known.web == (address.host, port) else None
    trust = steps.establish_trust(
        address.host, port, pins=checked_pins, remembered=steps.remembered_trust(home, same), asking=person
    )
    api = WebAPI(address.host, port, trust, now())
    ttl = flags.ttl * 60
    by_passkey = flags.auth == PASSWORDLESS
    wanted = flags.user if show else user  # a command goes on as whom it began with
    if browser or _needs_browser(api, by_passkey=by_passkey):
        done = steps.log_in_by_browser(
            api, address, wanted, read=person.read, show=_show_page, pause=_pause, ttl=ttl, cluster=cluster
        )
    elif by_passkey:
        done = steps.log_in_by_passkey(api, address, wanted, asking=person, ttl=ttl, cluster=cluster)
    else:
        done = steps.log_in(api, address, user, asking=person, ttl=ttl, cluster=cluster)
    if done.clock_off:
        render.note(f"tsh: {done.clock_off}: certificates may seem expired, or from the future; timedatectl shows why")
    if done.versions and not flags.skip_version_check:
        render.note(f"tsh: {done.versions} (--skip-version-check hides this)")
    if out:
        from teleport.client.files import write_login

        for path in write_login(done, out, form):
            render.note(f"wrote {render.printable(str(path))}")
        return
    for other in steps.store(home, done):
        render.note(
            f"tsh: this proxy says something else about the hosts of {other} than that cluster's own proxy; "
            "what was known is kept"
        )
    if show:
        _show(home)
    _to_agent(flags, done.profile)
    _refresh_hosts(flags, done.profile.name)


def _to_kubectl(home: Home, name: str, chosen: str) -> None:
    """Brings the kubeconfig up to date after a login to the proxy of that name."""
    found = profiles.load(home, name)
    if found is not None and (found.kube_proxy_addr or chosen):
        from teleport.cli.tsh.kube_entries import after_login

        after_login(home, found, chosen)


def _to_agent(flags: Flags, found: Profile) -> None:
    """Adds the certificate to the agent of this machine, where one runs. Raises `TeleportError` where it was asked for
    and fails; what an agent does not want is no matter else."""
    if flags.add_keys_to_agent == "no" or (flags.add_keys_to_agent != "yes" and not os.environ.get("SSH_AUTH_SOCK")):
        return
    from teleport.client import ssh_agent

    try:
        ssh_agent.add(os.environ, flags.home, found, now())
    except TeleportError:
        if flags.add_keys_to_agent == "yes":
            raise


def _needs_browser(api: WebAPI, *, by_passkey: bool) -> bool:
    """Whether it takes a security key, this machine has none, and somebody is there to go to a browser."""
    from teleport.client.hardware_keys import find_keys

    if not prompts.interactive() or find_keys() is not None:
        return False
    ping = api.ping()
    return ping.passwordless if by_passkey else ping.second_factor in ("webauthn", "u2f")


def _show_page(address: str, code: str) -> None:
    render.say(
        f"Open this page in a browser that has your security key:\n\n  {address}\n\nand type there the code {code}"
    )
    render.say("It waits five minutes. Ctrl-C ends it.")


def _pause() -> None:
    import time

    time.sleep(BROWSER_PAUSE)


def _refresh_hosts(flags: Flags, name: str) -> None:
    """Brings the hosts of OpenSSH's configuration up to date, where they are kept. A login does not fail for it."""
    from teleport.client import renewal, ssh_install

    try:
        if name not in ssh_install.installed(flags.home):
            return
        from teleport.cli.tsh.nodes import remember_hosts

        found = profiles.load(flags.home, name)
        if found is not None:
            renewal.mark(flags.home, name, now(), worked=True)
            remember_hosts(flags, found)
        ssh_install.rewrite(flags.home, os.environ)
    except TeleportError as error:
        render.note(f"tsh: the hosts in OpenSSH's configuration are not up to date: {render.printable(error.message)}")


def _check_free(out: str, form: str, overwrite: bool) -> None:
    from teleport.client.files import existing

    found = existing(out, form)
    if found and not overwrite and not prompts.yes(f"Overwrite {render.printable(str(found[0]))}?"):
        raise AlreadyExists(f"{found[0]} exists", hint="--overwrite replaces it")


def _local_user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise BadRequest("this machine has no name for you", hint="--user=NAME") from None


def _show(home: Home) -> None:
    from teleport.cli.tsh.status import describe

    render.out(describe(home, profiles.load_all(home)[:1], now()))
