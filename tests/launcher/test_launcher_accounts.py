"""Which Unix accounts may have a session."""

from __future__ import annotations

import pwd
import time

import pytest

from teleport.launcher.accounts import expired, find_account
from teleport.launcher.values import LauncherRefused, Reason

SHADOW = "root:*:20228:0:99999:7:::\nold:!:20228:0:99999:7::100:\nshut:!:1:0:99999:7::1:\nshort:x:1\n"


@pytest.mark.parametrize(
    ("name", "today", "gone"),
    [
        ("root", 30_000, False),
        ("old", 99, False),
        ("old", 100, True),
        ("shut", 20_000, True),
        ("short", 1, False),
        ("nobody", 1, False),
        ("ol", 30_000, False),
    ],
)
def test_the_expiry_date_of_an_account_counts(name: str, today: int, gone: bool) -> None:
    """shadow(5), field 8: days since 1970; an account that is absent, or has no date, does not expire."""
    assert expired(SHADOW, name, today) is gone


@pytest.mark.parametrize("login", ["no-such-user-here", "", "-root", "root\0", "0", "x" * 300, "r\udcffoot"])
def test_an_unknown_login_is_refused(login: str) -> None:
    """Odd names are unknown names."""
    with pytest.raises(LauncherRefused) as refused:
        find_account(login, now=time.time())
    assert refused.value.reason is Reason.UNKNOWN_LOGIN
    assert refused.value.hint


def test_a_nologin_shell_is_refused() -> None:
    """An account whose shell says that nobody logs in has no sessions."""
    name = next((entry.pw_name for entry in pwd.getpwall() if entry.pw_shell.endswith("/nologin")), None)
    if name is None:
        pytest.skip("no account of this host has nologin as its shell")
    with pytest.raises(LauncherRefused) as refused:
        find_account(name, now=time.time())
    assert refused.value.reason in {Reason.NO_SHELL, Reason.NOT_PRIVILEGED}
