"""Every parser of what others write, each as a function of bytes that may raise only what the parser promises."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from datetime import UTC, datetime
from typing import Any, Final

from tests.fuzz.client_targets import CLIENT_TARGETS
from tests.fuzz.engine import Target
from tests.fuzz.kube_targets import KUBE_TARGETS

from teleport.api import routes
from teleport.api.codec import decode_request
from teleport.api.routes import Route
from teleport.audit.chain.link import Linked, seal
from teleport.audit.events import Registry, UnknownEvent, encode_event
from teleport.audit.events.codec import is_canonical
from teleport.authz.traits import expand
from teleport.authz.where import WhereError, holds
from teleport.cli.tctl.timerange import parse_moment
from teleport.client import addresses, profile
from teleport.client.accept import InvitationLink
from teleport.daemon.config.file import load_config
from teleport.errors import BadRequest, TeleportError
from teleport.node.programs import NODE_VARIABLES, Asked
from teleport.pki.authority import parse_known_hosts_line
from teleport.pki.identity_file import read_identity_file, write_identity_file
from teleport.pki.keys import PublicKey
from teleport.pki.sshformat import encode_signed, parse_certificate, parse_certificate_line
from teleport.pki.sshverify import verify_host_cert, verify_user_cert
from teleport.pki.sshwire import Reader, WireError
from teleport.pki.x509verify import certificate_key, identity_from_tls, load_certificate
from teleport.recording.export import ExportFormat, export
from teleport.recording.format.chunks import FILE_HEAD, MAGIC, VERSION, encode_header
from teleport.recording.format.frames import split_frames
from teleport.recording.format.parser import RecordingParser
from teleport.recording.format.parties import decode_note, encode_note
from teleport.recording.sanitise import TerminalSanitiser, sanitise_for_terminal, sanitise_to_text
from teleport.recording.screen import Painter, Screen
from teleport.resources import values
from teleport.resources.codec import from_json, to_json
from teleport.resources.lexer import BadSyntax
from teleport.resources.names import canonical_address
from teleport.resources.parse import parse_resources, to_yaml
from teleport.resources.pattern import BadPattern, compile_pattern
from teleport.resources.template import is_template, parse_template
from teleport.sharing.scrollback import Scrollback, TerminalState
from teleport.store.resolve import Destination
from teleport.wire import client_hello, proxy_protocol, scp_lines, sftp, vouch, web_terminal
from teleport.wire.transfer_command import Word, split_words
from teleport.wire.transfer_command import parse as parse_transfer

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
REGISTRY: Final = Registry()
ROUTES: Final = (routes.ADD_USER, routes.ADD_TOKEN, routes.JOIN, routes.LOGIN, routes.HEARTBEAT, routes.INTAKE)


def argument(data: bytes) -> str:
    """Bytes as a command line hands them over."""
    return data.decode("utf-8", "surrogateescape")


def configuration(data: bytes) -> None:
    load_config(data, "fuzz.yaml")


def resource_yaml(data: bytes) -> None:
    found = parse_resources(data, "fuzz.yaml")
    assert parse_resources(to_yaml(*found, with_secrets=True), "again.yaml") == found


def resource_json(data: bytes) -> None:
    found = from_json(data)
    assert from_json(to_json(found, with_secrets=True)) == found


def predicate(data: bytes) -> None:
    facts = {
        "user": {"metadata": {"name": "ann"}, "spec": {"roles": ["a"], "traits": {"x": ["y"]}}},
        "resource": {"metadata": {"name": "n", "labels": {"env": "prod"}}},
    }
    holds(data.decode("utf-8", "replace"), facts)


def template(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    if is_template(text):
        parse_template(text)
    expand(text, {"logins": ["ann", "b@c"], "x": ["$1"]})


def pattern(data: bytes) -> None:
    """A pattern and a value, apart at the first newline."""
    source, _, value = data.decode("utf-8", "replace").partition("\n")
    found = compile_pattern(source)
    found.fullmatch(value)
    found.replace(value, "$1${x}$$")


def ssh_certificate(data: bytes) -> None:
    found = parse_certificate(data)
    assert encode_signed(found.body, PublicKey.from_blob(found.signer)) == found.signed
    assert parse_certificate_line(found.line("comment")) == found
    for verify in (
        lambda: verify_user_cert(data, [], NOW),
        lambda: verify_host_cert(data, [], NOW, hostname=None),
    ):
        try:
            verify()
        except TeleportError:
            continue
        raise AssertionError("a certificate of nobody was believed")


def x509_certificate(data: bytes) -> None:
    """The library warns of some that are refused then; here warnings are errors."""
    load_certificate(data)
    try:
        identity_from_tls(data, [], NOW)
    except TeleportError:
        certificate_key(load_certificate(data))
        return
    raise AssertionError("a certificate of nobody was believed")


def proxy_target(data: bytes) -> None:
    found = Destination.of_subsystem(argument(data))
    assert Destination.of_subsystem(f"proxy:{found}") == found, found


def recording(data: bytes) -> None:
    parser = RecordingParser("fuzz.rec")
    frames = [
        frame for piece in (data[:100], data[100:]) for chunk in parser.feed(piece) for frame in parser.frames(chunk)
    ]
    parser.finish()
    assert parser.header is not None
    for form in ExportFormat:
        for _ in export(parser.header, frames, form):
            pass


def recording_header(data: bytes) -> None:
    """A header whose hash holds: whoever can write a file can compute it."""
    head = FILE_HEAD.pack(MAGIC, VERSION, len(data)) + data
    parser = RecordingParser("fuzz.rec")
    list(parser.feed(head + hashlib.sha256(head).digest()))
    assert parser.header is not None
    again = RecordingParser("fuzz.rec")
    list(again.feed(encode_header(parser.header)))
    assert again.header == parser.header


def recording_frames(data: bytes) -> None:
    """The packed frames of a chunk, which a hash guards: a writer of ours may be somebody else's."""
    list(split_frames(data[1:], data[0] if data else 0, 5))


