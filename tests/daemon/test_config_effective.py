"""Built-in defaults, then the file, then flags; tokens that are read late and shown never."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.daemon.cluster_settings import settings_of
from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config
from teleport.daemon.config.token_source import TokenSource
from teleport.daemon.config.values import Config, ManagedResource, ServiceRole, Severity
from teleport.errors import BadRequest, NotFound
from teleport.resources.cluster import NetworkingConfig, NetworkingSpec, RecordingMode, TunnelStrategy
from teleport.resources.values import CommandLabel, Duration, HostPort

PIN = "sha256:" + "ab" * 32


def config(text: str = "", hostname: str = "box", flags: StartFlags | None = None) -> Config:
    file = load_config(text, "teleport.yaml") if text else None
    return effective_config(file, flags or StartFlags(), hostname)


def test_without_file_and_flags_the_defaults_hold() -> None:
    made = config()
    assert made.roles == (ServiceRole.AUTH, ServiceRole.PROXY, ServiceRole.NODE)
    assert made.nodename == "box"
    assert made.data_dir == Path("/var/lib/teleport")
    assert made.storage.path == Path("/var/lib/teleport/backend")
    assert made.storage.events_path == Path("/var/lib/teleport/log")
    assert made.storage.recordings_path == Path("/var/lib/teleport/log/records")
    assert made.auth_servers == (HostPort("127.0.0.1", 3025),)
    assert made.auth is not None
    assert made.auth.listen_addr == HostPort("0.0.0.0", 3025)
    assert made.auth.cluster_name == "box"
    assert made.auth.recording_mode is RecordingMode.NODE
    assert made.auth.session_limits.keep_alive_interval == Duration.parse("5m")
    assert made.auth.managed == frozenset()
    assert made.proxy is not None
    assert made.proxy.web_listen_addr == HostPort("0.0.0.0", 3080)
    assert made.proxy.public_addrs == (HostPort("box", 3080),)
    assert made.proxy.ssh_public_addrs == (HostPort("box", 3023),)
    assert made.node is not None
    assert made.node.listen_addr == HostPort("0.0.0.0", 3022)
    assert made.limits.max_connections == 15000
    assert made.diag_addr is None
    assert made.token is None
    assert made.warnings == ()


FILE = f"""\
teleport:
  nodename: from-file
  auth_token: filetoken
  ca_pin: {PIN}
  auth_servers: [auth.example.com]
  diag_addr: 127.0.0.1:3000
  pid_file: /run/file.pid
  log: {{severity: error}}
auth_service:
  cluster_name: example.com
  disconnect_expired_cert: yes
  keep_alive_count_max: 7
ssh_service:
  labels: {{env: file}}
  commands: [{{name: a, command: [b]}}]
proxy_service:
  public_addr: [web.example.com:443, other.example.com]
