"""What a permit lets through on a connection, as tables (threats T25, T26, T50)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from teleport.authz.channels import (
    ChannelDenies,
    ChannelTerms,
    RoleGrant,
    exec_is_limited,
    why_no_agent,
    why_no_command,
    why_no_shell,
    why_no_x11,
)
from teleport.authz.decision import AccessDenial, DenialCode
from teleport.authz.forwarding import (
    Destination,
    plain_address,
    why_no_forward,
    why_no_listener,
    why_no_socket,
    why_no_socket_listener,
)
from teleport.authz.transfer import Direction, most_bytes, why_no_link, why_no_transfer
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, ExecMode, FileTransfer, Options, Role, RoleSpec


def terms(*grants: dict[str, Any], forwarding: bool = True, **denies: tuple[str, ...]) -> ChannelTerms:
    made = tuple(RoleGrant(role=f"r{number}", **grant) for number, grant in enumerate(grants))
    return ChannelTerms(port_forwarding=forwarding, grants=made, denies=ChannelDenies(**denies))


def to(host: str, port: int, address: str = "", reserved: str = "") -> Destination:
    return Destination(host, plain_address(address or host), port, reserved)


def test_a_deny_of_a_name_holds_by_every_name_that_the_resolver_may_have_meant() -> None:
    """Search domains and aliases; what allows wants the name as the client says it."""
    denied = terms({}, forward_to=("*.db.example.com:5432",))
    plain = to("one", 5432, "192.0.2.7")
    for also in (("one.db.example.com",), ("one.corp", "ONE.DB.example.com.")):
        assert why_no_forward(denied, replace(plain, also=also)) is not None
    assert why_no_forward(denied, replace(plain, also=("one.corp",))) is None
    assert why_no_forward(denied, replace(plain, port=80, also=("one.db.example.com",))) is None
    allowed = terms({"forward_to": ("*.db.example.com:5432",)})
    assert why_no_forward(allowed, replace(plain, also=("one.db.example.com",))) is not None


def test_without_terms_nothing_is_allowed() -> None:
    nothing = ChannelTerms()
    for refused in (
        why_no_shell(nothing),
        why_no_command(nothing, "id"),
        why_no_forward(nothing, to("10.0.0.1", 80)),
        why_no_socket(nothing, "/run/x"),
        why_no_listener(nothing, "localhost", 0),
        why_no_socket_listener(nothing, "/tmp/x"),
        why_no_agent(nothing),
        why_no_x11(nothing),
        *(why_no_transfer(nothing, direction, "/x") for direction in Direction),
    ):
        assert isinstance(refused, AccessDenial)
        assert refused.public.startswith("Your roles do not allow ")
        assert refused.reasons


OPEN = terms({})
LISTED = terms({"forward_to": ("*.db.example.com:5432", "10.1.0.0/16:80,443", "localhost:8000-8100", "[fd00::]/8:*")})
EXACT = terms({"forward_to": ("169.254.169.254:80", "10.9.9.9:3022", "*:*")})


@pytest.mark.parametrize(
    ("held", "destination", "allowed"),
    [
        (OPEN, to("10.2.3.4", 25), True),
        (OPEN, to("localhost", 5432, "127.0.0.1"), True),
        (OPEN, to("127.0.0.1", 5432), True),
        (OPEN, to("169.254.169.254", 80), False),
        (OPEN, to("fe80::1", 80), False),
        (OPEN, to("metadata.example.com", 80, "169.254.169.254"), False),
        (OPEN, to("::ffff:169.254.169.254", 80), False),
        (OPEN, to("fd00:ec2::254", 80), False),
        (OPEN, to("fd00:ec2::23", 80), False),
        (OPEN, to("fd20:ce::254", 80), False),
        (OPEN, to("64:ff9b::a9fe:a9fe", 80), False),
        (OPEN, to("::a9fe:a9fe", 80), False),
        (OPEN, to("2002:a9fe:a9fe::1", 80), False),
        (OPEN, to("64:ff9b::a02:304", 80), True),
        (terms({}, forward_to=("10.0.0.0/8:*",)), to("64:ff9b::a02:304", 80), False),
        (OPEN, to("10.9.9.9", 3022, reserved="the node web1"), False),
        (terms({}, forwarding=False), to("10.2.3.4", 25), False),
        (terms({"local_forwarding": False}), to("10.2.3.4", 25), False),
        (terms({"local_forwarding": False}, {}), to("10.2.3.4", 25), True),
        (LISTED, to("a.db.example.com", 5432, "10.5.5.5"), True),
        (LISTED, to("A.DB.example.com.", 5432, "10.5.5.5"), True),
        (LISTED, to("a.db.example.com", 5433, "10.5.5.5"), False),
        (LISTED, to("a.db.example.com.evil.org", 5432, "10.5.5.5"), False),
        (LISTED, to("a.db.example.com", 5432, "127.0.0.1"), False),
        (LISTED, to("a.db.example.com", 5432, "169.254.1.1"), False),
        (LISTED, to("10.1.2.3", 443), True),
        (LISTED, to("anything.org", 443, "10.1.2.3"), True),
        (LISTED, to("10.2.2.3", 443), False),
        (LISTED, to("localhost", 8050, "127.0.0.1"), True),
        (LISTED, to("localhost", 8101, "127.0.0.1"), False),
        (LISTED, to("fd12::1", 9), True),
        (LISTED, to("fe12::1", 9), False),
        (EXACT, to("169.254.169.254", 80), True),
        (EXACT, to("169.254.169.254", 81), False),
        (EXACT, to("10.9.9.9", 3022, reserved="the node web1"), True),
        (EXACT, to("10.9.9.8", 3022, reserved="the node web2"), False),
        (terms({"forward_to": ()}), to("127.0.0.1", 80), False),
        (terms({"forward_to": ("nonsense",)}), to("127.0.0.1", 80), False),
        (terms({}, forward_to=("10.1.9.0/24:*",)), to("10.1.9.7", 80), False),
        (terms({}, forward_to=("10.1.9.0/24:*",)), to("10.1.8.7", 80), True),
        (terms({}, forward_to=("10.1.9.0/24:*",)), to("a.name", 80, "10.1.9.7"), False),
        (terms({}, forward_to=("localhost:*",)), to("127.0.0.1", 80), False),
        (terms({}, forward_to=("nonsense",)), to("10.1.1.1", 80), False),
        (terms({}, forward_to=("unix:/run/*",)), to("10.1.1.1", 80), True),
    ],
)
def test_where_forwards_may_lead(held: ChannelTerms, destination: Destination, allowed: bool) -> None:
    assert (why_no_forward(held, destination) is None) is allowed


@pytest.mark.parametrize(
    ("text", "means"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::ffff:127.0.0.1", "127.0.0.1"), ("fe80::1%eth0", "fe80::1")],
)
def test_an_address_is_taken_for_what_a_connection_reaches(text: str, means: str) -> None:
    assert str(plain_address(text)) == means


@pytest.mark.parametrize(
    ("held", "address", "port", "allowed"),
    [
        (OPEN, "localhost", 0, True),
        (OPEN, "127.0.0.1", 8080, True),
        (OPEN, "::1", 8080, True),
        (OPEN, "", 8080, False),
        (OPEN, "*", 8080, False),
        (OPEN, "0.0.0.0", 8080, False),
        (OPEN, "10.0.0.1", 8080, False),
        (OPEN, "a name", 8080, False),
        (OPEN, "0.0.0.0%x", 8080, False),
        (OPEN, "::0", 8080, False),
        (OPEN, "0:0:0:0:0:0:0:0", 8080, False),
        (OPEN, "::%x", 8080, False),
        (OPEN, "::ffff:0.0.0.0", 8080, False),
        (OPEN, "::1%lo", 8080, False),
        (OPEN, "::ffff:127.0.0.1", 8080, True),
        (terms({"listen_on": ("localhost:*",)}), "::0", 8080, False),
        (terms({"remote_forwarding": False}), "localhost", 8080, False),
        (terms({"listen_on": ("*:8080",)}), "", 8080, True),
        (terms({"listen_on": ("*:8080",)}), "", 8081, False),
        (terms({"listen_on": ("*:8080",)}), "", 0, False),
        (terms({"listen_on": ("10.0.0.0/8:*",)}), "10.0.0.1", 9, True),
        (terms({"listen_on": ("10.0.0.0/8:*",)}), "localhost", 9, False),
        (terms({}, listen_on=("localhost:22",)), "localhost", 22, False),
        (terms({}, listen_on=("localhost:22",)), "localhost", 23, True),
        (terms({}, listen_on=("[::1]:22",)), "localhost", 22, False),  # sshd listens there, too
        (terms({}, listen_on=("[::1]:22",)), "127.0.0.1", 22, True),
        (terms({}, listen_on=("localhost:22",)), "localhost", 0, False),
        (terms({"listen_on": ("*:*",)}, listen_on=("10.0.0.1:*",)), "", 80, False),
        (terms({}, forwarding=False), "localhost", 8080, False),
    ],
)
def test_where_clients_may_have_something_listened_for(
    held: ChannelTerms, address: str, port: int, allowed: bool
) -> None:
    assert (why_no_listener(held, address, port) is None) is allowed


@pytest.mark.parametrize(
    ("held", "path", "allowed"),
    [
        (OPEN, "/run/docker.sock", True),
        (OPEN, "run/docker.sock", False),
        (terms({"forward_to": ("unix:/run/app/*.sock",)}), "/run/app/a.sock", True),
        (terms({"forward_to": ("unix:/run/app/*.sock",)}), "/run/app/b/a.sock", False),
        (terms({"forward_to": ("unix:~/sockets/**",)}), "/home/ann/sockets/a", True),
        (terms({"forward_to": ("unix:~/sockets/**",)}), "/home/bob/sockets/a", False),
        (terms({"forward_to": ("localhost:*",)}), "/run/app/a.sock", False),
        (terms({}, forward_to=("unix:/run/docker.sock",)), "/run/docker.sock", False),
        (terms({}, forward_to=("unix:../x",)), "/run/other.sock", False),
        (terms({"local_forwarding": False}), "/run/app/a.sock", False),
        (terms({"exec": ExecMode.NONE}), "/run/user/1000/bus", False),
        (terms({"exec": ExecMode.TRANSFER}), "/run/user/1000/bus", False),
        (terms({"commands": ("uptime",)}), "/run/user/1000/bus", False),
        (terms({"exec": ExecMode.NONE, "forward_to": ("unix:/run/app/*",)}), "/run/app/a.sock", True),
    ],
)
def test_which_sockets_may_be_reached(held: ChannelTerms, path: str, allowed: bool) -> None:
    assert (why_no_socket(held, path, home="/home/ann") is None) is allowed


@pytest.mark.parametrize(
    ("held", "command", "allowed"),
    [
        (OPEN, "rm -rf /; id", True),
        (terms({"commands": ("systemctl restart *", "uptime")}), "uptime", True),
        (terms({"commands": ("systemctl restart *", "uptime")}), "systemctl restart nginx", True),
        (terms({"commands": ("systemctl restart *", "uptime")}), "systemctl restart nginx now", False),
        (terms({"commands": ("systemctl restart *", "uptime")}), "systemctl restart", False),
        (terms({"commands": ("systemctl restart *",)}), "systemctl restart a;id", False),
        (terms({"commands": ("systemctl restart *",)}), "systemctl restart $(id)", False),
        (terms({"commands": ("systemctl restart *",)}), "systemctl restart a\nid", False),
        (terms({"commands": ("systemctl restart *",)}), "systemctl  restart a", False),
        (terms({"commands": ("uptime",)}), "uptime ", False),
        (terms({"commands": ("git **",)}), "git", True),
        (terms({"commands": ("git **",)}), "git fetch origin", True),
        (terms({"commands": ("git **",)}), "gitx", False),
        (terms({"commands": ("git **",)}), "git `id`", False),
        (terms({"exec": ExecMode.TRANSFER}), "id", False),
        (terms({"exec": ExecMode.NONE}), "id", False),
        (terms({"exec": ExecMode.NONE}, {"commands": ("id",)}), "id", True),
        (terms({"commands": ("$(x)",)}), "$(x)", False),
    ],
)
def test_which_commands_may_be_run(held: ChannelTerms, command: str, allowed: bool) -> None:
    assert (why_no_command(held, command) is None) is allowed


def test_a_list_of_commands_is_no_list_if_a_shell_is_beside_it() -> None:
    assert why_no_shell(terms({"commands": ("uptime",)})) is not None
    assert why_no_shell(terms({"exec": ExecMode.TRANSFER})) is not None
    assert exec_is_limited(terms({"commands": ("uptime",)}))
    assert why_no_shell(terms({"commands": ("uptime",)}, {})) is None


DOWN = {"exec": ExecMode.TRANSFER, "file_transfer": FileTransfer(upload=False, download_paths=("/srv/**", "~/**"))}


@pytest.mark.parametrize(
    ("held", "direction", "path", "allowed"),
    [
        (OPEN, Direction.UPLOAD, "/etc/passwd", True),
        (terms(DOWN), Direction.DOWNLOAD, "", True),
        (terms(DOWN), Direction.UPLOAD, "", False),
        (terms(DOWN), Direction.DOWNLOAD, "/srv", True),
        (terms(DOWN), Direction.DOWNLOAD, "/srv/a/b", True),
        (terms(DOWN), Direction.DOWNLOAD, "/srvx", False),
        (terms(DOWN), Direction.DOWNLOAD, "/home/ann/a", True),
        (terms(DOWN), Direction.DOWNLOAD, "/home/anna/a", False),
        (terms(DOWN), Direction.UPLOAD, "/srv/a", False),
        (terms(DOWN), Direction.LOOK, "/srv/a", True),
        (terms(DOWN), Direction.LOOK, "/etc", False),
        (terms(DOWN, {"exec": ExecMode.NONE}), Direction.UPLOAD, "/srv/a", False),
        (terms({"exec": ExecMode.NONE}), Direction.LOOK, "/srv", False),
        (terms({"commands": ("uptime",)}), Direction.DOWNLOAD, "/srv", False),
        (
            terms({"file_transfer": FileTransfer(deny_paths=("**/.ssh/**",))}),
            Direction.UPLOAD,
            "/home/bob/.ssh/x",
            False,
        ),
        (terms({"file_transfer": FileTransfer(deny_paths=("/srv/shut/**",))}), Direction.LOOK, "/srv/shut", False),
        (terms({"file_transfer": FileTransfer(deny_paths=("nonsense",))}), Direction.LOOK, "/x", False),
        (terms({"file_transfer": FileTransfer(download=False, upload=False)}), Direction.LOOK, "", False),
    ],
)
def test_which_files_may_move(held: ChannelTerms, direction: Direction, path: str, allowed: bool) -> None:
    assert (why_no_transfer(held, direction, path, home="/home/ann") is None) is allowed


def test_sizes_are_limited_by_the_most_generous_role_that_allows_the_path() -> None:
    small = {"file_transfer": FileTransfer(max_file_size=100)}
    large = {"file_transfer": FileTransfer(max_file_size=1000, upload_paths=("/big/**",))}
    held = terms(small, large)
    assert most_bytes(held, Direction.UPLOAD, "/x") == 100
    assert most_bytes(held, Direction.UPLOAD, "/big/x") == 1000
    assert most_bytes(terms(small, {}), Direction.UPLOAD, "/x") == 0
    assert why_no_transfer(held, Direction.UPLOAD, "/x", size=100) is None
    assert why_no_transfer(held, Direction.UPLOAD, "/x", size=101) is not None
    assert why_no_transfer(held, Direction.UPLOAD, "/big/x", size=101) is None


def test_a_grant_is_what_its_role_says() -> None:
    role = Role(
        metadata=Metadata(name="r"),
        spec=RoleSpec(
            options=Options(port_forwarding=False, remote_forwarding=True, exec=ExecMode.NONE, commands=("a",)),
            allow=Conditions(forward_to=("a:1",), listen_on=()),
        ),
    )
    assert RoleGrant.of(role) == RoleGrant(
        role="r",
        exec=ExecMode.NONE,
        commands=("a",),
        local_forwarding=False,
        remote_forwarding=True,
        forward_to=("a:1",),
        listen_on=(),
    )


def test_the_caller_reads_what_was_refused_and_the_log_why() -> None:
    refused = why_no_forward(terms({"forward_to": ()}), to("db\x1b[2J.example.com", 80, "10.0.0.1"))
    assert refused is not None
    assert "\x1b" not in refused.public
    assert "r0" not in refused.public
    assert "r0" in refused.reasons[0]
    hit = why_no_forward(terms({}, forward_to=("10.0.0.1:*",)), to("10.0.0.1", 80))
    assert hit is not None
    assert hit.code is DenialCode.DENIED_BY_ROLE


@pytest.mark.parametrize(
    ("denied", "path", "refused"),
    [
        ("/srv/app/key", "/srv/app", True),
        ("/srv/app/key", "/srv", True),
        ("/srv/app/key", "/srv/other", False),
        ("/srv/*/key", "/srv/x", True),
        ("/srv/**/key", "/srv/x/y", True),
        ("/srv/a**/key", "/srv/ab/c", True),
        ("**/.ssh/**", "/home/a/.ssh", True),
        ("**/.ssh/**", "/home/a", False),
        ("**/a/b", "/x/a", True),
        ("~/.ssh/keys", "/home/a/.ssh", True),
        ("~/.ssh/keys", "/home/a", True),
        ("~/.ssh/keys", "/home", True),
        ("~/.ssh/keys", "/home/a/x", False),
        ("~/.*", "/home/a", True),
    ],
)
def test_no_link_leads_around_what_is_denied(denied: str, path: str, refused: bool) -> None:
    """In place of a folder above a denied path, a link would give that path to a file of another name."""
    held = terms({"file_transfer": FileTransfer(deny_paths=(denied,))})
    assert (why_no_link(held, path, home="/home/a") is not None) is refused
