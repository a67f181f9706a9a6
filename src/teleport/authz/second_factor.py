"""What the cluster's setting `second_factor` asks of local users (`config.md` 4.1), as one table.

`off` password only; `otp` and `webauthn` (`u2f` is its older name) a device of that kind; `on` a device of any kind;
`optional` a device of any kind from those who have registered one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from teleport.resources.cluster import AuthPreferenceSpec, SecondFactor


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


def factor_rule(preference: AuthPreferenceSpec) -> FactorRule:
    """The rule in force. With `webauthn.disabled` no hardware key counts, so `webauthn` lets nobody in."""
    rule = _RULES[preference.second_factor]
    if preference.webauthn is not None and preference.webauthn.disabled:
        return FactorRule(rule.kinds - {FactorKind.WEBAUTHN}, rule.of_everybody, rule.of_owners)
    return rule
