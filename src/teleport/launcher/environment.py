"""A session's environment, built from nothing: what the account says, what the node says, then what is allowed.

Three rules keep a client or a file from reaching the programs that start a session (threat T29):

- what a client sends over SSH is kept only when `filter_environment` names it: locale and terminal, nothing else;
- what `~/.tsh/environment` says is kept unless it is refused here: names that make a program load code, run commands,
  find other programs or read other files, and every name that the node or the account decides;
- a value is never taken apart: a control character in it refuses the pair.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable

Pairs = tuple[tuple[str, str], ...]

MAX_PAIRS = 128
MAX_VALUE = 4096  # characters
MAX_FILE_LINES = 1000
_MAX_FILE_BYTES = 262_144

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
DEFAULT_ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Locale values with a slash are file names to the C library, and "%" is a format to some programs (sudo's env_check).
_PLAIN = re.compile(r"[A-Za-z0-9_.:,=@+ -]*\Z")

_CLIENT_NAMES = frozenset(
    {"LANG", "LANGUAGE", "TERM", "COLORTERM", "NO_COLOR", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "GIT_PROTOCOL"},
)
_CLIENT_PREFIXES = ("LC_",)

# What the node sets itself; anything else in a request's session_env is a mistake of ours and is left out.
SESSION_NAMES = frozenset(
    {
        "SSH_TELEPORT_USER",
        "SSH_TELEPORT_CLUSTER_NAME",
        "SSH_TELEPORT_HOST_UUID",
        "SSH_SESSION_ID",
        "SSH_SESSION_WEBPROXY_ADDR",
        "SSH_CLIENT",
        "SSH_CONNECTION",
        "SSH_AUTH_SOCK",
        "SSH_ORIGINAL_COMMAND",
        "DISPLAY",
        "XAUTHORITY",
    },
)

_FILE_FORBIDDEN = frozenset(
    {
        # decided by the account or by the node
        *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "PWD", "OLDPWD", "UID", "EUID", "TERM", "DISPLAY", "XAUTHORITY"),
        # read by shells before the first command
        *("BASH_ENV", "ENV", "BASHOPTS", "SHELLOPTS", "IFS", "PS0", "PS1", "PS2", "PS3", "PS4", "PROMPT_COMMAND"),
        *("CDPATH", "GLOBIGNORE", "FPATH", "NULLCMD", "READNULLCMD", "ZDOTDIR", "KSH_ENV", "EXINIT", "VIMINIT"),
        # read by the C library
        *("GCONV_PATH", "GETCONF_DIR", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "NIS_PATH", "NLSPATH", "NSS_PATH"),
        *("RES_OPTIONS", "TMPDIR", "TZDIR", "TZ", "RESOLV_HOST_CONF", "RESOLV_MULTI", "GLIBC_TUNABLES"),
        *("TERMINFO", "TERMINFO_DIRS", "TERMCAP", "TERMPATH", "MAIL", "MAILPATH"),
        # make an interpreter, a linker or a tool load code or run a command
        *("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "NODE_OPTIONS", "NODE_PATH"),
        *(
            "RUBYOPT",
            "RUBYLIB",
            "LUA_PATH",
            "LUA_CPATH",
            "LUA_INIT",
            "GEM_PATH",
            "GEM_HOME",
            "GTK_PATH",
            "QT_PLUGIN_PATH",
        ),
        *("LESSOPEN", "LESSCLOSE", "LESSKEY", "LESS", "MANPAGER", "BROWSER", "OPENSSL_CONF", "OPENSSL_MODULES"),
        *("OPENSSL_ENGINES", "SUDO_ASKPASS", "INPUTRC", "EDITRC", "PKCS11_MODULE_PATH"),
    },
)
_PAM_FORBIDDEN = frozenset(
    {"TERM", "BASH_ENV", "ENV", "IFS", "SHELLOPTS", "BASHOPTS", "PS4", "PROMPT_COMMAND", "GLIBC_TUNABLES", "GCONV_PATH"}
)
_FILE_FORBIDDEN_PREFIXES = (
    *(
        "LD_",
        "DYLD_",
        "_RLD_",
        "BASH_FUNC_",
        "SSH_",
        "MALLOC_",
        "LIBC_",
        "PYTHON",
        "PERL",
        "PHP",
        "RUBY",
        "GIT_",
        "SUDO_",
    ),
    *(
        "KRB5",
        "LUA_",
        "NODE_",
        "DOTNET_",
        "COMPLUS_",
        "COR_",
        "CORECLR_",
        "ASAN_",
        "PAM_",
        "LISTEN_",
        "NOTIFY_",
        "TELEPORT_",
    ),
)


def _clean(name: str, value: str) -> bool:
    return bool(_NAME.match(name)) and len(value) <= MAX_VALUE and not _CONTROL.search(value)


def _allowed_from_client(name: str, value: str) -> bool:
    named = name in _CLIENT_NAMES or name.startswith(_CLIENT_PREFIXES)
    return named and _clean(name, value) and bool(_PLAIN.match(value))


def filter_environment(pairs: Iterable[tuple[str, str]]) -> tuple[Pairs, tuple[str, ...]]:
    """What of a client's `env` requests the session gets, and the names that were refused, in order.

    An allow-list: locale, terminal and git's protocol version, with plain values. Of one name the last value counts.
    """
    kept: dict[str, str] = {}
    refused: list[str] = []
    for name, value in pairs:
        if _allowed_from_client(name, value) and (name in kept or len(kept) < MAX_PAIRS):
            kept[name] = value
        else:
            refused.append(name)
    return tuple(kept.items()), tuple(refused)


def filter_file(lines: Iterable[str]) -> tuple[Pairs, tuple[str, ...]]:
    """What of `~/.tsh/environment` counts, and what was refused: `NAME=VALUE` lines; empty lines and `#` are skipped.

    Lines after the first `MAX_FILE_LINES` are not read. Of a refused line without a name the whole is reported as "".
    """
    kept: dict[str, str] = {}
    refused: list[str] = []
    for number, line in enumerate(lines):
        if number == MAX_FILE_LINES:
            break
        text = line.strip(" \t\r\n")
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        forbidden = name.upper() in _FILE_FORBIDDEN or name.upper().startswith(_FILE_FORBIDDEN_PREFIXES)
        if not equals or forbidden or not _clean(name, value):
            refused.append(name if equals else "")
        elif name.startswith(_CLIENT_PREFIXES) or name in _CLIENT_NAMES:
            # The same plain values for a locale as over SSH: where a name comes from does not make it safer.
            if _PLAIN.match(value):
                kept[name] = value
            else:
                refused.append(name)
        else:
            kept[name] = value
    return tuple(kept.items()), tuple(refused)


def filter_pam(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """What of PAM's variables a session gets: all but those that make any program or shell load code.

    Modules are the administrator's, but `pam_env` may read a file of the user's (`user_readenv`), and a user whose role
    allows some commands only must not get others by it.
    """
    refused = ("LD_", "DYLD_", "BASH_FUNC_")
    return tuple(
        (name, value)
        for name, value in pairs
        if _NAME.match(name) and name not in _PAM_FORBIDDEN and not name.startswith(refused)
    )


def read_user_file(home: str) -> Pairs:
    """What `~/.tsh/environment` adds. Called as the user, privileges dropped; a missing or odd file adds nothing."""
    try:
        # Non-blocking, so that a pipe laid there does not hold the session up; only a regular file is read.
        descriptor = os.open(os.path.join(home, ".tsh", "environment"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ()
        text = os.fsdecode(os.read(descriptor, _MAX_FILE_BYTES))
    except OSError:
        return ()
    finally:
        os.close(descriptor)
    return filter_file(text.split("\n"))[0]


def login_paths(login_defs: str) -> tuple[str, str]:
    """The search paths for users and for root in the text of /etc/login.defs, or the usual ones."""
    found = {"ENV_PATH": DEFAULT_PATH, "ENV_SUPATH": DEFAULT_ROOT_PATH}
    for line in login_defs.splitlines():
        words = line.split(None, 1)
        if len(words) == 2 and words[0] in found:
            value = words[1].strip().removeprefix("PATH=")
            if value and not _CONTROL.search(value):
                found[words[0]] = value
    return found["ENV_PATH"], found["ENV_SUPATH"]


def build_environment(
    *,
    name: str,
    home: str,
    shell: str,
    path: str,
    client_env: Iterable[tuple[str, str]],
    session_env: Iterable[tuple[str, str]],
    term: str | None,
    tty: str | None,
    file_env: Iterable[tuple[str, str]] = (),
    pam_env: Iterable[tuple[str, str]] = (),
) -> dict[str, str]:
    """The whole environment of a session. Later rows win: file, client, PAM, account, node;
    of the account's only PATH gives way to PAM's, as under sshd."""
    environment = dict(file_env)
    environment.update(filter_environment(client_env)[0])
    environment.pop("TERM", None)  # a terminal brings its own, and without a terminal there is none
    from_pam = dict(filter_pam(pam_env))
    environment.update(from_pam)
    environment.update(USER=name, LOGNAME=name, HOME=home, SHELL=shell, PATH=from_pam.get("PATH") or path)
    environment.update(
        (key, value) for key, value in session_env if key in SESSION_NAMES and _clean(key, value) and value
    )
    if tty is not None:
        environment["SSH_TTY"] = tty
        environment["TERM"] = term if term and _clean("TERM", term) and _PLAIN.match(term) else "xterm"
    return environment
