"""Logging in: who is at the other end, then password and code, then certificates for a key made here.

Nothing secret leaves before the far end is proved (`trust.py`), and nothing that comes back is stored before it was
compared with what was asked: the key, the user, the authority.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from teleport import __version__
from teleport.client import hosts_seen, keystore, known_hosts, profile, renewal
from teleport.client.addresses import SSH_PORT, ProxyAddress, join, split_port
from teleport.client.dial import Untrusted, clock_difference, open_web, shown_fingerprint
from teleport.client.hardware_keys import KeyAnswer, find_keys, need_keys, site
from teleport.client.home import Home
from teleport.client.keystore import KeyFiles
from teleport.client.kube import kube_address
from teleport.client.other_clusters import unknown
from teleport.client.profile import Profile
from teleport.client.trust import CertificateTrust, ClusterTrust, ProxyTrust, PublicTrust, parse_trust, trust_by_pin
from teleport.client.versions import concern
from teleport.client.webapi import Certificates, Ping, Signer, WebAPI, claimed_authority
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem, NotFound
from teleport.pki.keys import PrivateKey, PublicKey, generate_p256
from teleport.pki.sshformat import USER, parse_certificate_line
from teleport.pki.trust import check_cluster_name

PROBE_TIMEOUT = 2.0  # seconds for each port that is tried when none was given


class Asking(Protocol):
    """What logging in asks of the person, or of what stands for one."""

    def accept_certificate(self, address: str, fingerprint: str) -> bool:
        """Whether this certificate is the proxy's. False when there is nobody to ask."""
        ...

    def read(self, message: str) -> None:
        """Shows what the cluster has to say before a login. Raises `TeleportError` when the person turns away."""
        ...

    def password(self, user: str) -> str: ...

    def code(self, question: str = ...) -> str: ...

    def touch(self, text: str) -> None:
        """Says what to do with a security key."""
        ...


@dataclass(frozen=True, slots=True)
class Login:
    """A login that succeeded, not stored yet."""

    profile: Profile
    key: PrivateKey
    certificates: Certificates
    trust: ProxyTrust
    clock_off: str = ""  # how far this machine's clock and the proxy's are apart, when it matters
    versions: str = ""  # why this tsh and the cluster do not fit, when they do not


def reachable_port(address: ProxyAddress) -> int:
    """The web port that takes connections. Raises `ConnectionProblem`."""
    if address.web_port:
        return address.web_port
    from teleport.transport.site_dial import dial_out
    from teleport.transport.site_proxy import site_proxy

    problem: ConnectionProblem | None = None
    for port in address.web_ports:
        try:
            dial_out(address.host, port, PROBE_TIMEOUT).close()
            return port
        except ConnectionProblem as error:
            problem = problem or error
    tried = " and ".join(str(port) for port in address.web_ports)
    assert problem is not None
    hint = "--proxy=HOST:PORT names the proxy's web address"
    if site_proxy(address.host, address.web_ports[0]) is not None:  # which has its own reasons
        hint = f"{problem.hint}; {hint}"
    raise ConnectionProblem(f"{problem.message} (ports {tried} were tried)", hint=hint)


def establish_trust(
    host: str, port: int, *, pins: Sequence[str], remembered: ProxyTrust | None, asking: Asking
) -> ProxyTrust:
    """How the proxy at this address is to be believed. Raises `Untrusted` when it is not.

    Pins come first; then what an earlier login settled; then public authorities; then the person's own eyes.
    """
    if pins:
        cluster, shown = claimed_authority(host, port)
        return trust_by_pin(pins, cluster, shown)
    if remembered is not None and not isinstance(remembered, PublicTrust):
        try:
            open_web(host, port, remembered).close()
        except Untrusted:
            if not _public(host, port):
                raise
            return PublicTrust()  # it has been given a real certificate since
        return remembered
    try:
        open_web(host, port, PublicTrust()).close()
        return PublicTrust()
    except Untrusted as error:
        if remembered is not None:  # it was believed by a public authority before: nobody is asked to look away
            raise
        shown_now = shown_fingerprint(host, port)
        if asking.accept_certificate(join(host, port), shown_now):
            return CertificateTrust(shown_now)
        raise Untrusted(
            f"{error.message}\nits certificate has the fingerprint {shown_now}",
            hint="tsh login --ca-pin=sha256:... trusts the cluster by its pin, which tctl status prints",
        ) from None


