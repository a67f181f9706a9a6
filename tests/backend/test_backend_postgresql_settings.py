"""What a connection string may say, and what is refused rather than done in a weaker way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from teleport.backend.postgresql.load import postgresql_backend
from teleport.backend.postgresql.refusals import Kind, explain, kind_of
from teleport.backend.postgresql.settings import PostgresqlSettings, Server, SslMode, mistake, parse
from teleport.errors import LimitExceeded, TeleportError

FULL, CA, DISABLE = SslMode.VERIFY_FULL, SslMode.VERIFY_CA, SslMode.DISABLE
SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("postgresql://u@db/d", PostgresqlSettings((Server("db"),), "d", "u")),
        ("postgres://u@db:6432/d", PostgresqlSettings((Server("db", 6432),), "d", "u")),
        ("postgresql://u:p%40%3A@[::1]:1/d", PostgresqlSettings((Server("::1", 1),), "d", "u", "p@:")),
        ("postgresql://u@a,b:7/d", PostgresqlSettings((Server("a"), Server("b", 7)), "d", "u")),
        ("postgresql://u%2Fv@a/d%20e", PostgresqlSettings((Server("a"),), "d e", "u/v")),
        (
            "postgresql://u@a/d?sslmode=verify-ca&sslrootcert=/ca&sslcert=/c&sslkey=/k&target_session_attrs=read-write",
            PostgresqlSettings(
                (Server("a"),),
                "d",
                "u",
                sslmode=CA,
                ca_file=Path("/ca"),
                cert_file=Path("/c"),
                key_file=Path("/k"),
            ),
        ),
        (
            "postgresql://u@/d?host=/run/postgresql&port=5433",
            PostgresqlSettings((Server("/run/postgresql", 5433),), "d", "u", sslmode=DISABLE),
        ),
        (
            "postgresql://u@%2Frun%2Fpostgresql/d",
            PostgresqlSettings((Server("/run/postgresql"),), "d", "u", sslmode=DISABLE),
        ),
    ],
)
def test_a_connection_string_is_read_whole(text: str, wanted: PostgresqlSettings) -> None:
    assert parse(text) == wanted
    assert mistake(wanted) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "db",
        "host=db user=u",
        "http://u@db/d",
        "postgresql:u@db/d",
        "postgresql://db/d",
        "postgresql://u@db",
        "postgresql://u@db/",
        "postgresql://u@db/d/e",
        "postgresql://u@/d",
        "postgresql://u@db/d?host=other",
        "postgresql://u@db/d?port=1",
        "postgresql://u@db:0/d",
        "postgresql://u@db:65536/d",
        "postgresql://u@db:x/d",
        "postgresql://u@a,,b/d",
        "postgresql://u@[::1/d",
        "postgresql://u@::1/d",
        "postgresql://u@db/d#f",
        "postgresql://u@db/d?sslmode=prefer",
        "postgresql://u@db/d?sslmode=require",
        "postgresql://u@db/d?sslmode=allow",
        "postgresql://u@db/d?sslmode=",
        "postgresql://u@db/d?sslmode=verify-full&sslmode=disable",
        "postgresql://u@db/d?sslmod=verify-full",
        "postgresql://u@db/d?sslrootcert=ca.pem",
        "postgresql://u@db/d?target_session_attrs=any",
        "postgresql://u@db/d?options=-csearch_path%3Dpublic",
        "postgresql://u@db/d?passfile=/p",
        "postgresql://u%00@db/d",
        "postgresql://u%FF@db/d",
    ],
)
def test_what_is_not_known_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text.replace("u@", f"u:{SECRET}@"))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("server", "mode", "more", "wrong"),
    [
        ("db.example.com", DISABLE, {}, "db.example.com:5432 would be spoken to without TLS"),
        ("10.0.0.1", DISABLE, {}, "without TLS"),
        ("localhost.example.com", DISABLE, {}, "without TLS"),
        ("10.0.0.1", DISABLE, {"insecure": True}, ""),
        ("127.0.0.1", DISABLE, {}, ""),
        ("::1", DISABLE, {}, ""),
        ("localhost", DISABLE, {}, ""),
        ("/run/postgresql", DISABLE, {}, ""),
        ("/run/postgresql", FULL, {}, "TLS is not spoken over a socket"),
        ("db", FULL, {"insecure": True}, "insecure goes with sslmode=disable only"),
        ("db", CA, {}, "would believe whoever"),
        ("db", CA, {"ca_file": Path("/ca")}, ""),
        ("db", FULL, {"cert_file": Path("/c")}, "go together"),
        ("127.0.0.1", DISABLE, {"ca_file": Path("/ca")}, "uses none"),
        ("db", FULL, {"password": "p", "password_file": Path("/p")}, "both"),
        ("db", FULL, {"schema": "Robert'; DROP"}, "plain name"),
        ("db", FULL, {"schema": "pg_catalog"}, "plain name"),
    ],
)
def test_settings_that_would_be_weaker_than_they_look_are_refused(
    server: str, mode: SslMode, more: dict[str, object], wrong: str
) -> None:
    settings = replace(PostgresqlSettings((Server(server),), "d", "u", sslmode=mode), **more)  # type: ignore[arg-type]
    said = mistake(settings)
    assert wrong in said
    assert bool(said) is bool(wrong)


def test_a_password_stays_out_of_what_is_printed() -> None:
    settings = parse(f"postgresql://u:{SECRET}@db/d")
    assert settings.password == SECRET
    assert SECRET not in repr(settings) + settings.where


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("40001", Kind.AGAIN),
        ("40P01", Kind.AGAIN),
        ("57P01", Kind.AGAIN),
        ("08006", Kind.AGAIN),
        ("53200", Kind.AGAIN),
        ("53100", Kind.FULL),
        ("25006", Kind.STANDBY),
        ("28P01", Kind.NO_LOGIN),
        ("42501", Kind.NOT_ALLOWED),
        ("42P01", Kind.ABSENT),
        ("23505", Kind.REFUSED),
        ("XX001", Kind.REFUSED),
        ("", Kind.REFUSED),
    ],
)
def test_a_state_says_whether_to_try_again(state: str, kind: Kind) -> None:
    assert kind_of(state) is kind


@pytest.mark.parametrize("kind", Kind)
def test_every_refusal_says_what_to_do(kind: Kind) -> None:
    told = explain("write to", "db:5432, database d", kind, "because", user="u", schema="s")
    assert "cannot write to the storage in PostgreSQL (db:5432, database d)" in str(told)
    assert "because" in str(told)
    assert told.hint
    assert isinstance(told, LimitExceeded) is (kind is Kind.FULL)


def test_without_asyncpg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(TeleportError, match="asyncpg is not installed") as caught:
        postgresql_backend()
    assert caught.value.hint == "pip install 'teleport-access[postgresql]'"
