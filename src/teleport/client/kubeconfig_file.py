"""The person's own kubeconfig: entries of ours are put there and taken away, every other one stays as it is.

The file is the first of `KUBECONFIG`, else `~/.kube/config` (kubernetes.io, "Organizing Cluster Access Using kubeconfig
Files"). While it is changed, `FILE.lock` keeps kubectl's own commands out, as theirs keeps us; the new one is written
whole and takes the place of the old one. What cannot be read is never written over, and what says all that it should is
not written at all. Lines that nothing changes stay as they are (`kubeconfig_text`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teleport.client.kubeconfig_text import CURRENT, LISTS, changed, normal
from teleport.errors import TeleportError

OURS: Final = "credentials"  # of the plugin: tsh kube credentials
HOME: Final = "TELEPORT_HOME"
LOCK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A Kubernetes cluster as kubectl is told of it."""

    cluster: str  # of ours
    kube_cluster: str
    server: str  # host:port
    authorities: Path  # PEM; a file, which follows the cluster's authority through its rotations
    program: str  # tsh
    proxy: str  # of the profile
    user: str
    server_name: str = ""  # to ask for in TLS, where it is not the server's
    home: str = ""  # of tsh, which kubectl has to name to it; empty: it is where tsh looks by itself

    @property
    def context(self) -> str:
        return f"{self.cluster}-{self.kube_cluster}"


def path_of(environment: Mapping[str, str]) -> Path:
    """The file that is changed."""
    first = next((one for one in environment.get("KUBECONFIG", "").split(os.pathsep) if one), "")
    return Path(first) if first else Path(environment.get("HOME") or Path.home()) / ".kube" / "config"


def put(path: Path, entry: Entry) -> None:
    """Puts the cluster in, and makes its context the current one. A namespace that was set for it stays. Raises
    `TeleportError` where an entry of that name is another's: it may carry other credentials, which would go to ours."""
    put_all(path, [entry], entry.context)


def put_all(path: Path, entries: Sequence[Entry], chosen: str = "") -> bool:
    """Puts the clusters in as `put` does, all or none, and makes the context `chosen` the current one; empty: the one
    that is the current one stays it. Whether the file is another one now."""

    def change(document: dict[str, Any]) -> None:
        for entry in entries:
            _put(document, entry, path)
        if chosen:
            document[CURRENT] = chosen

    return _changed(path, change)


def _put(document: dict[str, Any], entry: Entry, path: Path) -> None:
    _refuse_others(document, entry, path)
    plugin: dict[str, Any] = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": entry.program,
        "args": [
            "kube",
            OURS,
            f"--kube-cluster={entry.kube_cluster}",
            f"--teleport-cluster={entry.cluster}",
            f"--proxy={entry.proxy}",
            f"--user={entry.user}",
        ],
    }
    if entry.home:  # kubectl is mostly started where the variable is not set
        plugin["env"] = [{"name": HOME, "value": entry.home}]
    server = {"server": f"https://{entry.server}", "certificate-authority": str(entry.authorities)}
    if entry.server_name:
        server["tls-server-name"] = entry.server_name
    _set(document, "clusters", entry.cluster, "cluster", server)
    _set(document, "users", entry.context, "user", {"exec": plugin})
    former = _get(document, "contexts", entry.context, "context")
    kept = {"namespace": former["namespace"]} if former.get("namespace") else {}
    _set(document, "contexts", entry.context, "context", {"cluster": entry.cluster, "user": entry.context, **kept})


def remove(path: Path, proxy: str, user: str, home: str = "") -> None:
    """Takes away all that leads through this proxy as this user, by the login in `home` (as of `Entry`). An entry that
    names no home was made by any: it goes, too."""
    mine = {f"--proxy={proxy}", f"--user={user}"}

    def change(document: dict[str, Any]) -> None:
        users = {str(one.get("name")) for one in document["users"] if _is_ours(one, mine, home)}
        contexts = [one for one in document["contexts"] if _context(one).get("user") in users]
        names = {str(one.get("name")) for one in contexts}
        document["contexts"] = [one for one in document["contexts"] if one not in contexts]
        used = {_context(one).get("cluster") for one in document["contexts"]}
        gone = {_context(one).get("cluster") for one in contexts} - used
        document["users"] = [one for one in document["users"] if one.get("name") not in users]
        document["clusters"] = [one for one in document["clusters"] if one.get("name") not in gone]
        if document.get(CURRENT) in names:
            document[CURRENT] = ""

    try:
        content = path.read_bytes()
    except OSError:
        return
    if f"--user={user}".encode() in content:  # mostly nothing is ours, and nothing is parsed or written
        _changed(path, change)


def current(path: Path, cluster: str) -> str:
    """The Kubernetes cluster of ours that is chosen; empty when none is."""
    document = _read(path)
    name = document.get(CURRENT, "")
    for word in _plugin(_get(document, "users", name, "user")):
        if word.startswith("--kube-cluster=") and name == f"{cluster}-{word.partition('=')[2]}":
            return word.partition("=")[2]
    return ""


