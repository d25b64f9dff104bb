"""From a stored file to passages that can be found: converted, split, embedded, and then made searchable in one transaction."""

import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from uuid import UUID

import anyio
import anyio.to_thread
import numpy as np
from anyio.abc import TaskGroup
from pydantic import SecretStr

from app.db import embedders, ingestions
from app.db.chunks import passage
from app.db.documents import Progress
from app.db.engine import Sessions
from app.db.ingestions import Claim, Claimed, NewChunk, NewText
from app.db.queue import Job, Later
from app.errors import Conflict, DatabaseUnavailable, DocumentRefused, FreshetError
from app.ingest import language
from app.ingest.convert import ConvertedDocument, Converter
from app.ingest.split import Chunk, split
from app.llm.protocols import Embedder, Matrix

logger = logging.getLogger(__name__)

_PASSAGES_A_BATCH = 32
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_GIVE_BACK_GRACE_S = 2.0

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a document is tried whose ingestion fails for a reason that may pass, and the pauses between: the first of
    about `first_pause_s`, each twice as long as the one before, at most `longest_pause_s`, and none just as long as planned,
    so that those that failed together do not come back together."""

    attempts: int = 6
    first_pause_s: float = 10.0
    longest_pause_s: float = 600.0

    def pause_after(self, attempt: int) -> timedelta:
        planned_s = min(self.first_pause_s * 2 ** (attempt - 1), self.longest_pause_s)
        return timedelta(seconds=planned_s * random.uniform(0.75, 1.25))  # noqa: S311  # guards no secret


class Ingestion:
    """While the database is gone, what was made of a document is kept for `store_patience_s` to be stored."""

    def __init__(
        self,
        sessions: Sessions,
        embedder: Embedder,
        converter: Converter,
        *,
        retries: Retries | None = None,
        tell_every_s: float = 1.0,
        store_patience_s: float = 300.0,
    ) -> None:
        self._sessions = sessions
        self._embedder = embedder
        self._converter = converter
        self._retries = retries or Retries()
        self._tell_every_s = tell_every_s
        self._store_patience_s = store_patience_s
        self._passwords: dict[UUID, SecretStr] = {}
        self._here: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """In the block, documents can be begun here; at its end, those that are not done are given back."""
        async with anyio.create_task_group() as self._here:
            try:
                yield
            finally:
                self._here.cancel_scope.cancel()
                self._here = None

    def begin_here(self, document_id: UUID, job_id: int, password: SecretStr) -> None:
        """A document that this process alone can open: the password is in its memory until then, and never stored."""
        assert self._here is not None
        self._here.start_soon(self._ingest_in_background, document_id, job_id, password)

    async def ingest_here(
        self,
        document_id: UUID,
        job_id: int,
        password: SecretStr | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """All attempts, whose job has been put off long enough for the queue; unless another process is already at it."""
        if password is not None:
            self._passwords[document_id] = password
        try:
            while True:
                claim = await self.claim(document_id, job_id)
                if claim is None or isinstance(claim, timedelta):
                    return None
                try:
                    return await self.ingest(claim, on_progress)
                except Later as later:
                    await anyio.sleep(later.after.total_seconds())
        finally:
            self._passwords.pop(document_id, None)

    async def _ingest_in_background(self, document_id: UUID, job_id: int, password: SecretStr) -> None:
        try:
            await self.ingest_here(document_id, job_id, password)
        except DatabaseUnavailable:
            logger.warning("Document %s, which needs its password, is left to the queue.", document_id)

    async def do(self, job: Job) -> None:
        """One attempt. Raises `Later` if another is to come."""
        document_id = UUID(job.payload.decode())
        claim = await self.claim(document_id, job.id)
        if isinstance(claim, timedelta):
            raise Later(claim)
        if claim is not None:
            await self.ingest(claim)

    async def claim(self, document_id: UUID, job_id: int) -> Claim | timedelta | None:
        """None if the job is none any more; or for how long somebody else's claim yet counts."""
        async with self._sessions.begin() as session:
            return await ingestions.claim(session, document_id, job_id)

    async def ingest(self, claim: Claim, on_progress: OnProgress | None = None) -> None:
        """The document is `ready` or `failed` afterwards, or, if the claim was lost, what others have made of it.

        Raises `Later` if another attempt is to come. If this is cancelled, the document waits again.
        """
        attempt = _Attempt(on_progress)
        later: Later | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_claim, claim, attempt, tasks.cancel_scope)
                later = await self._try(claim, attempt)
                tasks.cancel_scope.cancel()
        except BaseException:  # noted that it failed, then raised again
            await self._give_back(claim)  # noqa: ASYNC102  # shielded, and limited
            raise
        if later is not None:
            raise later

    async def _try(self, claim: Claim, attempt: "_Attempt") -> Later | None:
        """When another attempt is to come; None if this was the last."""
        if claim.attempt > self._retries.attempts:
            message = f"The process that ingested it ended {self._retries.attempts} times."
            return await self._fail(claim, "crashed", message)
        later = Later(self._retries.pause_after(claim.attempt))
        try:
            return await self._ingest(claim, attempt)
        except DatabaseUnavailable:
            logger.warning("Document %s is left for later: there is no database.", claim.document_id)
            await self._give_back(claim)
            return later
        except DocumentRefused as refused:
            return await self._fail(claim, refused.reason, refused.message)
        except FreshetError as error:
            if error.retryable and claim.attempt < self._retries.attempts:
                await self._put_off(claim, error.message)
                return later
            return await self._fail(claim, error.code, error.message)
        except Exception:  # a bug that one document brings out must not keep it, and the others, from ending
            logger.exception("Ingesting document %s failed.", claim.document_id)
            message = "An error in Freshet kept the document from being ingested."
            return await self._fail(claim, "internal", message)

    async def _ingest(self, claim: Claim, attempt: "_Attempt") -> None:
        async with self._sessions.read() as session:
            claimed = await ingestions.file(session, claim.document_id)
        if claimed is not None:
            text, chunks, embeddings = await self._prepare(claim, claimed, attempt)
            attempt.report(stage="storing", seconds_left=None)
            await self._finish(claim, text, chunks, embeddings, reused=attempt.progress.reused)

    async def _prepare(
        self, claim: Claim, claimed: Claimed, attempt: "_Attempt"
    ) -> tuple[NewText, Sequence[NewChunk], Matrix]:
        attempt.report(stage="converting")
        password = self._passwords.get(claim.document_id)
        converted = await self._converter.convert(
            claimed.content,
            claimed.file_name,
            declared_type=claimed.declared_type,
            password=password.get_secret_value() if password is not None else None,
        )
        attempt.report(stage="splitting")
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
        return _text_of(converted), chunks, await self._embed(claim, chunks, attempt)

    async def _embed(self, claim: Claim, chunks: Sequence[NewChunk], attempt: "_Attempt") -> Matrix:
        """What the document says already is not embedded again."""
        async with self._sessions.read() as session:
            known = await ingestions.embedded(session, claim.document_id)
        embeddings = np.empty((len(chunks), self._embedder.dimensions), np.float32)
        new: list[int] = []
        for index, chunk in enumerate(chunks):
            vector = known.get((chunk.heading, chunk.text))
            if vector is None:
                new.append(index)
            else:
                embeddings[index] = vector
        reused = len(chunks) - len(new)
        attempt.begin_embedding(reused, len(chunks))
        for start in range(0, len(new), _PASSAGES_A_BATCH):
            batch = new[start : start + _PASSAGES_A_BATCH]
            texts = [passage(chunks[index].heading, chunks[index].text) for index in batch]
            embeddings[batch] = await self._embedder.embed_passages(texts)
            attempt.embedded(reused + start + len(batch))
        return embeddings

    async def _finish(
        self, claim: Claim, text: NewText, chunks: Sequence[NewChunk], embeddings: Matrix, *, reused: int
    ) -> None:
        async def store() -> None:
            async with self._sessions.begin() as session:
                await ingestions.finish(session, claim, text, chunks, embeddings, reused=reused)
                # Asked last: whoever changes the embedder keeps others from writing chunks until it is done.
                if not await embedders.is_current(session, self._embedder.name, self._embedder.dimensions):
                    raise Conflict(
                        "Freshet was given another embedder meanwhile. Start this server again, then add the document again."
                    )

        await self._patiently(store)

    async def _put_off(self, claim: Claim, problem: str) -> None:
        async def store() -> None:
            async with self._sessions.begin() as session:
                await ingestions.put_off(session, claim, problem)

        await self._patiently(store)

    async def _fail(self, claim: Claim, reason: str, message: str) -> None:
        async def store() -> None:
            async with self._sessions.begin() as session:
                await ingestions.fail(session, claim, reason=reason, message=message)

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

    async def _give_back(self, claim: Claim) -> None:
        """Whoever comes next should not have to wait until the claim has lapsed."""
        with anyio.move_on_after(_GIVE_BACK_GRACE_S, shield=True):
            try:
                async with self._sessions.begin() as session:
                    await ingestions.give_back(session, claim)
            except DatabaseUnavailable:
                logger.warning("Document %s waits until its claim has lapsed.", claim.document_id)

    async def _keep_claim(self, claim: Claim, attempt: "_Attempt", work: anyio.CancelScope) -> None:
        """Ends the work if the claim has been lost."""
        while True:
            await anyio.sleep(self._tell_every_s)
            try:
                async with self._sessions.begin() as session:
                    if not await ingestions.keep_claim(session, claim, attempt.progress):
                        return work.cancel()
            except DatabaseUnavailable:
                logger.warning("The claim on document %s could not be refreshed.", claim.document_id)


class _Attempt:
    """How far it has come."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._reused = 0
        self._embedding_since = 0.0
        self.progress = Progress("converting")

    def report(self, **changed: object) -> None:
        self.progress = replace(self.progress, **changed)
        if self._on_progress is not None:
            self._on_progress(self.progress)

    def begin_embedding(self, reused: int, total: int) -> None:
        self._embedding_since = anyio.current_time()
        self._reused = reused
        self.report(stage="embedding", done=reused, total=total, reused=reused)

    def embedded(self, done: int) -> None:
        """`done` passages, with those that had been embedded before."""
        taken_s = anyio.current_time() - self._embedding_since
        left_s = taken_s / (done - self._reused) * (self.progress.total - done)
        self.report(done=done, seconds_left=round(left_s, 1))


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