def terminal_text(data: bytes) -> None:
    """What a terminal is shown of a recording, and what it is shown again of that."""
    shown = sanitise_for_terminal(data)
    assert sanitise_for_terminal(shown) == shown
    text = sanitise_to_text(data)
    assert "\x1b" not in text
    assert "\x9b" not in text


def last_output(data: bytes) -> None:
    """What a session's terminal shows who comes later, whatever pieces it came in."""
    whole, cut = TerminalState.initial(), TerminalState.initial()
    whole.feed(data)
    for at in range(0, len(data), 3):
        cut.feed(data[at : at + 3])
    assert vars(cut) == vars(whole)
    scrollback = Scrollback(limit=64, block=16)
    for at in range(0, len(data), 7):
        scrollback.feed(data[at : at + 7])
    replay = scrollback.replay()
    assert replay.output.endswith(data[-64:])
    again = TerminalState.initial()
    again.feed(replay.after)
    assert not again.pending


def party_note(data: bytes) -> None:
    """A note of a recording: a program's, or a sentence."""
    note = decode_note(data)
    if note is None:
        if not data.startswith(b'{"about":'):
            return
        raise BadRequest("it is meant for programs, and is none that this one knows")
    assert decode_note(encode_note(note).encode()) == note


def session_variables(data: bytes) -> None:
    """What clients say to the node by variables."""
    name, _, value = data.decode("utf-8", "replace").partition("=")
    asked = Asked()
    if not asked.variable(name, value):
        assert asked == Asked()
        raise BadRequest("it is not taken")
    assert name in NODE_VARIABLES
    assert 0 <= asked.linger <= 24 * 3600


def web_terminal_message(data: bytes) -> None:
    """What a terminal page sends; each payload read as what its type says."""
    kind, payload = web_terminal.decode(data)
    if kind is None:
        raise BadRequest("a type of a newer page")
    assert web_terminal.decode(web_terminal.encode(kind, payload)) == (kind, payload)
    match kind:
        case web_terminal.Kind.HELLO:
            web_terminal.read(payload, web_terminal.Hello)
        case web_terminal.Kind.RESIZE:
            size = web_terminal.read(payload, web_terminal.Resize).parsed
            assert 1 <= size.w <= 1000
            assert 1 <= size.h <= 1000
        case web_terminal.Kind.CREDIT:
            web_terminal.Granted().grant(web_terminal.read(payload, web_terminal.Credit).bytes)
        case web_terminal.Kind.ERROR:  # what the address says, too
            assert web_terminal.Params.parse(payload.decode("utf-8", "replace")).login


