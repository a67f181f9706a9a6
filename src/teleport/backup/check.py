"""Is a backup what it should be? Read once, from the first byte to the last, and its content proved.

That nothing was altered or is missing is proved by the encryption. What was put in is proved here: every resource can
be read, the audit log holds together (chains, checkpoints, signatures), every recording is whole and signed by a host
of the cluster. What is wrong with log or recordings, or with what is stored of other clusters, was so when the backup
was made; it is told, and does not make the rest useless.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec

from teleport.audit.chain import ChainKey, Head
from teleport.audit.checkpoints import verifier
from teleport.audit.verify import verify_store
from teleport.backup.age import Broken
from teleport.backup.archive import (
    AUDIT_NAME,
    MANIFEST,
    PIECE,
    RECORDING_NAME,
    STATE,
    Manifest,
    Member,
    StoredItem,
    read_items,
    read_manifest,
    read_members,
)
from teleport.errors import TeleportError
from teleport.pki.keys import PrivateKey, PublicKey
from teleport.pki.secret import Secret
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.recording.format import BrokenPlace
from teleport.recording.trust import signature_check
from teleport.recording.verify import SignatureCheck, verify_recording
from teleport.resources.authority import Authority
from teleport.resources.cluster import ClusterName
from teleport.resources.codec import TYPES, from_json
from teleport.store import records
from teleport.store.foreign import KINDS

RESOURCES: Final = tuple(
    dict.fromkeys(prefix for kind, prefix in records.PREFIX_OF_KIND.items() if kind in {str(kind) for kind in TYPES})
)
MOST_SHOWN: Final = 100  # problems


@dataclass(slots=True)
class Checked:
    """What a backup holds, and what is wrong with it."""

    manifest: Manifest
    items: int = 0
    resources: Counter[str] = field(default_factory=Counter)  # by kind
    events: int = 0
    checkpoints: int = 0
    recordings: int = 0
    size: int = 0  # bytes of the archive's members
    problems: list[str] = field(default_factory=list)  # of log, recordings and what is stored of other clusters


def lay(member: Member, path: Path, mode: int) -> None:
    """Writes a member to a file that is not there yet, durably."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        while piece := member.content.read(PIECE):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def check(stream: BinaryIO, folder: Path, seen: Callable[[int], None] = lambda count: None) -> Checked:
    """Proves the archive in `stream`. The log is laid into `folder`, which is empty and private, for that.

    Raises `Broken` where the backup is not what was written, or its state cannot be used.
    """
    done: Checked | None = None
    state = _State()
    kept: dict[str, str] = {}  # the last hash of each recording, by its name, and by its session and who made it
    for member in read_members(stream):
        if member.name == MANIFEST:
            done = Checked(read_manifest(member))
            continue
        assert done is not None, "the manifest comes first"
        done.size += member.size
        seen(done.size)
        if member.name == STATE:
            for item in read_items(member):
                state.take(item, done)
            state.finish(done)
        elif log := AUDIT_NAME.fullmatch(member.name):
            store = folder / log.group(1)
            store.mkdir(mode=0o700, exist_ok=True)
            lay(member, store / log.group(2), 0o600)
        elif recording := RECORDING_NAME.fullmatch(member.name):
            name = recording.group(1)
            sid = name.partition(".")[0]
            found = verify_recording(
                cast(BinaryIO, member.content), sid=sid, check_signature=state.signatures(), require_signature=True
            )
            done.recordings += 1
            if isinstance(found, BrokenPlace):
                kept[name] = f"broken: {found}"
                done.problems.append(f"recording of session {name}: {found}")
            else:
                kept[name] = kept[f"{sid}.{found.header.made_by}"] = found.sha256
    if done is None or not state.whole:
        raise Broken("the backup holds no state of a cluster", hint="use another copy")
    if done.manifest.audit:
        report = verify_store(
            folder,
            verify=verifier([state.checkpoint_key]) if state.checkpoint_key is not None else None,
            known_heads=state.heads,
            recordings=kept.get if done.manifest.recordings else None,
        )
        done.events, done.checkpoints = report.events, report.checkpoints
        done.problems += [str(problem) for problem in report.problems]
    del done.problems[MOST_SHOWN:]
    return done


def _of_another(key: str, cluster: str) -> bool:
    """Whether what is stored there tells of another cluster: itself, or an authority of it."""
    if key.startswith(tuple(records.PREFIX_OF_KIND[kind] for kind in KINDS)):
        return True
    return key.startswith(records.AUTHORITIES) and key.rpartition("/")[2] != cluster


class _State:
    """What proving the rest needs of the state."""

    def __init__(self) -> None:
        self.heads: dict[ChainKey, Head] = {}
        self.checkpoint_key: PublicKey | None = None
        self.whole = False
        self._name = ""
        self._hosts: list[Authority] = []
        self._authorities: set[str] = set()

    def take(self, item: StoredItem, done: Checked) -> None:
        done.items += 1
        if item.key.startswith(RESOURCES):
            try:
                resource = from_json(item.value)
            except TeleportError as error:
                if _of_another(item.key, done.manifest.cluster):  # nothing here depends on it (`store.foreign`)
                    done.problems.append(f"what is stored of another cluster, {item.key}, cannot be read: {error}")
                    return
                raise Broken(f"the backup holds a resource that cannot be read, {item.key}: {error}") from None
            done.resources[resource.kind] += 1
            if isinstance(resource, ClusterName):
                self._name = resource.spec.cluster_name
            if isinstance(resource, Authority) and resource.spec.cluster_name == done.manifest.cluster:
                self._authorities.add(str(resource.type))
                if str(resource.type) == "host":
                    self._hosts.append(resource)
        elif item.key.startswith("audit/heads/"):
            emitter, _, epoch = item.key.removeprefix("audit/heads/").rpartition("/")
            head = msgspec.json.decode(item.value, type=dict[str, int | str])
            self.heads[ChainKey(emitter, int(epoch))] = Head(int(head["seq"]), str(head["hash"]))
        elif item.key == "audit/checkpoint-key":
            self.checkpoint_key = PrivateKey.load(Secret(item.value)).public

    def finish(self, done: Checked) -> None:
        """Without its name and its authorities there is no cluster."""
        if self._name != done.manifest.cluster or not {"user", "host"} <= self._authorities:
            raise Broken(f"the backup does not hold all that makes the cluster {done.manifest.cluster!r}")
        self.whole = True

    def signatures(self) -> SignatureCheck:
        """Believes hosts of the cluster, certified by its authority of then or now."""

        def of(cluster: str, lines: tuple[str, ...]) -> TrustedSSHAuthority:
            return TrustedSSHAuthority(AuthorityKind.HOST, cluster, tuple(PublicKey.parse(line) for line in lines))

        def current() -> list[TrustedSSHAuthority]:
            return [of(one.spec.cluster_name, one.trusted_ssh_keys) for one in self._hosts]

        def former() -> list[tuple[TrustedSSHAuthority, datetime]]:
            return [
                (of(one.spec.cluster_name, retired.ssh), retired.retired)
                for one in self._hosts
                for retired in one.spec.retired_keys
            ]

        return signature_check(current, former)
