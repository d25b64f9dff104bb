"""From a stored file to passages that can be found: converted, split, embedded, and then made searchable in one transaction."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal
from uuid import UUID

import anyio
import anyio.to_thread
import numpy as np
from pydantic import SecretStr

from app.db import documents, embedders
from app.db.chunks import passage
from app.db.documents import Claimed, NewChunk, NewText
from app.db.engine import Sessions
from app.errors import Conflict, DatabaseUnavailable, DocumentRefused, FreshetError
from app.ingest import language
from app.ingest.convert import ConvertedDocument, Converter
from app.ingest.split import Chunk, split
from app.llm.protocols import Embedder, Matrix

logger = logging.getLogger(__name__)

Stage = Literal["converting", "splitting", "embedding", "storing"]

_PASSAGES_A_BATCH = 64
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_GIVE_BACK_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` and `total` are passages, and 0 before there are any."""

    stage: Stage
    done: int = 0
    total: int = 0


OnProgress = Callable[[Progress], None]


class Ingestion:
    """While the database is gone, what was made of a document is kept for `store_patience_s` to be stored."""

    def __init__(
        self,
        sessions: Sessions,
        embedder: Embedder,
        converter: Converter,
        *,
        claim_refresh_s: float = documents.CLAIM_COUNTS_FOR.total_seconds() / 4,
        store_patience_s: float = 300.0,
    ) -> None:
        self._claim_refresh_s = claim_refresh_s
        self._store_patience_s = store_patience_s
        self._sessions = sessions
        self._embedder = embedder
        self._converter = converter
        self._progress: dict[UUID, Progress] = {}
        self._passwords: dict[UUID, SecretStr] = {}

    def progress(self, document_id: UUID) -> Progress | None:
        """How far this process has come with it; None for what it is not working on."""
        return self._progress.get(document_id)

    def remember_password(self, document_id: UUID, password: SecretStr) -> None:
        """Of a document that is about to be ingested. In this process alone, until then: it is never stored."""
        self._passwords[document_id] = password

    async def ingest_next(self) -> bool:
        """Ingests the oldest document that waits. False if none does."""
        async with self._sessions.begin() as session:
            document_id = await documents.claim_next(session)
        if document_id is None:
            return False
        await self.ingest_claimed(document_id)
        return True

    async def ingest_claimed(self, document_id: UUID, on_progress: OnProgress | None = None) -> None:
        """The document is `ready` or `failed` afterwards; `pending` again if this is cancelled."""

        def report(progress: Progress) -> None:
            self._progress[document_id] = progress
            if on_progress is not None:
                on_progress(progress)

        lost: DatabaseUnavailable | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_claim, document_id)
                try:
                    await self._ingest(document_id, report)
                except DatabaseUnavailable as error:
                    lost = error
                tasks.cancel_scope.cancel()
            if lost is not None:
                raise lost
        except BaseException:  # noted that it failed, then raised again
            # Cancelled, or without a database: whoever comes next should not have to wait until the claim has lapsed.
            with anyio.move_on_after(_GIVE_BACK_GRACE_S, shield=True):
                await self._give_back(document_id)
            raise
        finally:
            self._progress.pop(document_id, None)

    async def _ingest(self, document_id: UUID, report: OnProgress) -> None:
        try:
            async with self._sessions.read() as session:
                claimed = await documents.file(session, document_id)
            if claimed is not None:
                text, chunks, embeddings = await self._prepare(document_id, claimed, report)
                report(Progress("storing", len(chunks), len(chunks)))
                await self._finish(document_id, text, chunks, embeddings)
            self._passwords.pop(document_id, None)
        except DatabaseUnavailable:
            raise
        except DocumentRefused as refused:
            await self._fail(document_id, refused.reason, refused.message)
        except FreshetError as error:
            await self._fail(document_id, error.code, error.message)
        except Exception:  # a bug that one document brings out must not keep it, and the others, from ending
            logger.exception("Ingesting document %s failed.", document_id)
            await self._fail(
                document_id, "internal", "An error in Freshet kept the document from being ingested."
            )

    async def _prepare(
        self, document_id: UUID, claimed: Claimed, report: OnProgress
    ) -> tuple[NewText, Sequence[NewChunk], Matrix]:
        report(Progress("converting"))
        password = self._passwords.get(document_id)
        converted = await self._converter.convert(
            claimed.content,
            claimed.file_name,
            declared_type=claimed.declared_type,
            password=password.get_secret_value() if password is not None else None,
        )
        report(Progress("splitting"))
        passages = await anyio.to_thread.run_sync(
            partial(
                split,
                converted,
                count_tokens=self._embedder.count_tokens,
                max_tokens=self._embedder.max_tokens,
            ),
            abandon_on_cancel=True,
        )
        chunks = [_as_new(piece) for piece in passages]
        return _text_of(converted), chunks, await self._embed(chunks, report)

    async def _embed(self, chunks: Sequence[NewChunk], report: OnProgress) -> Matrix:
        texts = [passage(chunk.heading, chunk.text) for chunk in chunks]
        embeddings = np.empty((len(texts), self._embedder.dimensions), np.float32)
        for start in range(0, len(texts), _PASSAGES_A_BATCH):
            report(Progress("embedding", start, len(texts)))
            batch = texts[start : start + _PASSAGES_A_BATCH]
            embeddings[start : start + len(batch)] = await self._embedder.embed_passages(batch)
        return embeddings

    async def _finish(
        self, document_id: UUID, text: NewText, chunks: Sequence[NewChunk], embeddings: Matrix
    ) -> None:
        async def store() -> None:
            async with self._sessions.begin() as session:
                await documents.finish(session, document_id, text, chunks, embeddings)
                # Asked last: whoever changes the embedder keeps others from writing chunks until it is done.
                if not await embedders.is_current(session, self._embedder.name, self._embedder.dimensions):
                    raise Conflict(
                        "Freshet was given another embedder meanwhile. Start this server again, then add the document again."
                    )

        await self._patiently(store)

    async def _fail(self, document_id: UUID, reason: str, message: str) -> None:
        self._passwords.pop(document_id, None)

        async def store() -> None:
            async with self._sessions.begin() as session:
                await documents.fail(session, document_id, reason=reason, message=message)

        await self._patiently(store)

    async def _patiently(self, store: Callable[[], Awaitable[None]]) -> None:
        give_up_at = anyio.current_time() + self._store_patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await store()
            except DatabaseUnavailable:
                if anyio.current_time() >= give_up_at:
                    raise
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _give_back(self, document_id: UUID) -> None:
        try:
            async with self._sessions.begin() as session:
                await documents.give_back(session, document_id)
        except DatabaseUnavailable:
            logger.warning("Document %s waits until its claim has lapsed.", document_id)

    async def _keep_claim(self, document_id: UUID) -> None:
        while True:
            await anyio.sleep(self._claim_refresh_s)
            try:
                async with self._sessions.begin() as session:
                    await documents.keep_claim(session, document_id)
            except DatabaseUnavailable:
                logger.warning("The claim on document %s could not be refreshed.", document_id)


def _as_new(chunk: Chunk) -> NewChunk:
    return NewChunk(chunk.start, chunk.end, chunk.text, chunk.page_label, " > ".join(chunk.headings))


def _text_of(converted: ConvertedDocument) -> NewText:
    return NewText(
        text=converted.text,
        media_type=converted.media_type,
        kind=converted.kind,
        title=converted.title,
        language=language.detect(converted.text),
        pages=[(page.label, page.start, page.end) for page in converted.pages],
        warnings=converted.warnings,
    )