"""


def test_the_file_wins_over_the_defaults() -> None:
    made = config(FILE)
    assert made.nodename == "from-file"
    assert made.auth_servers == (HostPort("auth.example.com", 3025),)
    assert made.ca_pins == (PIN,)
    assert made.token == TokenSource.parse("filetoken")
    assert made.log.severity is Severity.ERROR
    assert made.auth is not None
    assert made.auth.cluster_name == "example.com"
    assert made.auth.managed == {ManagedResource.AUTHENTICATION, ManagedResource.NETWORKING}
    assert made.proxy is not None
    assert made.proxy.public_addrs == (HostPort("web.example.com", 443), HostPort("other.example.com", 3080))
    assert made.proxy.ssh_public_addrs == (HostPort("web.example.com", 3023), HostPort("other.example.com", 3023))


def test_flags_win_over_the_file() -> None:
    made = config(
        FILE,
        flags=StartFlags(
            roles="node, proxy",
            auth_servers=("10.0.0.1", "10.0.0.2:443"),
            token="flagtoken",
            ca_pins=(PIN.upper().replace("SHA", "sha"), "sha256:" + "cd" * 32),
            listen_ip="127.0.0.1",
            nodename="from-flag",
            labels='env=flag,arch=[1h:"uname -m"]',
            diag_addr=":0",
            pid_file="/run/flag.pid",
            advertise_ip="192.0.2.1",
            insecure_no_tls=True,
            permit_user_env=True,
            debug=True,
        ),
    )
    assert made.roles == (ServiceRole.PROXY, ServiceRole.NODE)
    assert made.auth_servers == (HostPort("10.0.0.1", 3025), HostPort("10.0.0.2", 443))
    assert made.token == TokenSource.parse("flagtoken")
    assert made.ca_pins == (PIN, "sha256:" + "cd" * 32)
    assert made.nodename == "from-flag"
    assert made.diag_addr == HostPort("0.0.0.0", 0)
    assert made.pid_file == Path("/run/flag.pid")
    assert made.advertise_ip == HostPort("192.0.2.1", 0)
    assert made.log.severity is Severity.DEBUG
    assert made.node is not None
    assert made.node.listen_addr == HostPort("127.0.0.1", 3022)
    assert made.node.labels.static == {"env": "flag"}
    assert made.node.labels.dynamic == (CommandLabel("arch", ("uname", "-m"), Duration.parse("1h")),)
    assert made.node.permit_user_env
    assert made.proxy is not None
    assert made.proxy.plain_http
    assert made.proxy.listen_addr == HostPort("127.0.0.1", 3023)


def test_the_quota_of_recordings_is_in_bytes_and_none_by_default() -> None:
    made = [config(text).node for text in ("", "ssh_service: {recording_quota_mib: 3}")]
    assert [node.recording_quota for node in made if node is not None] == [0, 3 * 1024**2]


def test_naming_an_auth_server_turns_the_local_one_off() -> None:
    assert config(flags=StartFlags(auth_servers=("a",))).roles == (ServiceRole.PROXY, ServiceRole.NODE)
    made = config(flags=StartFlags(auth_servers=("a",), roles="auth,node"))
    assert made.roles == (ServiceRole.NODE,)
    assert any("no auth service is run here" in warning for warning in made.warnings)
    with pytest.raises(BadRequest, match="no service is left"):
        config(flags=StartFlags(auth_servers=("a",), roles="auth"))


def test_services_talk_to_the_auth_service_of_their_own_process() -> None:
    made = config("auth_service: {listen_addr: '0.0.0.0:13025'}\n")
    assert made.auth_servers == (HostPort("127.0.0.1", 13025),)
    assert config("auth_service: {listen_addr: '[::]:1'}\n").auth_servers == (HostPort("::1", 1),)


def test_one_empty_pin_by_flag_takes_the_pins_of_the_file_away() -> None:
    assert config(FILE, flags=StartFlags(ca_pins=("",))).ca_pins == ()
    assert config(FILE, flags=StartFlags(ca_pins=())).ca_pins == (PIN,)
    assert config(FILE).ca_pins == (PIN,)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (StartFlags(roles="node,pilot"), '--roles: found "node,pilot", allowed: a comma list of node, proxy and auth'),
        (StartFlags(roles="app"), "does not have the app service yet"),
        (StartFlags(auth_servers=("a:b",)), '--auth-server: found "a:b", allowed: host'),
        (StartFlags(token="two words"), "--token: found a value that is not shown"),
        (StartFlags(ca_pins=("sha256:12",)), '--ca-pin: found "sha256:12", allowed: sha256: and 64'),
        (StartFlags(ca_pins=("", PIN)), "--ca-pin: found an empty pin among others"),
        (StartFlags(listen_ip="example.com"), '--listen-ip: found "example.com", allowed: an IP address'),
        (StartFlags(nodename="a b"), '--nodename: found "a b", allowed: a name'),
        (StartFlags(labels="env"), '--labels: found "env", allowed: key=value'),
        (StartFlags(diag_addr="x:y"), '--diag-addr: found "x:y"'),
        (StartFlags(advertise_ip="0.0.0.0"), '--advertise-ip: found "0.0.0.0"'),
        (StartFlags(fips=True), "not validated for FIPS 140"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_refused_with_what_is_allowed(flags: StartFlags, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        config(flags=flags)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_wrong_flags_are_reported_at_once() -> None:
    with pytest.raises(BadRequest) as caught:
        config(flags=StartFlags(roles="x", nodename="a b", labels="=", fips=True))
    assert len(str(caught.value).splitlines()) == 4


def test_a_token_is_read_when_it_is_used_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    made = config(flags=StartFlags(token=str(path)))
    assert made.token is not None
    with pytest.raises(NotFound, match="no token file"):
        made.token.read()
    path.write_text("  s3cret\n")
    assert made.token.read() == "s3cret"
    shown = repr(made) + repr(config(flags=StartFlags(token="s3cret"))) + repr(StartFlags(token="s3cret"))
    assert "s3cret" not in shown
    assert "s3cret" not in str(TokenSource.parse("s3cret"))


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xff\xfe", b"a\nb", b"x" * 5000, b"a\x00b"])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match="does not hold a join token"):
        TokenSource.parse(str(path)).read()


def test_join_params_give_the_token_too() -> None:
    made = config("teleport: {join_params: {token_name: abc, method: token}}\n")
    assert made.token == TokenSource.parse("abc")


def test_trials_without_checks_are_warned_of() -> None:
    assert any("--insecure" in warning for warning in config(flags=StartFlags(insecure=True)).warnings)


def test_all_services_disabled_is_an_error() -> None:
    text = "auth_service: {enabled: no}\nproxy_service: {enabled: no}\nssh_service: {enabled: no}\n"
    with pytest.raises(BadRequest, match="no service is left to run"):
        config(text)
    assert config(text, flags=StartFlags(roles="node")).roles == (ServiceRole.NODE,)


def test_version_v2_serves_everything_on_the_web_port_and_v1_nothing_more_than_before() -> None:
    """Without an SSH listener in the file there is none; with it both; who is announced follows."""
    text = "version: v2\nproxy_service: {public_addr: [a.test:443, b.test:443]}\n"
    alone = config(text).proxy
    assert alone is not None
    assert (alone.one_port, alone.listen_addr) == (True, None)
    assert alone.ssh_public_addrs == alone.public_addrs == (HostPort("a.test", 443), HostPort("b.test", 443))
    both = config(text.replace("{", "{listen_addr: 0.0.0.0:3023, ssh_public_addr: c.test, ")).proxy
    assert both is not None
    assert (both.one_port, both.listen_addr) == (True, HostPort("0.0.0.0", 3023))
    assert both.ssh_public_addrs == (HostPort("c.test", 3023),)
    hinted = config("auth_service: {proxy_listener_mode: multiplex}\n").proxy
    assert hinted is not None
    assert (hinted.one_port, hinted.listen_addr) == (True, HostPort("0.0.0.0", 3023))
    plain = config("version: v1\n").proxy
    assert plain is not None
    assert not plain.one_port


def test_proxy_headers_are_taken_from_listed_sources_only() -> None:
    """On by default, from nobody; off takes none from those listed either; everybody cannot be listed."""
    for text, listed in (
        ("proxy_service: {}\n", ()),
        ("proxy_service: {proxy_protocol_from: [10.0.0.5, 10.1.0.0/24]}\n", ("10.0.0.5/32", "10.1.0.0/24")),
        ("proxy_service: {proxy_protocol_from: 10.0.0.5, proxy_protocol: off}\n", ()),
    ):
        made = config(text).proxy
        assert made is not None
        assert made.balancers == listed
    for wrong in ("0.0.0.0/0", "::/0", "10.0.0.1/24", "balancer.test"):
        with pytest.raises(BadRequest, match="proxy_protocol_from"):
            config(f"proxy_service: {{proxy_protocol_from: ['{wrong}']}}\n")


def test_which_tunnels_hosts_keep_and_where_proxies_ask_each_other() -> None:
    plain = config("auth_service:\n  cluster_name: a.test\n")
    assert plain.auth is not None
    assert plain.proxy is not None
    assert settings_of(plain.auth, plain.storage) == ()
    assert (plain.proxy.peer_listen_addr, plain.proxy.peer_always) == (HostPort("0.0.0.0", 3021), False)
    said = config(
        "auth_service:\n  tunnel_strategy: {type: proxy_peering, agent_connection_count: 2}\n"
        "proxy_service:\n  peer_listen_addr: 10.0.0.1\n  peer_public_addr: proxy1.internal\n"
    )
    assert said.auth is not None
    assert said.proxy is not None
    (networking,) = settings_of(said.auth, said.storage)
    assert isinstance(networking, NetworkingConfig)
    assert networking.spec.tunnel_strategy.connections == 2
    assert (said.proxy.peer_listen_addr, said.proxy.peer_always) == (HostPort("10.0.0.1", 3021), True)
    assert said.proxy.peer_public_addr == HostPort("proxy1.internal", 3021)
    mesh = NetworkingConfig(spec=NetworkingSpec(tunnel_strategy=TunnelStrategy(agent_connection_count=5)))
    assert mesh.spec.tunnel_strategy.connections == 0, "to every proxy"