def terminal_screen(data: bytes) -> None:
    """A screen of any size, from the first two bytes, that is shown the rest."""
    screen, cleaner = Screen(*(data[:2].ljust(2, b"\0"))), TerminalSanitiser()
    for at in range(2, len(data), 50):
        screen.feed(cleaner.feed_text(data[at : at + 50]))
        if data[at] == 7:
            screen.resize(data[at - 1], data[at - 2])
    assert len(screen.lines) == screen.rows
    assert all(len(row.cells) == screen.columns for row in screen.lines)
    drawn = Painter(80, 24).draw(screen)
    assert not re.search(rb"[\x00-\x1a\x1c-\x1f\x7f]|\x1b[^\[]", drawn)


def vouch_line(data: bytes) -> None:
    found = vouch.parse(data)
    again = vouch.parse(vouch.encode(found.vouch, found.certificate, lambda _: found.signature))
    assert (again.vouch, again.certificate, again.signature) == (found.vouch, found.certificate, found.signature)


def invitation(data: bytes) -> None:
    found = InvitationLink.parse(argument(data))
    url = f"https://{addresses.join(found.host, found.port)}/web/invite/{found.token}"
    assert InvitationLink.parse(url) == found or "/web/reset/" in argument(data)


def event_line(data: bytes) -> None:
    canonical = is_canonical(data)
    found = REGISTRY.decode(data)
    if isinstance(found, UnknownEvent):
        return  # of a later version: kept as the line that it came in
    line = encode_event(found)
    assert is_canonical(line), "what is written is canonical"
    assert encode_event(REGISTRY.decode(line)) == line
    if canonical:
        json.loads(data)


def chain_line(data: bytes) -> None:
    found = Linked.parse(data)
    again = Linked.parse(seal(found.body)[0])
    assert again.intact
    assert (again.key, again.seq, again.prev, again.body) == (found.key, found.seq, found.prev, found.body)


def api_request(data: bytes) -> None:
    """A body for a route of each kind; the first byte chooses it."""
    route: Route[Any, Any] = ROUTES[(data[0] if data else 0) % len(ROUTES)]
    decode_request(route, {}, {}, data[1:])


def ssh_wire(data: bytes) -> None:
    reader = Reader(data)
    for kind in data[:8]:
        (reader.uint32, reader.string, reader.text, reader.natural, reader.uint64)[kind % 5]()
    reader.finish()


def public_key(data: bytes) -> None:
    found = PublicKey.from_blob(data)
    assert PublicKey.from_blob(found.blob) == found
    assert PublicKey.parse(found.line("comment")) == found


def public_key_line(data: bytes) -> None:
    found = PublicKey.parse(argument(data))
    assert PublicKey.parse(found.line("")) == found


def known_hosts(data: bytes) -> None:
    parse_known_hosts_line(argument(data))


def identity_file(data: bytes) -> None:
    found = read_identity_file(data)
    again = read_identity_file(write_identity_file(found).reveal())
    assert again.private_key.reveal() == found.private_key.reveal()
    for field in ("ssh_certificate", "tls_certificate", "known_hosts", "tls_authorities"):
        assert getattr(again, field) == getattr(found, field), field


def label_flag(data: bytes) -> None:
    found = values.parse_labels(argument(data))
    for name in found.static:
        assert values.parse_label_key(name) == name


def label_arguments(data: bytes) -> None:
    addresses.parse_labels(argument(data))


def duration(data: bytes) -> None:
    found = values.Duration.parse(argument(data), never=True, negative=True)
    assert values.Duration.parse(str(found), negative=True) == found
    assert found.timedelta is not None


def host_port(data: bytes) -> None:
    found = values.HostPort.parse(argument(data), 22)
    assert values.HostPort.parse(str(found)) == found
    assert values.HostPort.parse(found.bracketed_host, found.port) == found


def proxy_address(data: bytes) -> None:
    found = addresses.ProxyAddress.parse(argument(data))
    assert addresses.ProxyAddress.parse(addresses.join(found.host, found.web_port or 1)).host == found.host
    assert "/" not in found.host
    assert not found.host.startswith(("-", "."))


def moment(data: bytes) -> None:
    found = parse_moment(argument(data), NOW)
    assert found.tzinfo is UTC


def profile_file(data: bytes) -> None:
    found = profile.decode("proxy.example", data)
    assert profile.decode("proxy.example", profile.encode(found)) == found


