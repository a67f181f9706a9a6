"""Whether a certificate still counts, given what happened since it was issued. Pure.

Auth asks for every call, nodes and proxies for what they are shown: the rule is written once, here. Expelling a host
and removing a user must end what their certificates give, however long these would still be valid.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from teleport.auth.records import HostRecord
from teleport.identity import HostIdentity, SystemRole
from teleport.pki.sshcert import HOST_LIFETIME

CLOCK_SLACK: Final = timedelta(seconds=5)


def host_counts(identity: HostIdentity, record: HostRecord | None) -> bool:
    """Whether the host, of which `record` is what the cluster knows, still is what its certificate says.

    It does not when the host is not known, was expelled, has not this role any more, or the certificate is from
    before the host joined anew.
    """
    if identity.role is SystemRole.ADMIN:
        return True
    if record is None or record.expelled or str(identity.role) not in record.roles:
        return False
    issued = identity.expires - HOST_LIFETIME
    return record.valid_from is None or issued >= record.valid_from - CLOCK_SLACK
