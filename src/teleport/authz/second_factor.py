"""What the cluster's setting `second_factor` asks of local users (`config.md` 4.1), as one table.

`off` password only; `otp` and `webauthn` (`u2f` is its older name) a device of that kind; `on` a device of any kind;
`optional` a device of any kind from those who have registered one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import urlsplit

from teleport.resources.cluster import AuthPreferenceSpec, SecondFactor
from teleport.resources.names import canonical_address


class FactorKind(StrEnum):
    """A kind of second factor, as devices, messages and events name it."""

    TOTP = "totp"
    WEBAUTHN = "webauthn"


@dataclass(frozen=True, slots=True)
class FactorRule:
    """Which devices count, and from whom one is asked."""

    kinds: frozenset[FactorKind]
    of_everybody: bool = False
    of_owners: bool = False

    def due(self, held: Iterable[str]) -> bool:
        """Whether a login with devices of the kinds `held` needs one of them."""
        return self.of_everybody or (self.of_owners and not self.kinds.isdisjoint(held))

    def lacking(self, held: Iterable[str]) -> bool:
        """Whether somebody with devices of the kinds `held` could not log in: a factor is due and none counts."""
        return self.of_everybody and self.kinds.isdisjoint(held)


_ANY = frozenset(FactorKind)
_RULES: Mapping[SecondFactor, FactorRule] = MappingProxyType(
    {
        SecondFactor.OFF: FactorRule(frozenset()),
        SecondFactor.OTP: FactorRule(frozenset({FactorKind.TOTP}), of_everybody=True),
        SecondFactor.U2F: FactorRule(frozenset({FactorKind.WEBAUTHN}), of_everybody=True),
        SecondFactor.WEBAUTHN: FactorRule(frozenset({FactorKind.WEBAUTHN}), of_everybody=True),
        SecondFactor.ON: FactorRule(_ANY, of_everybody=True),
        SecondFactor.OPTIONAL: FactorRule(_ANY, of_owners=True),
    }
)


def takes_passkeys(preference: AuthPreferenceSpec) -> bool:
    """Whether a passkey alone logs a local user in: it is a hardware key, so it counts where these do."""
    return (
        preference.passwordless and preference.allow_local_auth and FactorKind.WEBAUTHN in factor_rule(preference).kinds
    )


def factor_rule(preference: AuthPreferenceSpec) -> FactorRule:
    """The rule in force. With `webauthn.disabled` no hardware key counts, so `webauthn` lets nobody in."""
    rule = _RULES[preference.second_factor]
    if preference.webauthn is not None and preference.webauthn.disabled:
        return FactorRule(rule.kinds - {FactorKind.WEBAUTHN}, rule.of_everybody, rule.of_owners)
    return rule


def domain_named(preference: AuthPreferenceSpec) -> str:
    """The domain that the setting binds security keys to, as browsers write it; empty when it names none."""
    if preference.webauthn is not None and preference.webauthn.rp_id:
        return preference.webauthn.rp_id.lower()
    return (urlsplit(preference.u2f.app_id).hostname or "") if preference.u2f is not None else ""


def why_no_keys_in_browsers(preference: AuthPreferenceSpec, host: str) -> str:
    """Why no browser takes a security key at the proxy whose public address is `host`; empty when nothing is known.

    Browsers take an IP address for no domain (Web Authentication 5.1.3), and say so to the page only.
    """
    if FactorKind.WEBAUTHN not in factor_rule(preference).kinds:
        return ""
    named = domain_named(preference)
    domain = named or host
    if not canonical_address(domain):
        return ""
    whose = "which the settings name" if named else "this proxy's public address"
    mended = "" if named else "proxy_service.public_addr to a name under which people reach this proxy, and "
    return (
        f"security keys do not work in browsers: they would be bound to {domain}, {whose}, and an IP address is no "
        f"domain (RP ID) for them; set {mended}auth_service.authentication.webauthn.rp_id to the name of the web "
        "address, then add the keys anew"
    )
