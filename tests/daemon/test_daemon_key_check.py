"""What is said of keys that are elsewhere: when they are away, and when they are back. That nothing answers is for
`tests/auth/test_auth_token_keys.py`, with a real token."""

from __future__ import annotations

import logging
from datetime import datetime

import pytest

from teleport.auth.authorities.keys import KeysAway
from teleport.daemon import key_check
from teleport.daemon.key_check import KeyCheck
from teleport.pki.keys import PrivateKey
from teleport.pki.trust import AuthorityKind
from teleport.resources.authority import Authority, KeySet
from teleport.resources.secret import SecretText


class Elsewhere:
    """Keys that are away, or not."""

    def __init__(self) -> None:
        self.away = False

    def make(self, kind: AuthorityKind, cluster: str, now: datetime) -> Authority:
        raise AssertionError("nothing is made")

    def load(self, secret: SecretText) -> PrivateKey:
        raise AssertionError("nothing is loaded")

    def destroy(self, keys: KeySet) -> None: ...

    async def check(self) -> None:
        if self.away:
            raise KeysAway("the module cannot reach the token")


async def test_each_change_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keys = Elsewhere()
    check = KeyCheck(keys)
    await check.look()
    assert check.problem == ""
    keys.away = True
    await check.look()
    await check.look()
    assert check.problem == "the module cannot reach the token"
    keys.away = False
    await check.look()
    await check.look()
    assert check.problem == ""
    said = [record.getMessage().split(",")[0] for record in caplog.records if record.name == key_check.__name__]
    assert said == ["nothing can be signed", "the authorities' keys sign again"]