SSH_WORDS: Final = (b"ecdsa-sha2-nistp256-cert-v01@openssh.com", b"ssh-ed25519", b"nistp256", b"teleport-roles")
YAML_WORDS: Final = (*b"- * &a *a <<: !! ' |".split(), b"kind: ", b"version: v4\n", b"metadata:\n  ")


def sftp_packets(data: bytes) -> None:
    """What splits, comes back the same; every field of every packet is read, in some order."""
    packets, taken = sftp.split(data, 4096)
    assert b"".join(len(one).to_bytes(4, "big") + one for one in packets) == data[:taken]
    for packet in packets:
        reader = sftp.Reader(packet)
        for take in (reader.byte, reader.u32, reader.path, reader.attributes, reader.view):
            if reader.done:
                break
            found = take()
            if isinstance(found, sftp.Attributes):
                assert sftp.Reader(found.encode()).attributes() == found
                str(found)


def scp_line(data: bytes) -> None:
    """A name that comes through stays in its folder."""
    line = scp_lines.parse(data)
    if isinstance(line, scp_lines.Entry):
        assert b"/" not in line.name, line
        assert line.name not in (b".", b".."), line
        assert scp_lines.parse(scp_lines.entry_line(line)[:-1]) == line


def transfer_words(data: bytes) -> None:
    """What is taken for a transfer has no character that a shell would do something with."""
    command = argument(data)
    parsed = parse_transfer(command)
    words = split_words(command)
    if parsed is not None:
        assert words, command
        assert not set(re.sub(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"|\\.", "", command)) & set(";&|<>$`\n(){}"), command
    if words is not None:
        plain = [word.text for word in words if word.pattern is None and word.home is None]
        if len(plain) == len(words):
            assert split_words(shlex.join(plain)) == [Word(text) for text in plain], command


def proxy_header(data: bytes) -> None:
    """What is taken is taken whole, whatever follows, and names an address in its one spelling."""
    header = proxy_protocol.parse(data)
    if header is None:
        return
    assert header.size <= min(len(data), proxy_protocol.MAX_HEADER)
    assert proxy_protocol.parse(data[: header.size]) == header
    if header.client is not None:
        assert values.HostPort(*header.client).host == canonical_address(header.client[0])


def hello(data: bytes) -> None:
    """A ClientHello is decided in bounded bytes, and not otherwise when more follow it."""
    found = client_hello.parse(data)
    if found is not None:
        assert client_hello.parse(data + b"\x17\x03\x03") == found
        assert found.server_name == found.server_name.lower()
    else:
        assert len(data) < client_hello.MAX_BYTES


