"""What is asked of the API server in place of a list that is shown in part, and which of its answers can be. Pure.

Such a list is asked for as JSON (plain, as a table, or as metadata alone), uncompressed and whole: where a chunk ends
would tell of the objects in it that are not shown. A client that takes nothing but another form is told so.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from teleport.authz.kube_resources import Shown
from teleport.kube.heads import Headers, plain_name, values
from teleport.kube.list_filter import ListFilter, WatchFilter
from teleport.kube.status import Refusal

_JSON: Final = "application/json"
_ANY: Final = frozenset({"*/*", "application/*"})
_FORMS: Final = frozenset({"Table", "PartialObjectMetadata", "PartialObjectMetadataList"})
_PARAMETER: Final = re.compile(r"(v|g|q|charset|stream)=[A-Za-z0-9.-]+")
_WRITTEN_ANEW: Final = frozenset({b"accept", b"accept-encoding", b"range"})
_NOT_FORWARDED: Final = (b"if-",)
NOT_JSON: Final = Refusal(
    406,
    "Your roles allow this list in part, and only as JSON can it be shown in part.",
    "the client has to accept application/json",
)
NO_CHUNKS: Final = Refusal(
    410,
    "Your roles allow this list in part, and such a list comes whole, not in chunks.",
    "ask again from its beginning",
)
NOT_READ: Final = Refusal(403, "Your roles allow this list in part, and it is shown to GET only.", "use kubectl get")


class CannotFilter(Exception):
    """The client is refused, by `refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def asked(method: str, target: str) -> str:
    """The target, without what would divide the list or leave out whose rows a table has. Raises `CannotFilter`."""
    if method != "GET":
        raise CannotFilter(NOT_READ)
    path, mark, query = target.partition("?")
    kept: list[str] = []
    included = ""
    for pair in query.split("&"):
        name, value = (unquote_to_bytes(part.replace("+", " ")) for part in pair.partition("=")[::2])
        if name == b"continue" and value:
            raise CannotFilter(NO_CHUNKS)
        if name == b"includeObject":
            included = included or ("Object" if value == b"Object" else "Metadata")
        elif name not in (b"limit", b"continue"):
            kept.append(pair)
    if included:
        kept.append(f"includeObject={included}")
    return f"{path}{mark}{'&'.join(kept)}"


def headers(found: Headers) -> list[tuple[bytes, bytes]]:
    """The client's headers, with those of the form that can be filtered. Raises `CannotFilter`."""
    accepted = ",".join(value.decode("latin-1") for value in values(found, b"accept"))
    forms = [form for one in accepted.split(",") if (form := _form(one))] if accepted else [_JSON]
    if not forms:
        raise CannotFilter(NOT_JSON)
    return [
        *(
            (name, value)
            for name, value in found
            if plain_name(name) not in _WRITTEN_ANEW and not plain_name(name).startswith(_NOT_FORWARDED)
        ),
        (b"Accept", ",".join(dict.fromkeys(forms)).encode()),
        (b"Accept-Encoding", b"identity"),
    ]


def _form(media: str) -> str:
    """The media range as it is asked for; empty for one that cannot be filtered."""
    kind, *parameters = [part.strip() for part in media.split(";")]
    if kind.lower() in _ANY:
        return _JSON
    if kind.lower() != _JSON:
        return ""
    for parameter in parameters:
        form = parameter.removeprefix("as=")
        if form not in _FORMS and not _PARAMETER.fullmatch(parameter):
            return ""
        if form in _FORMS and form == parameter:
            return ""
    return ";".join([_JSON, *parameters])


def filter_of(answer: Headers, shown: Shown, *, watch: bool) -> ListFilter | WatchFilter | None:
    """What shows a part of an answer with these headers; None when it is in a form that nobody asked for."""
    kinds, codings = values(answer, b"content-type"), values(answer, b"content-encoding")
    if len(kinds) != 1 or kinds[0].partition(b";")[0].strip().lower() != _JSON.encode():
        return None
    if any(coding.strip().lower() != b"identity" for coding in codings):
        return None
    return WatchFilter(shown) if watch else ListFilter(shown)


def for_client(answer: Headers) -> list[tuple[bytes, bytes]]:
    """The answer's headers, without those that are about the whole of its body."""
    about_body = {b"content-length", b"content-encoding", b"etag", b"content-md5", b"digest", b"repr-digest"}
    return [(name, value) for name, value in answer if plain_name(name) not in about_body]
