"""How calls travel: every route's request survives the trip; hostile requests are refused with a sentence."""

from __future__ import annotations

import typing
import urllib.parse
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tests.auth.test_auth_route_events import CHANGES_WITHOUT_EVENT

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.codec import decode_error, decode_reply, decode_request, encode_call, encode_error
from teleport.api.routes import ROUTES, Route, Stream
from teleport.errors import KINDS, BadRequest, ConnectionProblem, TeleportError

SAMPLES: dict[str, Any] = {
    "str": "a name/with ünusual ?&#%2f",
    "float": 1.5,
    "int": 7,
    "bool": True,
    "datetime": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "list": ["a", "b c"],
    "dict": {"k": "v"},
    "Raw": msgspec.Raw(b'{"kind":"role"}'),
}


def _sample(kind: Any) -> Any:
    for part in (kind, *typing.get_args(kind)):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            made = part(**{field.name: _sample(field.type) for field in msgspec.structs.fields(part)})
            return [made] if typing.get_origin(kind) is list else made
    text = str(kind)
    if text.startswith("dict[str, list"):
        return {"k": ["v"]}
    for name in ("Raw", "dict", "list", "datetime", "float", "bool", "int", "str"):
        if name in text:
            return SAMPLES[name]
    raise AssertionError(text)


def _travel(route: Route[Any, Any], request: m.Request) -> m.Request:
    call = encode_call(route, request)
    path, _, query = call.target.partition("?")
    names = route.path.split("/")
    parts = path.split("/")
    assert len(names) == len(parts), "nothing in a field opens another path"
    taken = {n[1:-1]: urllib.parse.unquote(p) for n, p in zip(names, parts, strict=True) if n.startswith("{")}
    decoded: m.Request = decode_request(route, taken, urllib.parse.parse_qs(query), call.body)
    return decoded


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
def test_every_request_arrives_as_it_was_sent(route: Route[Any, Any]) -> None:
    fields = {field.name: _sample(field.type) for field in msgspec.structs.fields(route.request)}
    request = route.request(**fields)
    arrived = _travel(route, request)
    for name in fields:
        sent, got = getattr(request, name), getattr(arrived, name)
        assert (bytes(got) == bytes(sent)) if isinstance(sent, msgspec.Raw) else (got == sent)


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
def test_nought_and_nothing_arrive_as_they_were_sent(route: Route[Any, Any]) -> None:
    """Not as what is meant when nothing is said: a page of 0 things is not one of 1000."""
    empty: dict[type, Any] = {int: 0, str: "", bool: False, float: 0.0}  # no items cannot be said in a query
    fields = {field.name: _sample(field.type) for field in msgspec.structs.fields(route.request)}
    fields = {
        name: value if name in route.path_fields else empty.get(type(value), value) for name, value in fields.items()
    }
    request = route.request(**fields)
    call = encode_call(route, request)
    path, _, query = call.target.partition("?")
    taken = dict(zip(route.path.split("/"), map(urllib.parse.unquote, path.split("/")), strict=True))
    named = {name[1:-1]: value for name, value in taken.items() if name.startswith("{")}
    arrived = decode_request(route, named, urllib.parse.parse_qs(query, keep_blank_values=True), call.body)
    for name in fields:
        if not isinstance(getattr(request, name), msgspec.Raw):
            assert getattr(arrived, name) == getattr(request, name), name


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_cannot_climb_out_of_its_path(name: str) -> None:
    with pytest.raises(BadRequest):
        encode_call(routes.REMOVE["user"], m.ExpelRequest(name=name))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "object"),
        (b'{"name":"a","roles":["x"],"admin":true}', "unknown field"),
        (b'{"name":1,"roles":[]}', "name"),
        (b'{"name":"a"}', "roles"),
        (b'{"x":' * 3000 + b"1" + b"}" * 3000, "add_user"),
    ],
)
def test_bodies_that_do_not_fit_are_bad_requests(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        decode_request(routes.ADD_USER, {}, {}, body)


def test_a_body_may_not_contradict_the_path() -> None:
    with pytest.raises(BadRequest, match="path"):
        decode_request(routes.UPDATE_USER, {"name": "ann"}, {}, b'{"name":"bob","roles":[]}')


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_errors_arrive_as_what_they_were(kind: type[TeleportError]) -> None:
    status, body = encode_error(kind("it failed", hint="do that"))
    error = decode_error(status, body)
    assert type(error) is kind
    assert (error.message, error.hint) == ("it failed", "do that")


def test_answers_that_cannot_be_read_are_connection_problems() -> None:
    with pytest.raises(ConnectionProblem):
        decode_reply(routes.STATUS, 200, b"<html>")
    with pytest.raises(ConnectionProblem):
        decode_reply(routes.STATUS, 502, b"bad gateway")


def test_open_routes_are_exactly_these() -> None:
    """A new route that anyone may call has to be argued for here."""
    assert {name for name, route in ROUTES.items() if route.verb is None} == {
        "cluster_ca",
        "join",
        "validate_cluster",  # by the token in it
        "exchange_authorities",  # by signatures of keys that are known
    }


def test_routes_that_change_something_name_their_events() -> None:
    quiet = set(CHANGES_WITHOUT_EVENT)  # each with its reason
    for name, route in ROUTES.items():
        if route.method in ("POST", "PUT", "DELETE") and name not in quiet:
            assert route.events, name
    assert all(route.stream in Stream for route in ROUTES.values())
