"""Where recordings lie in S3: what the configuration says, as a value. Loads neither library nor file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from teleport.resources.values import parse_boolean

ACLS: Final = frozenset(
    {"private", "bucket-owner-read", "bucket-owner-full-control", "aws-exec-read", "log-delivery-write"}
)
DEFAULT_REGION: Final = "us-east-1"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
_REGION: Final = re.compile(r"[a-z0-9-]{1,64}")
_MOST_PREFIX: Final = 800  # of the 1024 bytes that a key may have


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Credentials are those that AWS's own tools would use."""

    bucket: str
    prefix: str = ""  # without a slash at its ends
    region: str = ""  # empty: as AWS's own tools find it
    endpoint: str = ""  # a URL; empty: Amazon's, of the region
    encrypt: bool = True  # by the service, with keys of its KMS
    kms_key: str = ""  # empty: the one that the service has for the bucket
    acl: str = ""
    fips: bool = False

    def key(self, name: str) -> str:
        """Of the recording of that name."""
        return f"{self.prefix}/{name}.rec" if self.prefix else f"{name}.rec"

    def url(self, name: str) -> str:
        return f"s3://{self.bucket}/{self.key(name)}"

    @property
    def where(self) -> str:
        """For messages."""
        there = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        return ", ".join(part for part in (there, self.region and f"region {self.region}", self.endpoint) if part)


def parse(location: str, options: Mapping[str, str], region: str = "") -> S3Settings:
    """Out of `s3://LOCATION?OPTIONS`; `region` counts when no option says another. `ValueError` says what is wrong."""
    bucket, _, prefix = location.partition("/")
    prefix = prefix.strip("/")
    if _BUCKET.fullmatch(bucket) is None:
        raise ValueError("the bucket is not 3 to 63 small letters, digits, dots and dashes")
    segments = prefix.split("/")
    if prefix and (
        len(prefix) > _MOST_PREFIX or _PREFIX.fullmatch(prefix) is None or any(one in (".", "..") for one in segments)
    ):
        raise ValueError("the path has characters that keys in S3 should not have, an empty part, or . or ..")
    region = options.get("region", region)
    if region and _REGION.fullmatch(region) is None:
        raise ValueError("region is not the name of a region, such as eu-central-1")
    insecure, plain, fips = (
        _boolean(options, name) for name in ("insecure", "disablesse", "use_fips_endpoint")
    )  # fmt: skip
    endpoint = _endpoint(options.get("endpoint", ""), insecure=insecure)
    kms_key, acl = options.get("sse_kms_key", ""), options.get("acl", "")
    if plain and kms_key:
        raise ValueError("sse_kms_key has no use with disablesse=true")
    if len(kms_key) > 2048 or not kms_key.isprintable() or " " in kms_key:
        raise ValueError("sse_kms_key is not the id or ARN of a key")
    if acl and acl not in ACLS:
        raise ValueError(f"acl is not one of {', '.join(sorted(ACLS))}: others let strangers read recordings")
    if fips and endpoint:
        raise ValueError("use_fips_endpoint is for Amazon's own endpoints, and endpoint names another")
    if endpoint and not region:
        region = DEFAULT_REGION  # a service elsewhere has none as a rule, but a signature names one
    return S3Settings(bucket, prefix, region, endpoint, not plain, kms_key, acl, fips)


def _boolean(options: Mapping[str, str], name: str) -> bool:
    try:
        return parse_boolean(options[name]) if name in options else False
    except ValueError:
        raise ValueError(f"{name} is neither true nor false") from None


def _endpoint(named: str, *, insecure: bool) -> str:
    if not named:
        if insecure:
            raise ValueError("insecure has no use without endpoint: Amazon's are reached by TLS")
        return ""
    scheme = "http" if insecure else "https"
    url = named if "://" in named else f"{scheme}://{named}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("endpoint is neither HOST:PORT nor a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or port == 0:
        raise ValueError("endpoint is neither HOST:PORT nor a URL of https://, without user and password")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("endpoint has more than a host and a port")
    if parts.scheme != scheme:
        raise ValueError(
            "endpoint is https://, and insecure=true beside it"
            if insecure
            else "endpoint is http://, where all could read what sessions showed; insecure=true allows it"
        )
    return f"{parts.scheme}://{parts.netloc}"
