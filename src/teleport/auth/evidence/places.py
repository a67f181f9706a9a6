"""Where an auth server's recordings lie, put together: files alone, or files that are brought to S3."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from teleport.auth.evidence.objects import StoredNotes
from teleport.backend.interface import Backend
from teleport.recording.index import index_head
from teleport.recording.indexing import Indexer
from teleport.recording.storage import FileRecordingStore
from teleport.recording.verify import SignatureCheck

if TYPE_CHECKING:
    from teleport.recording.s3.bucket import Bucket
    from teleport.recording.s3.settings import S3Settings
    from teleport.recording.s3.store import S3RecordingStore
    from teleport.recording.s3.uploader import Uploader


class RecordingPlace:
    """The store, what makes it searchable, and what brings recordings away."""

    def __init__(self, folder: Path, s3: S3Settings | None, backend: Backend, check: SignatureCheck) -> None:
        """Raises `TeleportError` when the folder, or what S3 needs, cannot be used."""
        self._bucket: Bucket | None = None
        self._s3: S3RecordingStore | None = None
        self._uploader: Uploader | None = None
        self.store: FileRecordingStore
        if s3 is None:
            self.store = FileRecordingStore(folder, check_signature=check, require_signature=True)
            self.indexer = Indexer(folder, self.store.directory)
            return
        from teleport.recording.s3.load import bucket_class

        self._bucket = bucket_class()(s3)
        from teleport.recording.s3.store import S3RecordingStore
        from teleport.recording.s3.uploader import Uploader

        notes = StoredNotes(backend)
        self.store = self._s3 = S3RecordingStore(
            folder, self._bucket, notes, check_signature=check, require_signature=True
        )
        self.indexer = Indexer(folder, self.store.directory)
        self._uploader = Uploader(self._bucket, self.store.directory, notes, self._searchable)

    @property
    def problem(self) -> str:
        """Why recordings are not where they should be; empty when they are."""
        return self._uploader.problem if self._uploader is not None else ""

    def arrived(self) -> None:
        """A recording was stored, and told of."""
        self.indexer.stored()
        if self._uploader is not None:
            self._uploader.look()

    async def run(self) -> None:
        """Brings recordings away, until cancelled."""
        if self._uploader is not None:
            await self._uploader.run()

    async def close(self) -> None:
        """When nobody reads any more."""
        if self._s3 is not None:
            await self._s3.end()
        if self._bucket is not None:
            await self._bucket.close()

    async def _searchable(self, name: str) -> bool:
        if self.indexer.failed(name) or await asyncio.to_thread(index_head, self.store.directory, name) is not None:
            return True
        await self.indexer.ensure([name], 0)  # made with others meanwhile, and asked for again
        return False
