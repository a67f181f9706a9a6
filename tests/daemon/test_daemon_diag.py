"""`/healthz` and `/readyz`, and the log: one entry is one line (T45)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from teleport.daemon.config.values import LogConfig, Severity
from teleport.daemon.logs import MAX_MESSAGE, JSONFormatter, TextFormatter, set_up
from teleport.daemon.monitoring.diag import Readiness, State, diagnostics, serve_diagnostics
from teleport.errors import TeleportError


def test_ready_means_that_every_service_takes_connections() -> None:
    readiness = Readiness(["proxy", "auth", "node"])
    assert readiness.status() == (400, "starting: auth, node, proxy")
    readiness.ready("auth")
    readiness.ready("auth")
    assert readiness.status() == (400, "starting: node, proxy")
    readiness.ready("node")
    assert not readiness.all.is_set()
    readiness.ready("proxy")
    assert readiness.all.is_set()
    assert readiness.status() == (200, "ok")


def test_what_is_degraded_is_named_until_it_is_well_again() -> None:
    problems = {"audit": "", "node presence": ""}
    readiness = Readiness(["node"])
    for what in problems:
        readiness.watch(what, lambda what=what: problems[what])  # type: ignore[misc]
    problems["audit"] = "auth is away"
    assert readiness.status() == (400, "starting: node"), "starting comes first"
    readiness.ready("node")
    assert readiness.status() == (503, "degraded: audit: auth is away")
    problems["node presence"] = "refused"
    assert readiness.status() == (503, "degraded: audit: auth is away; node presence: refused")
    problems.update({"audit": "", "node presence": ""})
    assert readiness.status() == (200, "ok")


def test_trouble_with_which_people_are_served_is_told_and_does_not_make_unready() -> None:
    """Else a balancer that goes by the status would drop all auth servers at once when S3 is away."""
    problems = {"recordings": "S3 is away", "auth presence": ""}
    readiness = Readiness(["auth"])
    readiness.watch("recordings", lambda: problems["recordings"], serves=True)
    readiness.watch("auth presence", lambda: problems["auth presence"])
    assert readiness.components() == {"auth": State.STARTING, "auth presence": State.OK, "recordings": State.DEGRADED}
    assert int(readiness.state) == State.STARTING
    readiness.ready("auth")
    assert readiness.status() == (200, "degraded: recordings: S3 is away")
    assert int(readiness.state) == State.DEGRADED
    problems["auth presence"] = "refused"
    assert readiness.status() == (503, "degraded: auth presence: refused; recordings: S3 is away")
    problems.update(dict.fromkeys(problems, ""))
    assert readiness.status() == (200, "ok")
    assert int(readiness.state) == State.OK


def test_a_daemon_without_services_is_ready() -> None:
    assert Readiness([]).status() == (200, "ok")
    assert Readiness([]).all.is_set()


async def test_the_listener_answers_over_http() -> None:
    readiness = Readiness(["auth"])
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    serving = asyncio.create_task(serve_diagnostics(listener, diagnostics(readiness)), name="diagnostics")
    try:
        async with aiohttp.ClientSession() as session:

            async def ask(path: str) -> tuple[int, str]:
                async with session.get(url + path) as response:
                    return response.status, await response.text()

            assert await ask("/healthz") == (200, '{"status": "ok"}')
            assert await ask("/readyz") == (400, '{"status": "starting: auth"}')
            readiness.ready("auth")
            assert await ask("/readyz") == (200, '{"status": "ok"}')
            assert (await ask("/metrics"))[0] == 404
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        listener.close()


# logs

HOSTILE = [
    "alice\n2026-01-01T00:00:00Z INFO    auth: root logged in",
    "carriage\rreturn",
    "\x1b]0;title\x07\x1b[2J",
    "C1 \x9b31m and \x85 next line",
    "bidi \u202e and zero \u200b width and \u2028 line \u2029 paragraph",
    'quote " } , { "level": "error"',
    "lone surrogate \ud800",
    "astral \U000e0001 tag",
    "NUL \x00",
    "back\\slash",
]


def record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("teleport.auth.people.logins", logging.WARNING, __file__, 7, message, arguments, info)


def raised(text: str) -> BaseException:
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("kind", [TextFormatter, JSONFormatter])
@pytest.mark.parametrize("where", ["argument", "exception"])
def test_hostile_text_stays_one_printable_line(text: str, kind: type[logging.Formatter], where: str) -> None:
    entry = record("user %s failed", text) if where == "argument" else record("failed", error=raised(text))
    line = kind().format(entry)
    assert line.isprintable(), ascii(line)
    assert line.encode()
    if kind is JSONFormatter:
        found = json.loads(line)
        assert text in found["message"], "JSON gives the very text back"
        assert sorted(found) == ["caller", "component", "level", "message", "timestamp"]
        assert (found["component"], found["level"]) == ("auth", "warning")
    else:
        assert line[19:].startswith("Z WARNING auth: ")


def test_plain_text_is_readable_in_any_language() -> None:
    assert TextFormatter().format(record("für %s", "Zoë 東京")).endswith("WARNING auth: für Zoë 東京")


def test_a_megabyte_becomes_a_short_entry_that_says_so() -> None:
    for kind in (TextFormatter, JSONFormatter):
        line = kind().format(record("%s", "x" * 1_000_000))
        assert len(line) < MAX_MESSAGE + 300
        assert f"{1_000_000 - MAX_MESSAGE} characters left out" in line


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "aiohttp", "asyncssh")}
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        if handler not in handlers:
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)


@pytest.mark.usefixtures("_root_logger")
def test_a_log_file_is_appended_to_and_opened_anew_when_it_was_moved(tmp_path: Path) -> None:
    path = tmp_path / "teleport.log"
    path.write_text("before\n")
    set_up(LogConfig(output=str(path)))
    logging.getLogger("teleport.auth").info("first")
    logging.getLogger("teleport.auth").debug("not said")
    path.rename(tmp_path / "teleport.log.1")
    logging.getLogger("teleport.node.service").warning("second")
    assert (tmp_path / "teleport.log.1").read_text().startswith("before\n")
    assert " INFO    auth: first\n" in (tmp_path / "teleport.log.1").read_text()
    assert path.read_text().endswith(" WARNING node: second\n")


@pytest.mark.usefixtures("_root_logger")
def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(TeleportError, match="no/such/file cannot be opened") as caught:
        set_up(LogConfig(output=str(tmp_path / "no" / "such" / "file")))
    assert caught.value.hint == "change teleport.log.output"


@pytest.mark.usefixtures("_root_logger")
@pytest.mark.parametrize("severity", list(Severity))
def test_every_severity_of_the_configuration_is_obeyed(severity: Severity, tmp_path: Path) -> None:
    wanted = {"debug": 10, "info": 20, "warning": 30, "error": 40}
    set_up(LogConfig(output=str(tmp_path / "log"), severity=severity))
    assert logging.getLogger().level == wanted[str(severity)]


@pytest.mark.usefixtures("_root_logger")
def test_json_lines_go_where_text_lines_would(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogConfig(output="stdout", format="json"))
    assert isinstance(logging.getLogger().handlers[0], logging.StreamHandler)
    logging.getLogger("teleport.proxy").error("broken: %s", "x\ny")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["broken: x\ny"]
