"""What each word of `second_factor` asks, as a table."""

from __future__ import annotations

import pytest

from teleport.authz.second_factor import FactorKind, factor_rule
from teleport.resources.cluster import AuthPreferenceSpec, SecondFactor, Webauthn

NOTHING, TOTP, KEY, BOTH = (), (FactorKind.TOTP,), (FactorKind.WEBAUTHN,), tuple(FactorKind)
# setting: kinds that count; for devices held (nothing, totp, key, both): is one due, could nobody log in with these
TABLE = {
    SecondFactor.OFF: (NOTHING, (False, False, False, False), (False, False, False, False)),
    SecondFactor.OTP: (TOTP, (True, True, True, True), (True, False, True, False)),
    SecondFactor.U2F: (KEY, (True, True, True, True), (True, True, False, False)),
    SecondFactor.WEBAUTHN: (KEY, (True, True, True, True), (True, True, False, False)),
    SecondFactor.ON: (BOTH, (True, True, True, True), (True, False, False, False)),
    SecondFactor.OPTIONAL: (BOTH, (False, True, True, True), (False, False, False, False)),
}


def test_the_table_has_every_setting() -> None:
    assert set(TABLE) == set(SecondFactor)


@pytest.mark.parametrize("setting", list(SecondFactor))
def test_what_a_setting_asks(setting: SecondFactor) -> None:
    kinds, due, lacking = TABLE[setting]
    rule = factor_rule(AuthPreferenceSpec(second_factor=setting))
    held = (NOTHING, TOTP, KEY, BOTH)
    assert rule.kinds == set(kinds)
    assert tuple(rule.due(devices) for devices in held) == due
    assert tuple(rule.lacking(devices) for devices in held) == lacking


def test_disabled_hardware_keys_count_nowhere() -> None:
    for setting in SecondFactor:
        rule = factor_rule(AuthPreferenceSpec(second_factor=setting, webauthn=Webauthn(disabled=True)))
        assert FactorKind.WEBAUTHN not in rule.kinds
    rule = factor_rule(AuthPreferenceSpec(second_factor=SecondFactor.WEBAUTHN, webauthn=Webauthn(disabled=True)))
    assert rule.due(BOTH), "closed: nobody comes in"
    assert rule.lacking(BOTH)
