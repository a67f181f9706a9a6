"""Modules that a library imports and nothing uses: what stands in for them refuses to be used."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from teleport.standins import hidden, standing_in


def test_a_name_of_a_stand_in_serves_as_a_class_and_refuses_every_use() -> None:
    with standing_in({"telegraphy": {"SPEED": 5}}):
        from telegraphy import SPEED, Key  # type: ignore[import-not-found]

    class Better(Key):  # type: ignore[misc]
        pass

    assert SPEED == 5
    assert not isinstance(object(), Key)
    for use in (Key, Better, lambda: Key.press, lambda: Better.press()):
        with pytest.raises(RuntimeError, match="is a stand-in"):
            use()


def test_a_name_of_a_stand_in_takes_parameters_as_a_generic_class_does() -> None:
    with standing_in({"telegraphy": {}}):
        from telegraphy import Line

    class Better(Line[int]):  # type: ignore[misc]
        pass

    assert issubclass(Better, Line)


def test_a_stand_in_within_a_package_that_is_one_too_is_found_as_its_attribute() -> None:
    with standing_in({"telegraphy.codes": {"MORSE": 1}, "telegraphy": {}}):
        import telegraphy.codes  # type: ignore[import-not-found]

        assert telegraphy.codes.MORSE == 1
    assert not {"telegraphy", "telegraphy.codes"} & set(sys.modules)


def test_a_stand_in_within_a_package_that_is_loaded_leaves_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ModuleType("telegraphy")
    monkeypatch.setitem(sys.modules, "telegraphy", loaded)
    with standing_in({"telegraphy.codes": {"MORSE": 1}}):
        import telegraphy.codes

        assert telegraphy.codes.MORSE == 1
        assert telegraphy is loaded
    assert not hasattr(loaded, "codes")


@pytest.mark.parametrize("first", ["", "import ctypes", "import ctypes.util"])
def test_ssh_is_imported_whatever_of_ctypes_is_loaded(first: str) -> None:
    code = f"""
{first}
import sys
import teleport.ssh, asyncssh
import ctypes.util
assert ctypes.util.find_library("c"), "it is the real one again"
assert asyncssh.crypto.pq.mlkem_available and not asyncssh.crypto.pq.sntrup_available
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_hidden_cannot_be_imported_until_the_context_ends() -> None:
    real = sys.modules["subprocess"]
    with hidden("sched", "subprocess"):
        with pytest.raises(ModuleNotFoundError):
            import sched
        assert sys.modules["subprocess"] is real
    import sched

    assert sched.scheduler().empty()


def test_the_names_are_free_again() -> None:
    with standing_in({"telegraphy": {}}):
        assert "telegraphy" in sys.modules
    assert "telegraphy" not in sys.modules


def test_a_module_that_is_loaded_already_stays_in_its_place() -> None:
    real = sys.modules["subprocess"]
    with standing_in({"subprocess": {}}):
        assert sys.modules["subprocess"] is real
    assert sys.modules["subprocess"] is real


SCRIPT = """
import teleport.lean
import teleport.transport.quick_aiohttp
import teleport.ssh
import os, sys
from aiohttp import cookiejar, web_urldispatcher, helpers
import asyncssh.stream
assert not {"ctypes", "decimal", "typing_extensions", "email.policy", "asyncssh.process"} & set(sys.modules)
assert "FROZENLIST_NO_EXTENSIONS" not in os.environ
assert web_urldispatcher.html_escape('<a href="&">') == "&lt;a href=&quot;&amp;&quot;&gt;"
for use in (lambda: helpers.getproxies(), lambda: cookiejar._RestrictedCookieUnpickler(None),
            lambda: asyncssh.stream.run_sftp_server(None, None, None, 3), lambda: asyncssh.SFTPServer(None)):
    try:
        use()
    except RuntimeError as error:
        assert "is a stand-in" in str(error), error
    else:
        raise AssertionError("a stand-in was used")
assert helpers.parse_content_type('text/html; charset="utf-8"; a=b') == ("text/html", {"charset": "utf-8", "a": "b"})
assert helpers.parse_content_type("nonsense")[0] == "application/octet-stream"
import html, argparse, pickle, mimetypes, urllib.request, asyncssh.sftp, decimal, lzma, ctypes.util, email.policy
import logging.handlers, asyncssh.process, typing_extensions
assert decimal.Decimal(1) + 1 == 2 and lzma.decompress(lzma.compress(b"x")) == b"x" and ctypes.util.find_library("c")
assert email.policy.HTTP is not email.policy.compat32 and typing_extensions.TypeVar("T", default=int)
assert html.unescape("&eacute;") == chr(0xe9)
assert argparse.ArgumentParser().parse_args([]) is not None and pickle.loads(pickle.dumps(5)) == 5
assert urllib.request.Request("http://localhost").host == "localhost"
assert isinstance(asyncssh.sftp.SFTPError(1, "x"), Exception)
assert mimetypes.knownfiles and mimetypes.guess_type("a.html")[0] == "text/html"
"""


def test_libraries_refuse_what_they_were_not_given_and_others_get_the_real_modules() -> None:
    """Contract with the versions of aiohttp, frozenlist and asyncssh that are installed."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