def _plugin(user: Mapping[str, Any]) -> list[str]:
    """The arguments of our plugin; none when it is another way."""
    said = user.get("exec")
    words = said.get("args") if isinstance(said, dict) else None
    found = [str(word) for word in words] if isinstance(words, list) else []
    return found if found[:2] == ["kube", OURS] else []


def _refuse_others(document: Mapping[str, Any], entry: Entry, path: Path) -> None:
    """Every context that uses the cluster's entry, or is called as ours is, has to be one of our plugin."""
    for one in document["contexts"]:
        if one.get("name") == entry.context or _context(one).get("cluster") == entry.cluster:
            user = _context(one).get("user")
            if not isinstance(user, str) or not _plugin(_get(document, "users", user, "user")):
                raise _others("context", str(one.get("name")), path)
    used = {_context(one).get("cluster") for one in document["contexts"]}
    kept = _get(document, "clusters", entry.cluster, "cluster")
    if kept and entry.cluster not in used and kept.get("certificate-authority") != str(entry.authorities):
        raise _others("cluster", entry.cluster, path)
    user = _get(document, "users", entry.context, "user")
    if user and not _plugin(user):
        raise _others("user", entry.context, path)


def _others(kind: str, name: str, path: Path) -> TeleportError:
    return TeleportError(
        f"{path} has a {kind} {name!r} of another program under a name that is needed here; nothing was changed",
        hint="rename it (kubectl config rename-context), or name another file in KUBECONFIG",
    )


def _is_ours(entry: Mapping[str, Any], mine: set[str], home: str) -> bool:
    user = entry.get("user")
    if not isinstance(user, dict) or not mine <= set(_plugin(user)):
        return False
    said = user["exec"].get("env")
    named = [one for one in said if isinstance(one, dict) and one.get("name") == HOME] if isinstance(said, list) else []
    return all(one.get("value") == home for one in named)


def _context(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found = entry.get("context")
    return found if isinstance(found, dict) else {}


def _get(document: Mapping[str, Any], plural: str, name: str, single: str) -> Mapping[str, Any]:
    for entry in document[plural]:
        if entry.get("name") == name and isinstance(entry.get(single), dict):
            return dict(entry[single])
    return {}


def _set(document: dict[str, Any], plural: str, name: str, single: str, content: dict[str, Any]) -> None:
    entry = {"name": name, single: content}
    entries = [one for one in document[plural] if one.get("name") != name]
    at = next((number for number, one in enumerate(document[plural]) if one.get("name") == name), len(entries))
    document[plural] = [*entries[:at], entry, *entries[at:]]


def _read(path: Path) -> dict[str, Any]:
    """The file's content with its three lists. Raises `TeleportError` for a file that is none."""
    return _text_and_document(path)[1]


def _text_and_document(path: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    hint = f"mend or move {path}, or name another file in KUBECONFIG"
    try:
        text = path.read_bytes().decode() if path.exists() else ""
        document = yaml.safe_load(text)
    except OSError as error:
        raise TeleportError(f"cannot read {path}: {error.strerror}", hint=hint) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        raise TeleportError(f"{path} is no YAML; nothing was changed", hint=hint) from None
    document = document if document is not None else {"apiVersion": "v1", "kind": "Config", "preferences": {}}
    if not isinstance(document, dict):
        raise TeleportError(f"{path} is no kubeconfig; nothing was changed", hint=hint)
    document = normal(document)
    for name in LISTS:
        if not isinstance(document[name], list) or not all(isinstance(one, dict) for one in document[name]):
            raise TeleportError(f"{path} has {name} that are no list; nothing was changed", hint=hint)
    return text, document


def _after(path: Path, change: Callable[[dict[str, Any]], None]) -> str | None:
    """The file's text after the change; None where it changes nothing."""
    text, old = _text_and_document(path)
    new = deepcopy(old)
    change(new)
    return None if new == old else changed(text, old, new)


def _changed(path: Path, change: Callable[[dict[str, Any]], None]) -> bool:
    try:
        if _after(path, change) is None:
            return False
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        real = path.resolve()  # a link stays one
        with _locked(real):
            text = _after(real, change)
            if text is None:
                return False
            beside = real.with_name(f".{real.name}.{os.getpid()}")
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(descriptor, "w", encoding="utf-8", newline="") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file)
                beside.rename(real)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    beside.unlink()
                raise
    except OSError as error:
        raise TeleportError(f"cannot write {path}: {error.strerror}", hint="name another file in KUBECONFIG") from None
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock that kubectl's commands take, too."""
    lock = path.with_name(f"{path.name}.lock")
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o600))
            break
        except FileExistsError:
            if time.monotonic() >= end:
                raise TeleportError(
                    f"{path} is being changed by another program", hint=f"if that is not so, remove {lock}"
                ) from None
            time.sleep(0.05)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            lock.unlink()