def _public(host: str, port: int) -> bool:
    try:
        open_web(host, port, PublicTrust()).close()
    except ConnectionProblem:
        return False
    return True


def remembered_trust(home: Home, found: Profile | None) -> ProxyTrust | None:
    """How a profile trusts its proxy."""
    if found is None:
        return None
    pems = keystore.authorities_of(home, KeyFiles(found.name, found.user), found.root_cluster)
    return parse_trust(found.proxy_trust, found.root_cluster, pems)


def log_in(
    api: WebAPI,
    address: ProxyAddress,
    user: str,
    *,
    asking: Asking,
    ttl: float = 0,
    cluster: str = "",
    make_key: Callable[[], PrivateKey] = generate_p256,
) -> Login:
    """Proves password and code to the proxy behind `api`. Raises what the proxy answers; stores nothing."""
    ping = api.ping()
    root = check_cluster_name(ping.cluster)
    if ping.has_motd and (message := api.message_of_the_day()):
        asking.read(message)
    password = asking.password(user)
    code, answer = second_factor(api, ping.second_factor, user, asking)
    key = make_key()
    route = cluster or root
    certificates = api.certificates(user, password, code, key.public.line(""), ttl, route, answer)
    return _login(api, address, ping, user, route, key, certificates)


def log_in_by_passkey(
    api: WebAPI,
    address: ProxyAddress,
    user: str,
    *,
    asking: Asking,
    ttl: float = 0,
    cluster: str = "",
    make_key: Callable[[], PrivateKey] = generate_p256,
) -> Login:
    """Proves a passkey at this machine, which says who it is and has checked its owner. `user`, when not empty, is who
    that has to be. Raises what the proxy answers; stores nothing."""
    ping = api.ping()
    root = check_cluster_name(ping.cluster)
    if not ping.passwordless:
        raise BadRequest("passkeys do not log in to this cluster", hint="tsh login, with password and second factor")
    keys = need_keys()
    if ping.has_motd and (message := api.message_of_the_day()):
        asking.read(message)
    made, question = api.passkey_challenge()
    question = replace(question, user=user)
    answer = keys.sign(question, site(api.host, api.port, question.rp_id), asking.touch)
    key = make_key()
    route = cluster or root
    certificates = api.certificates("", "", "", key.public.line(""), ttl, route, (made, answer))
    answered = with_user_checked(certificates.username)
    if user and answered != user:
        raise AccessDenied(
            f"the passkey is that of {answered!r}, not of {user!r}; nothing was stored", hint=f"--user={answered}"
        )
    return _login(api, address, ping, answered, route, key, certificates)


def log_in_by_browser(
    api: WebAPI,
    address: ProxyAddress,
    user: str,
    *,
    read: Callable[[str], None],
    show: Callable[[str, str], None],
    pause: Callable[[], None],
    ttl: float = 0,
    cluster: str = "",
    make_key: Callable[[], PrivateKey] = generate_p256,
) -> Login:
    """Has a person answer in a browser. `read` gets the message of the day, `show` the page's address and the code to
    type there; `pause` is waited for between looks. `user`, when not empty, is who has to answer. Raises what the proxy
    answers; stores nothing."""
    ping = api.ping()
    root = check_cluster_name(ping.cluster)
    if ping.has_motd and (message := api.message_of_the_day()):
        read(message)
    key = make_key()
    route = cluster or root
    made, code = api.begin_browser_login(key.public.line(""), ttl, route)
    show(f"https://{join(api.host, api.port)}/web/login/{made}", f"{code[:4]}-{code[4:]}")
    while (certificates := api.collect_browser_login(made)) is None:
        pause()
    answered = with_user_checked(certificates.username)
    if user and answered != user:
        raise AccessDenied(
            f"{answered!r} answered in the browser, not {user!r}; nothing was stored", hint="tsh login --browser"
        )
    return _login(api, address, ping, answered, route, key, certificates)


