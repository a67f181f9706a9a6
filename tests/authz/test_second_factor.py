"""What each word of `second_factor` asks, as a table."""

from __future__ import annotations

import pytest

from teleport.authz.second_factor import FactorKind, domain_named, factor_rule, why_no_keys_in_browsers
from teleport.resources.cluster import U2F, AuthPreferenceSpec, SecondFactor, Webauthn

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


NAME = Webauthn(rp_id="Keys.Example.test")
OLD = U2F(app_id="https://App.example.test:3080")


@pytest.mark.parametrize(
    ("webauthn", "u2f", "domain"),
    [(NAME, OLD, "keys.example.test"), (None, OLD, "app.example.test"), (Webauthn(), OLD, "app.example.test"),
     (Webauthn(), None, ""), (None, None, ""), (None, U2F(app_id="https://[FD00::1]:3080"), "fd00::1")],
)  # fmt: skip
def test_the_domain_of_security_keys_is_what_the_setting_says(
    webauthn: Webauthn | None, u2f: U2F | None, domain: str
) -> None:
    assert domain_named(AuthPreferenceSpec(webauthn=webauthn, u2f=u2f)) == domain


@pytest.mark.parametrize(
    ("factor", "rp_id", "app_id", "host", "said"),
    [
        ("on", "", "", "::1", ["bound to ::1, this proxy's public address", "proxy_service.public_addr"]),
        ("optional", "", "", "10.0.0.1", ["bound to 10.0.0.1", "proxy_service.public_addr"]),
        ("webauthn", "10.0.0.2", "", "proxy.example.test", ["bound to 10.0.0.2, which the settings name"]),
        ("webauthn", "", "https://[fd00::1]:3080", "proxy.example.test", ["bound to fd00::1, which the settings"]),
        ("webauthn", "example.test", "", "::1", []),  # the name that people use may stand in no public_addr
        ("webauthn", "", "", "proxy.example.test", []),
        ("webauthn", "", "", "localhost", []),
        ("otp", "", "", "::1", []),
        ("off", "", "", "::1", []),
    ],
)
def test_that_browsers_take_no_key_at_an_address_is_known(
    factor: str, rp_id: str, app_id: str, host: str, said: list[str]
) -> None:
    spec = AuthPreferenceSpec(
        second_factor=SecondFactor(factor),
        webauthn=Webauthn(rp_id=rp_id),
        u2f=U2F(app_id=app_id) if app_id else None,
    )
    why = why_no_keys_in_browsers(spec, host)
    assert bool(why) is bool(said)
    for words in said:
        assert words in why
    assert not said or "auth_service.authentication.webauthn.rp_id" in why
    disabled = AuthPreferenceSpec(second_factor=SecondFactor(factor), webauthn=Webauthn(rp_id=rp_id, disabled=True))
    assert why_no_keys_in_browsers(disabled, host) == ""
