"""Accepting an invitation, or a reset, without a browser. The token in the link is a secret until it is used."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from teleport.client.addresses import check_host
from teleport.errors import BadRequest

MIN_PASSWORD = 12  # characters; auth checks it again (`ours.md`)
_PATH = re.compile(r"/web/(invite|reset)/([A-Za-z0-9_-]{8,256})/?")


@dataclass(frozen=True, slots=True)
class InvitationLink:
    """`https://host:port/web/invite/TOKEN` or `.../reset/TOKEN`."""

    host: str
    port: int
    token: str = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> InvitationLink:
        """Raises `BadRequest`, which never repeats the token."""
        try:
            parts = urlsplit(url.strip())
            port = parts.port or 443
        except ValueError:
            raise _no_link() from None
        path = _PATH.fullmatch(parts.path)
        if parts.scheme != "https" or not parts.hostname or not path or parts.username or parts.query or parts.fragment:
            raise _no_link()
        return cls(check_host(parts.hostname), port, path.group(2))


def _no_link() -> BadRequest:
    return BadRequest(
        "this is not the link of an invitation: https://HOST[:PORT]/web/invite/TOKEN",
        hint="tctl users add and tctl users reset print such links",
    )


def qr_text(url: str) -> str:
    """A QR code drawn with half blocks; empty when the text does not fit one."""
    import io

    import segno
    from segno.encoder import DataOverflowError

    drawing = io.StringIO()
    try:
        segno.make(url, error="m", micro=False).terminal(drawing, compact=True)
    except DataOverflowError:
        return ""
    return drawing.getvalue()
