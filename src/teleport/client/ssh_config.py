"""The block for OpenSSH's configuration (`cli.md` 5): with it ssh, scp, sftp and what is built on them reach hosts.

Nothing of ours is on the path: the way through the proxy is OpenSSH's own client and the proxy's subsystem. The inner
ssh gets everything by options, so that the block works from any file (`ssh -F`), not from `~/.ssh/config` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teleport.client.addresses import NODE_PORT, check_host, join
from teleport.errors import BadRequest
from teleport.pki.trust import check_cluster_name


@dataclass(frozen=True, slots=True)
class OpenSSHPaths:
    """Where OpenSSH finds what it needs."""

    known_hosts: Path
    key: Path
    certificate: Path


def openssh_block(
    proxy: str, ssh: tuple[str, int], cluster: str, paths: OpenSSHPaths, refresh: str = "", way: str = ""
) -> str:
    """Two Host blocks: (a) the cluster's hosts and the proxy, (b) the hosts without the proxy. Before them, with
    `refresh`, what runs that command for a shell before ssh connects to a host. `way` is the ProxyCommand, where it
    is not OpenSSH's own client."""
    host = check_host(ssh[0])
    known, key, certificate = (quoted_path(path) for path in (paths.known_hosts, paths.key, paths.certificate))
    inner = way or proxy_command(ssh, cluster, paths)
    first = f'Match host *.{cluster},!{host} exec "{refresh}"\n\n' if refresh else ""
    return f"""\
# Begin: tsh config, proxy {proxy}, cluster {cluster}
{first}Host *.{cluster} {host}
    UserKnownHostsFile {known}
    IdentityFile {key}
    CertificateFile {certificate}
    IdentitiesOnly yes

Host *.{cluster} !{host}
    Port {NODE_PORT}
    ProxyCommand {inner}
# End: tsh config, proxy {proxy}, cluster {cluster}
"""


def proxy_command(ssh: tuple[str, int], cluster: str, paths: OpenSSHPaths) -> str:
    """OpenSSH's own client, on its way to the proxy's subsystem for the host `%h`."""
    host = check_host(ssh[0])
    check_cluster_name(cluster)
    return " ".join(
        [
            "ssh",
            f"-o IdentityFile={_shell(paths.key)}",
            f"-o CertificateFile={_shell(paths.certificate)}",
            f"-o UserKnownHostsFile={_shell(paths.known_hosts)}",
            "-o IdentitiesOnly=yes",
            "-o StrictHostKeyChecking=yes",
            f"-o HostKeyAlias={host}",
            f"-p {ssh[1]} -l %r {host} -s proxy:%h:%p@{cluster}",
        ]
    )


def proxy_subsystem(target: str, cluster: str) -> str:
    """`proxy:host:port@cluster` for `host.cluster:port` as ssh types it. Raises `BadRequest`."""
    host, colon, port = target.rpartition(":")
    if not colon or not port.isdigit():
        raise BadRequest(f"{target[:80]!r} is not host:port", hint="tsh config prints what OpenSSH needs")
    name = check_host(host.strip("[]")).removesuffix(f".{cluster.lower()}")
    return f"proxy:{join(name, int(port))}@{cluster}"


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


def quoted_path(path: Path) -> str:
    """A path as a word of OpenSSH's configuration. Raises `BadRequest` for one that would be read otherwise."""
    text = path.as_posix()
    if any(char in '"%$\\' or not char.isprintable() for char in text):
        raise BadRequest(f"{text!r} cannot be written into OpenSSH's configuration", hint="set TELEPORT_HOME")
    return f'"{text}"'


def _shell(path: Path) -> str:
    """A path for the shell that runs a ProxyCommand, and within it for OpenSSH, which splits at blanks itself."""
    import shlex

    text = path.as_posix()
    quoted_path(path)
    return shlex.quote(f'"{text}"' if " " in text else text)
