"""The block for OpenSSH's configuration (`cli.md` 5): with it ssh, scp, sftp and what is built on them reach hosts.

Nothing of ours is on the path: the way through the proxy is OpenSSH's own client and the proxy's subsystem. The inner
ssh gets everything by options, so that the block works from any file (`ssh -F`), not from `~/.ssh/config` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teleport.client.addresses import NODE_PORT, check_host
from teleport.errors import BadRequest
from teleport.pki.trust import check_cluster_name


@dataclass(frozen=True, slots=True)
class OpenSSHPaths:
    """Where OpenSSH finds what it needs."""

    known_hosts: Path
    key: Path
    certificate: Path


def openssh_block(proxy: str, ssh: tuple[str, int], cluster: str, paths: OpenSSHPaths) -> str:
    """Two Host blocks: (a) the cluster's hosts and the proxy, (b) the hosts without the proxy."""
    host, port = check_host(ssh[0]), ssh[1]
    check_cluster_name(cluster)
    known, key, certificate = (_quoted(path) for path in (paths.known_hosts, paths.key, paths.certificate))
    inner = " ".join(
        [
            "ssh",
            f"-o IdentityFile={_shell(paths.key)}",
            f"-o CertificateFile={_shell(paths.certificate)}",
            f"-o UserKnownHostsFile={_shell(paths.known_hosts)}",
            "-o IdentitiesOnly=yes",
            "-o StrictHostKeyChecking=yes",
            f"-o HostKeyAlias={host}",
            f"-p {port} -l %r {host} -s proxy:%h:%p@{cluster}",
        ]
    )
    return f"""\
# Begin: tsh config, proxy {proxy}, cluster {cluster}
Host *.{cluster} {host}
    UserKnownHostsFile {known}
    IdentityFile {key}
    CertificateFile {certificate}
    IdentitiesOnly yes

Host *.{cluster} !{host}
    Port {NODE_PORT}
    ProxyCommand {inner}
# End: tsh config, proxy {proxy}, cluster {cluster}
"""


def proxy_subsystem(target: str, cluster: str) -> str:
    """`proxy:host:port@cluster` for `host.cluster:port` as ssh types it. Raises `BadRequest`."""
    host, colon, port = target.rpartition(":")
    if not colon or not port.isdigit():
        raise BadRequest(f"{target[:80]!r} is not host:port")
    name = check_host(host.strip("[]")).removesuffix(f".{cluster.lower()}")
    return f"proxy:{name}:{port}@{cluster}"


def openssh_arguments(ssh: tuple[str, int], login: str, subsystem: str, paths: OpenSSHPaths) -> list[str]:
    """The command that `config-proxy` becomes."""
    options = {
        "IdentityFile": f'"{paths.key}"',
        "CertificateFile": f'"{paths.certificate}"',
        "UserKnownHostsFile": f'"{paths.known_hosts}"',
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": ssh[0],
    }
    arguments = ["ssh", "-F", "none"]
    for name, value in options.items():
        arguments += ["-o", f"{name}={value}"]
    return [*arguments, "-p", str(ssh[1]), "-l", login, "-s", "--", ssh[0], subsystem]


def _quoted(path: Path) -> str:
    text = str(path)
    if any(char in text for char in '"\n%'):
        raise BadRequest(f"{text!r} cannot be written into OpenSSH's configuration", hint="set TELEPORT_HOME")
    return f'"{text}"'


def _shell(path: Path) -> str:
    """A path for the shell that runs a ProxyCommand, and within it for OpenSSH, which splits at blanks itself."""
    import shlex

    text = str(path)
    _quoted(path)
    return shlex.quote(f'"{text}"' if " " in text else text)
