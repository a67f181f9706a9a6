"""Authorities of other clusters, as they are stored. One that cannot be used counts as none: nothing about one other
cluster keeps people of this one, or of a third, from being known. Statements are looked at before they are stored
(`pki.cluster_statement`); this is for what got there otherwise, by a former version or a restored backup."""

from __future__ import annotations

import logging
from functools import lru_cache

from teleport.pki.keys import PublicKey
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509verify import trusted_tls_authority
from teleport.resources.authority import Authority
from teleport.resources.codec import from_json

log = logging.getLogger(__name__)


@lru_cache(maxsize=512)
def foreign_authority(value: bytes, kind: AuthorityKind, cluster: str) -> Authority | None:
    """The authority of `cluster` in its stored form; None, with a word in the log, when a key in it is none."""
    try:
        found = from_json(value)
        if not isinstance(found, Authority) or (str(found.type), found.name) != (str(kind), cluster):
            raise ValueError("it is something else")
        retired = (line for one in found.spec.retired_keys for line in one.ssh)
        for line in (*found.trusted_ssh_keys, *retired):
            PublicKey.parse(line).crypto()
        for pem in found.trusted_tls_certs:
            trusted_tls_authority(kind, cluster, pem.encode())
    except Exception as error:  # whatever is there: the others count
        log.error("the %s authority of the cluster %s cannot be used, and is not believed: %s", kind, cluster, error)
        return None
    return found
