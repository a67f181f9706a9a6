"""Events about certificates that proxies get by ACME. Ours, from T9380 on."""

from __future__ import annotations

from datetime import datetime

from teleport.audit.events.base import ResourceEvent


class AcmeOrder(ResourceEvent, frozen=True, kw_only=True, tag="acme.order"):
    """A proxy was given the turn to order a certificate, and the key of the cluster's account at the directory. `name`
    is the host name."""

    directory: str = ""  # URL of the ACME directory


class AcmeAccountCreate(ResourceEvent, frozen=True, kw_only=True, tag="acme_account.create"):
    """A directory has made an account of this cluster. `name` is its URL."""

    directory: str = ""  # URL of the ACME directory


class WebCertificateUpdate(ResourceEvent, frozen=True, kw_only=True, tag="web_certificate.update"):
    """Proxies show a new certificate, which a directory issued. `name` is the host name."""

    directory: str = ""  # URL of the ACME directory
    valid_until: datetime | None = None  # when it ends


class WebCertificateFailed(ResourceEvent, frozen=True, kw_only=True, tag="web_certificate.failed"):
    """A directory issued no certificate. `name` is the host name."""

    directory: str = ""  # URL of the ACME directory
    error: str = ""  # why not


class WebCertificateRead(ResourceEvent, frozen=True, kw_only=True, tag="web_certificate.read"):
    """A proxy fetched the private key and certificate of a name of its own. `name` is the host name."""

    directory: str = ""  # URL of the ACME directory
