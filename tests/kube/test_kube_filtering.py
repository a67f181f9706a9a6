"""What is asked in place of a list that is shown in part, and which answers can be shown."""

from __future__ import annotations

import pytest

from teleport.authz.kube_resources import Place, Shown
from teleport.kube.filtering import CannotFilter, asked, filter_of, for_client, headers
from teleport.kube.list_filter import ListFilter, WatchFilter

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
SHOWN = Shown("pods", (Place("dev", "*"),))


@pytest.mark.parametrize(
    ("accept", "becomes"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json, */*", "application/json"),
        (f"{TABLE},application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", None),
        ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", None),
        ("application/vnd.kubernetes.protobuf,application/json", "application/json"),
        (f"application/vnd.kubernetes.protobuf;as=Table, {TABLE}", TABLE),
        ("application/yaml, application/*;q=0.1", "application/json"),
        ("APPLICATION/JSON", "application/json"),
        ("application/json;stream=watch", None),
        ("application/json;as=Other, application/json", "application/json"),
        ("application/vnd.kubernetes.protobuf", "refused"),
        ("application/yaml", "refused"),
        ("application/cbor", "refused"),
        ("text/html", "refused"),
        ("application/json;as=PodList", "refused"),
        ("application/json;as=Table;x y", "refused"),
        ("", "application/json"),
    ],
)
def test_only_json_is_asked_for(accept: str | None, becomes: str | None) -> None:
    """In the forms that can be filtered, and never compressed."""
    sent = [(b"accept", accept.encode())] if accept is not None else []
    more = [(b"accept-encoding", b"gzip"), (b"If-None-Match", b'"x"'), (b"range", b"bytes=0-1"), (b"user-agent", b"k")]
    if becomes == "refused":
        with pytest.raises(CannotFilter) as refused:
            headers([*sent, *more])
        assert refused.value.refusal.code == 406
        assert "application/json" in refused.value.refusal.hint
        return
    found = headers([*sent, *more])
    assert found[:-2] == [(b"user-agent", b"k")]
    assert found[-2:] == [(b"Accept", (becomes or accept or "").encode()), (b"Accept-Encoding", b"identity")]


@pytest.mark.parametrize(
    ("target", "becomes"),
    [
        ("/api/v1/pods", "/api/v1/pods"),
        ("/api/v1/pods?limit=500", "/api/v1/pods?"),
        ("/api/v1/pods?limit=500&continue=", "/api/v1/pods?"),
        ("/api/v1/pods?l%69mit=1&labelSelector=a%3Db&limit=2", "/api/v1/pods?labelSelector=a%3Db"),
        ("/api/v1/pods?includeObject=None", "/api/v1/pods?includeObject=Metadata"),
        ("/api/v1/pods?includeObject=Object&includeObject=None", "/api/v1/pods?includeObject=Object"),
        ("/api/v1/pods?watch=true&resourceVersion=7", "/api/v1/pods?watch=true&resourceVersion=7"),
        ("/api/v1/pods?continue=abc", None),
        ("/api/v1/pods?c%6fntinue=abc", None),
        ("/api/v1/pods?continue=&continue=abc", None),
    ],
)
def test_lists_are_asked_for_whole(target: str, becomes: str | None) -> None:
    """Chunks would tell how many objects are not shown."""
    if becomes is None:
        with pytest.raises(CannotFilter) as refused:
            asked("GET", target)
        assert refused.value.refusal.code == 410
        return
    assert asked("GET", target) == becomes


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_only_get_is_answered(method: str) -> None:
    """The length of what is not shown tells of it, too."""
    with pytest.raises(CannotFilter) as refused:
        asked(method, "/api/v1/pods")
    assert refused.value.refusal.code == 403


@pytest.mark.parametrize(
    ("found", "readable"),
    [
        ([(b"content-type", b"application/json")], True),
        ([(b"Content-Type", b"application/json; charset=utf-8"), (b"content-encoding", b"identity")], True),
        ([(b"content-type", b"application/json"), (b"content-encoding", b"gzip")], False),
        ([(b"content-type", b"application/vnd.kubernetes.protobuf")], False),
        ([(b"content-type", b"application/json-seq")], False),
        ([(b"content-type", b"application/json"), (b"content-type", b"text/plain")], False),
        ([], False),
    ],
)
def test_answers_that_can_be_shown(found: list[tuple[bytes, bytes]], readable: bool) -> None:
    """Plain JSON, and nothing else."""
    assert isinstance(filter_of(found, SHOWN, watch=False), ListFilter) is readable
    assert isinstance(filter_of(found, SHOWN, watch=True), WatchFilter) is readable


def test_headers_about_the_whole_body_do_not_go_on() -> None:
    """They tell of what is not shown."""
    found = [(b"content-type", b"application/json"), (b"ETag", b"x"), (b"content_length", b"7"), (b"audit-id", b"y")]
    assert for_client(found) == [found[0], found[3]]