def _login(
    api: WebAPI,
    address: ProxyAddress,
    ping: Ping,
    user: str,
    route: str,
    key: PrivateKey,
    certificates: Certificates,
) -> Login:
    """What is stored of an answer, once it was compared with what was asked."""
    check_answer(certificates, key.public, user, ping.cluster, api.trust)
    if route not in (names := [signer.cluster for signer in certificates.signers]):
        raise unknown(route, names)
    found = Profile(
        name=KeyFiles(address.host, user).proxy,
        web_proxy_addr=join(api.host, api.port),
        ssh_proxy_addr=ssh_address(address, ping),
        user=user,
        cluster=route,
        root_cluster=ping.cluster,
        proxy_trust=str(api.trust),
        tls_routing=way_of_ssh(api, address, ping),
        kube_proxy_addr=kube_address(ping, api.host, api.port),
    )
    versions = concern(__version__, ping.server_version, ping.min_client_version)
    return Login(found, key, certificates, api.trust, clock_difference(ping.time, api.now), versions)


def second_factor(api: WebAPI, setting: str, user: str, asking: Asking) -> tuple[str, tuple[str, KeyAnswer] | None]:
    """A code, or a hardware key's answer with the id of its challenge, as the cluster's setting wants it.

    Raises `TeleportError` when a key is needed and there is none.
    """
    if setting == "off":
        return "", None
    if setting in ("on", "optional"):
        none = ", or Enter for none" if setting == "optional" else ""
        keys = find_keys()
        code = asking.code(f"One-time code (Enter: your security key{none}): " if keys else f"One-time code{none}: ")
        if code or (setting == "optional" and keys is None):
            return code, None
    elif setting not in ("webauthn", "u2f"):
        return asking.code(), None
    keys = need_keys()
    made, question = api.login_challenge(user)
    try:
        return "", (made, keys.sign(question, site(api.host, api.port, question.rp_id), asking.touch))
    except NotFound:
        if setting != "optional":
            raise
        return "", None  # somebody without devices: the key at this machine is for something else


def way_of_ssh(api: WebAPI, address: ProxyAddress, ping: Ping) -> str:
    """How SSH goes by the web port, where the proxy says that it does and nobody typed another port."""
    if not ping.tls_routing or address.ssh_port:
        return ""
    from teleport.client.one_port import found_way

    return found_way(api.host, api.port, api.trust)


def ssh_address(address: ProxyAddress, ping: Ping) -> str:
    """Where the proxy takes SSH: as typed, as it is announced, else on its host at the port it listens on."""
    if address.ssh_port:
        return join(address.host, address.ssh_port)
    if ping.ssh_public_addr:
        try:
            return join(*split_port(ping.ssh_public_addr, SSH_PORT))
        except BadRequest:
            raise ConnectionProblem(
                "the proxy announces an SSH address that is none",
                hint="set proxy_service.ssh_public_addr on the proxy, or --proxy=host:https_port,ssh_port",
            ) from None
    port = ping.ssh_listen_addr.rpartition(":")[2]
    return join(address.host, int(port) if port.isdigit() and 0 < int(port) < 65536 else SSH_PORT)


def check_answer(found: Certificates, key: PublicKey, user: str, root: str, trust: ProxyTrust) -> None:
    """Raises `ConnectionProblem` unless the certificates are for this key and user, and the cluster's authority is
    the one by which the proxy was believed."""
    from teleport.pki.x509verify import certificate_key, load_certificate, one_pem

    try:
        ssh = parse_certificate_line(found.ssh).body
        tls = load_certificate(found.tls.encode())
        if ssh.public_key != key or certificate_key(tls) != key or ssh.type != USER or ssh.key_id != user:
            raise ConnectionProblem(
                "the proxy answered with certificates for another key or user",
                hint="nothing was stored; ask the administrator for the pin: tsh login --ca-pin=sha256:...",
            )
        for signer in found.signers:
            check_cluster_name(signer.cluster)
            for pem in signer.tls_certs:
                load_certificate(pem.encode()) if signer.cluster == root else one_pem(pem)
    except (BadRequest, UnicodeEncodeError) as error:
        raise ConnectionProblem(
            f"the proxy answered with something that is no certificate: {error}",
            hint="nothing was stored; ask the administrator for the pin: tsh login --ca-pin=sha256:...",
        ) from None
    own = [signer for signer in found.signers if signer.cluster == root]
    if not own or not own[0].ssh_keys or not own[0].tls_certs:
        raise ConnectionProblem(
            f"the proxy did not say which authority the hosts of {root} have",
            hint="nothing was stored; ask the administrator for the pin: tsh login --ca-pin=sha256:...",
        )
    if isinstance(trust, ClusterTrust):
        shown = {pem.strip() for pem in own[0].tls_certs}
        if trust.cluster != root or not shown & {pem.strip() for pem in trust.ca_pems}:
            raise ConnectionProblem(
                "the proxy answered for another cluster than the one that it proved",
                hint="nothing was stored; ask the administrator for the pin: tsh login --ca-pin=sha256:...",
            )


