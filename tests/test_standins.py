"""Modules that a library imports and nothing uses: what stands in for them refuses to be used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from teleport.standins import standing_in


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
import teleport.transport.quick_aiohttp
import teleport.ssh
import os, sys
from aiohttp import cookiejar, web_urldispatcher, helpers
import asyncssh.stream
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
import html, argparse, pickle, mimetypes, urllib.request, asyncssh.sftp
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
