"""Events that the first version wrote are proved, delivered and searched today (formats only grow)."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from teleport.audit import spool
from teleport.audit.chain import Linked
from teleport.audit.checkpoints import verifier
from teleport.audit.search import Query, Searcher
from teleport.audit.verify import verify_store
from teleport.pki.keys import PublicKey

VECTORS = Path(__file__).parent.parent / "vectors" / "audit"
LOG = VECTORS / "version-1.log"


def lines() -> list[bytes]:
    return LOG.read_bytes().splitlines()


def key() -> PublicKey:
    return PublicKey.from_spki((VECTORS / "checkpoint-key.pem").read_bytes())


def store(folder: Path, content: bytes) -> Path:
    host = folder / Linked.parse(lines()[0]).key.emitter
    host.mkdir(parents=True)
    (host / "2026-11-28.00:00:00.log").write_bytes(content)
    return folder


def test_a_store_of_the_first_version_is_proved_with_its_checkpoint(tmp_path: Path) -> None:
    report = verify_store(store(tmp_path, LOG.read_bytes()), verify=verifier([key()]))
    assert report.ok, report.problems
    assert (report.events, report.emitters, report.checkpoints) == (len(lines()), 1, 1)


def test_its_hashes_are_those_of_the_page() -> None:
    """Computed here as `docs/audit-log.md` says, without the code that wrote them."""
    for line in lines():
        body, stated = re.fullmatch(rb'(.*),"hash":"([0-9a-f]{64})"\}', line).groups()  # type: ignore[union-attr]
        assert hashlib.sha256(b"teleport-audit-event-v1\n" + body + b"}").hexdigest() == stated.decode()


def test_a_lost_event_of_it_is_found(tmp_path: Path) -> None:
    lost = lines()
    del lost[4]
    report = verify_store(store(tmp_path, b"\n".join(lost) + b"\n"), verify=verifier([key()]))
    assert not report.ok


async def test_it_is_searched(tmp_path: Path) -> None:
    page = await Searcher(store(tmp_path, LOG.read_bytes())).search(Query(types=("user.create",)))
    assert [b'"name":"ann"' in line for line in page.lines] == [True]


def test_a_spool_of_the_first_version_is_read_and_linked_to(tmp_path: Path) -> None:
    """The lines of a spool are those of the store; the next epoch continues after the last of them."""
    epoch_dir = spool.epoch_directory(tmp_path, 1)
    epoch_dir.mkdir()
    shutil.copy(LOG, epoch_dir / "000000000001.log")
    with (epoch_dir / "000000000001.log").open("ab") as file:
        file.write(b'{"event":"torn')
    spool.recover_epoch(epoch_dir)
    assert spool.read_lines(epoch_dir, 1, 100, 1 << 20, None) == lines()
    assert spool.last_hash(tmp_path, 2) == Linked.parse(lines()[-1]).computed