def store(home: Home, login: Login) -> list[str]:
    """Writes keys, certificates, authorities, known hosts and the profile, which becomes the active one.

    Returns the clusters whose authority is known otherwise from their own proxy; for them nothing was changed.
    """
    found, certificates = login.profile, login.certificates
    keystore.write_keys(
        home,
        KeyFiles(found.name, found.user),
        key_pem=login.key.pkcs8_pem(),
        public_line=login.key.public.line(found.user),
        ssh=certificates.ssh,
        tls=certificates.tls,
        cluster=found.cluster,
    )
    conflicts = _store_signers(home, found, certificates.signers)
    profile.save(home, found)
    return conflicts


def store_renewed(home: Home, found: Profile, certificates: Certificates) -> None:
    """Writes what the answer said of the clusters, then certificates for the key that there is.

    Others read the files meanwhile: trust comes first, so that no certificate leads to a host that is not believed yet.
    """
    files = KeyFiles(found.name, found.user)
    _store_signers(home, found, certificates.signers)
    home.remove(*files.kube_folder)  # they say what roles gave before
    home.write(certificates.tls.encode(), *files.tls)
    home.write(f"{certificates.ssh.strip()}\n".encode(), *files.ssh(found.cluster))


def _store_signers(home: Home, found: Profile, signers: Sequence[Signer]) -> list[str]:
    files = KeyFiles(found.name, found.user)
    others = {other.root_cluster for other in profile.load_all(home) if other.name != found.name and other.root_cluster}
    gone = set(keystore.clusters_of(home, files)) - {signer.cluster for signer in signers} - _elsewhere(home, found)
    clusters = known_hosts.cluster_lines(signers)
    own = known_hosts.proxy_lines(signers, found.ssh[0], found.ssh[1], found.root_cluster)
    keystore.write_authorities(home, files, signers)
    if home.read(*files.kube_authorities) is not None:
        keystore.write_kube_authorities(home, files, found.root_cluster)
    if gone:
        known_hosts.forget(home, [f"*.{cluster}" for cluster in gone])
    return known_hosts.update(home, found.ssh[0], own, clusters, others)


def _elsewhere(home: Home, found: Profile) -> set[str]:
    """The clusters that other logins know."""
    names: set[str] = set()
    for other in profile.load_all(home):
        if other.name != found.name:
            names |= {other.root_cluster, *keystore.clusters_of(home, KeyFiles(other.name, other.user))}
    return names


def log_out(home: Home, found: Profile) -> None:
    """Removes a profile with its keys, and the known hosts that no other profile needs."""
    known = {found.root_cluster, *keystore.clusters_of(home, KeyFiles(found.name, found.user))}
    keystore.remove_keys(home, KeyFiles(found.name, found.user))
    profile.forget(home, found.name)
    hosts_seen.forget(home, found.name)
    renewal.forget(home, found.name)
    gone = sorted(known - _elsewhere(home, found))
    known_hosts.forget(home, [found.ssh[0], *(f"*.{cluster}" for cluster in gone)])


def identity_content(login: Login) -> bytes:
    """The identity file of a login (format `file`)."""
    from teleport.pki.identity_file import IdentityFile, write_identity_file

    signers = login.certificates.signers
    hosts = known_hosts.cluster_lines(signers)
    return write_identity_file(
        IdentityFile(
            private_key=login.key.pkcs8_pem(),
            ssh_certificate=login.certificates.ssh.strip(),
            tls_certificate=login.certificates.tls.encode(),
            known_hosts=tuple(line for lines in hosts.values() for line in lines),
            tls_authorities=tuple(pem.encode() for signer in signers for pem in signer.tls_certs),
        )
    ).reveal()


def with_user_checked(user: str) -> str:
    """`user` when it may be a user's name. Raises `BadRequest`."""
    from teleport.pki.names import user_name_problem

    problem = user_name_problem(user)
    if problem:
        raise BadRequest(f"the user name {user[:64]!r} {problem}", hint="--user=NAME")
    return user