TARGETS: Final = {
    target.name: target
    for target in (
        *CLIENT_TARGETS,
        *KUBE_TARGETS,
        Target("configuration", configuration, (TeleportError,), YAML_WORDS, runs=1600),
        Target("resource_yaml", resource_yaml, (TeleportError,), YAML_WORDS, runs=1600),
        Target("resource_json", resource_json, (TeleportError,), (b'"kind":', b"{", b"[", b"null", b'"1h"'), runs=3200),
        Target("predicate", predicate, (WhereError,), b"contains( equals( && || ! ( )".split(), 600, 3000),
        Target("template", template, (BadSyntax,), b"{{ }} internal. regexp.replace( email.local(".split(), 600),
        Target("pattern", pattern, (BadPattern,), b"(?i) (?P<x> {1,9} [[:alpha:]] \\b * |".split(), 300, 800),
        Target("ssh_certificate", ssh_certificate, (TeleportError,), SSH_WORDS, runs=4800),
        Target("x509_certificate", x509_certificate, (TeleportError, UserWarning), (b"\x30", b"\x02\x01"), runs=4800),
        Target("proxy_target", proxy_target, (BadRequest,), (b"proxy:", b"[", b"]", b":", b"::", b"@", b":22"), 300),
        Target("recording", recording, (BadRequest,), (b"\x00" * 8,), 8192, runs=3200),
        Target("recording_header", recording_header, (BadRequest,), (b"null", b"{", b"[", b'":'), 1024),
        Target("recording_frames", recording_frames, (ValueError,), (b"\x00" * 4,), 1024, runs=4800),
        Target("terminal_text", terminal_text, (), b"\x1b[ \x1b]52; \x9b \xc2\x9b \x07 ?1049h".split(), 400, 1500),
        Target(
            "terminal_screen",
            terminal_screen,
            (),
            b"\x1b[ \x1b( \xe6\x97\xa5 ;9999 ?1049h \x1b[2;4r \r\n 9b".split(),
            300,
            800,
        ),
        Target("sftp_packets", sftp_packets, (sftp.Malformed,), (b"\0\0\0\5", b"\x80\0\0\x0f", b"\xff" * 4), 512),
        Target("scp_line", scp_line, (scp_lines.Malformed,), (b"C0644 ", b"D0755 0 ", b"T1 0 ", b"\x01", b".."), 300),
        Target(
            "transfer_words",
            transfer_words,
            (),
            b"scp -t -f -- ' \" \\ ~ * rsync --server . -e.L --sender".split(),
            300,
        ),
        Target(
            "last_output", last_output, (), b"\x1b[ \x1b( \x1b]0; \x07 ?1049h ;1m \x1bc \x1b[!p \x0e".split(), 300, 800
        ),
        Target("party_note", party_note, (BadRequest,), b'{"about": "party" "typed" "offset": 1e999 null'.split(), 300),
        Target("session_variables", session_variables, (BadRequest,), b"TELEPORT_DETACH= 24h ms -".split(), 200),
        Target(
            "proxy_header",
            proxy_header,
            (proxy_protocol.Malformed,),
            (proxy_protocol.SIGNATURE, b"\x21\x11\x00\x0c", b"PROXY TCP4 ", b"UNKNOWN", b" 1.2.3.4", b"::1", b"\r\n"),
            300,
        ),
        Target(
            "client_hello",
            hello,
            (client_hello.Malformed,),
            (b"\x16\x03\x01", b"\x01\x00", b"\x00\x10\x00", b"\x00\x00\x00", b"\xff\xff", b"\x00\x02"),
            700,
        ),
        Target(
            "web_terminal_message",
            web_terminal_message,
            (BadRequest,),
            (
                b"\x0a\x011",
                b"\x12\x01w",
                b"\x12\x01k",
                b"\x1a\x05",
                b'{"size":"80:25"}',
                b'{"bytes":1}',
                b'"term":{"w":',
            ),
            400,
        ),
        Target("vouch_line", vouch_line, (BadRequest,), (b"=", b" ", b"\r\n"), 4096, runs=4800),
        Target("invitation", invitation, (BadRequest,), b"https:// [ ] : @ /web/invite/ %2f".split(), 300),
        Target("event_line", event_line, (BadRequest,), b'"event": \\u0000 { [ 1e999 null'.split(), runs=4000),
        Target("chain_line", chain_line, (BadRequest,), b'"hash": "prev": "seq": { } ,"supplement":true'.split(), 1024),
        Target("api_request", api_request, (BadRequest,), b'{ [ null "item": "roles": 1e999'.split(), 1024),
        Target("ssh_wire", ssh_wire, (WireError,), SSH_WORDS, 512),
        Target("public_key", public_key, (TeleportError,), SSH_WORDS, 1024),
        Target("public_key_line", public_key_line, (TeleportError,), SSH_WORDS, 1024, runs=4800),
        Target("known_hosts", known_hosts, (TeleportError,), (b"@cert-authority ", b"*.", b",", b"type=host"), 1024),
        Target(
            "identity_file", identity_file, (TeleportError,), (b"-----BEGIN ", b"-----END ", b"\n"), 8192, runs=1600
        ),
        Target("label_flag", label_flag, (ValueError,), (b"=", b",", b"[1m:", b"]", b'"', b"'"), 300),
        Target("label_arguments", label_arguments, (BadRequest,), (b"=", b",", b'"'), 300),
        Target("duration", duration, (ValueError,), (b"h", b"ms", b"-", b".", b"never", b"9" * 19), 100),
        Target("host_port", host_port, (ValueError,), b"tcp:// [ ] :: :22 %eth0 ::ffff:".split(), 300),
        Target("proxy_address", proxy_address, (BadRequest,), b"https:// [ ] :: :443 , %".split(), 300),
        Target("moment", moment, (BadRequest,), (b"-24h", b"2024-", b"Z", b"+02:00", b"now", b"9999"), 100),
        Target("profile_file", profile_file, (TeleportError,), (b": ", b"\n", b'"', b"\\u0000"), 1024),
    )
}
