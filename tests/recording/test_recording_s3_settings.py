"""What `audit_sessions_uri: s3://...` may say, and what answers of the service mean."""

from __future__ import annotations

import pytest

from teleport.aws.answers import Kind
from teleport.errors import AccessDenied, ConnectionProblem, TeleportError
from teleport.recording.s3.refusals import explain, kind_of
from teleport.recording.s3.settings import S3Settings, parse

BUCKET = "records.example"


@pytest.mark.parametrize(
    ("location", "options", "expected"),
    [
        (BUCKET, {}, S3Settings(BUCKET)),
        (f"{BUCKET}/", {"region": "eu-central-1"}, S3Settings(BUCKET, region="eu-central-1")),
        (f"{BUCKET}/a/b/", {"use_fips_endpoint": "true"}, S3Settings(BUCKET, "a/b", fips=True)),
        (BUCKET, {"sse_kms_key": "alias/k", "acl": "private"}, S3Settings(BUCKET, kms_key="alias/k", acl="private")),
        (
            BUCKET,
            {"endpoint": "127.0.0.1:9000", "insecure": "true", "disablesse": "yes"},
            S3Settings(BUCKET, region="us-east-1", endpoint="http://127.0.0.1:9000", encrypt=False),
        ),
        (BUCKET, {"endpoint": "s3.lan"}, S3Settings(BUCKET, region="us-east-1", endpoint="https://s3.lan")),
        (BUCKET, {"endpoint": "https://[::1]:9"}, S3Settings(BUCKET, region="us-east-1", endpoint="https://[::1]:9")),
    ],
)
def test_uris_that_are_taken(location: str, options: dict[str, str], expected: S3Settings) -> None:
    assert parse(location, options) == expected


@pytest.mark.parametrize(
    ("location", "options", "why"),
    [
        ("ab", {}, "the bucket is not"),
        ("Records", {}, "the bucket is not"),
        ("records@x", {}, "the bucket is not"),
        (f"{BUCKET}/a//b", {}, "an empty part"),
        (f"{BUCKET}/a/../b", {}, "an empty part, or . or .."),
        (f"{BUCKET}/a b", {}, "characters"),
        (f"{BUCKET}/{'a' * 801}", {}, "characters"),
        (BUCKET, {"region": "eu central"}, "region"),
        (BUCKET, {"insecure": "true"}, "no use without endpoint"),
        (BUCKET, {"insecure": "maybe", "endpoint": "a"}, "neither true nor false"),
        (BUCKET, {"endpoint": "http://s3.lan"}, "insecure=true allows it"),
        (BUCKET, {"endpoint": "https://s3.lan", "insecure": "true"}, "and insecure=true beside it"),
        (BUCKET, {"endpoint": "https://u:p@s3.lan"}, "without user and password"),
        (BUCKET, {"endpoint": "https://s3.lan/path"}, "more than a host"),
        (BUCKET, {"endpoint": "https://s3.lan:0"}, "neither"),
        (BUCKET, {"endpoint": "ftp://s3.lan"}, "neither"),
        (BUCKET, {"sse_kms_key": "k", "disablesse": "true"}, "no use with disablesse"),
        (BUCKET, {"sse_kms_key": "a b"}, "id or ARN"),
        (BUCKET, {"acl": "public-read"}, "strangers"),
        (BUCKET, {"use_fips_endpoint": "true", "endpoint": "s3.lan"}, "Amazon's own"),
    ],
)
def test_uris_that_are_refused(location: str, options: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(location, options)


def test_the_storages_region_counts_when_the_uri_names_none() -> None:
    assert parse(BUCKET, {}, "eu-west-1").region == "eu-west-1"
    assert parse(BUCKET, {"region": "eu-north-1"}, "eu-west-1").region == "eu-north-1"


def test_keys_and_urls() -> None:
    assert S3Settings(BUCKET, "a/b").key("n") == "a/b/n.rec"
    assert S3Settings(BUCKET).url("n") == f"s3://{BUCKET}/n.rec"


@pytest.mark.parametrize(
    ("code", "status", "details", "kind"),
    [
        ("NoSuchBucket", 404, "", Kind.NO_BUCKET),
        ("NoSuchKey", 404, "", Kind.ABSENT),
        ("NoSuchUpload", 404, "", Kind.ABSENT),
        ("InvalidObjectState", 403, "it is archived", Kind.REFUSED),
        ("404", 404, "Not Found", Kind.ABSENT),
        ("AccessDenied", 403, "not authorized to perform: kms:GenerateDataKey", Kind.NOT_ALLOWED),
        ("403", 403, "Forbidden", Kind.NOT_ALLOWED),
        ("KMS.NotFoundException", 400, "Invalid keyId", Kind.KMS),
        ("InvalidArgument", 400, "the KMS key is disabled", Kind.KMS),
        ("PreconditionFailed", 412, "", Kind.EXISTS),
        ("ConditionalRequestConflict", 409, "", Kind.AGAIN),
        ("SignatureDoesNotMatch", 403, "", Kind.NO_LOGIN),
        ("RequestTimeTooSkewed", 403, "", Kind.CLOCK),
        ("PermanentRedirect", 301, "", Kind.REGION),
        ("SlowDown", 503, "", Kind.AGAIN),
        ("Unheard", 500, "", Kind.AGAIN),
        ("TooMany", 429, "", Kind.AGAIN),
        ("Unheard", 400, "", Kind.REFUSED),
    ],
)
def test_what_answers_mean(code: str, status: int, details: str, kind: Kind) -> None:
    assert kind_of(code, status, details) is kind


DENIED = (Kind.NOT_ALLOWED, Kind.KEPT, Kind.KMS, Kind.NO_LOGIN, Kind.CLOCK)


@pytest.mark.parametrize("kind", list(Kind))
def test_each_refusal_says_what_to_do(kind: Kind) -> None:
    error = explain("write", "s3://b", kind, "why")
    assert isinstance(error, TeleportError)
    assert error.hint
    assert "cannot write the recordings in S3 (s3://b)" in error.message
    assert isinstance(error, ConnectionProblem) == (kind in (Kind.AGAIN, Kind.TLS))
    assert isinstance(error, AccessDenied) == (kind in DENIED)
