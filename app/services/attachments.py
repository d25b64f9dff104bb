"""What is attached to a session: documents that are found in that session alone, and go with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import anyio
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import assistants, collections, documents, sessions
from app.db.assistants import AssistantForTurn
from app.db.documents import DocumentView, NewFile
from app.db.engine import Sessions
from app.errors import AttachmentNotReady, Conflict, DocumentRefused, NotFound, Unauthenticated
from app.services import files
from app.services.ownership import require_visible
from app.services.session_ids import checked_session_id
from app.services.viewer import Viewer
from app.settings import AttachmentSettings

_LOOK_EVERY_S = 0.2
# Of an assistant that looks for nothing in its own documents.
_TOP_K = 6


@dataclass(frozen=True, slots=True)
class NewAttachment:
    file_name: str
    content: bytes
    declared_type: str | None = None


class AttachmentService:
    def __init__(self, database: Sessions, settings: AttachmentSettings) -> None:
        self._database = database
        self._max_bytes = settings.attachment_max_bytes
        self._a_session = settings.attachments_per_session
        self._wait_s = settings.attachment_wait_s

    async def checked(self, attachments: Sequence[UUID | NewAttachment]) -> list[UUID | NewFile]:
        """Raises `InvalidInput` for a name, `DocumentRefused` for a file that is empty, `TooLarge`."""
        return [
            attachment
            if isinstance(attachment, UUID)
            else await files.checked(
                attachment.file_name,
                attachment.content,
                attachment.declared_type,
                max_bytes=self._max_bytes,
            )
            for attachment in attachments
        ]

    async def attach(
        self, session: AsyncSession, session_id: str, given: Sequence[UUID | NewFile]
    ) -> tuple[UUID, ...]:
        """To a session whose row is held, in the transaction: what is new is ingested in the background. The same bytes are the
        same document. Raises `Conflict` if there are too many, and `NotFound` for an id of none that is attached."""
        ids = [one for one in given if isinstance(one, UUID)]
        await self._require_attached(session, session_id, ids)
        new = [one for one in given if not isinstance(one, UUID)]
        ids += [await self._attach(session, session_id, file) for file in new]
        return tuple(dict.fromkeys(ids))

    async def _attach(self, session: AsyncSession, session_id: str, file: NewFile) -> UUID:
        found = await collections.of_session(session, session_id)
        collection_id = (
            found.ids[0] if found is not None else await collections.make_for_session(session, session_id)
        )
        known, is_new = await documents.add(session, collection_id, file)
        if is_new and await documents.count(session, collection_id) > self._a_session:
            raise Conflict(f"At most {self._a_session} files are attached to a session. Delete one of them.")
        if is_new or known.status in {"failed", "cancelled"}:
            await files.give(session, known, file)
        return known.id

    async def _require_attached(
        self, session: AsyncSession, session_id: str, document_ids: Sequence[UUID]
    ) -> None:
        found = {document.id for document in await _those(session, session_id, document_ids)}
        for document_id in document_ids:
            if document_id not in found:
                raise NotFound("attachment", document_id)

    async def add(self, session_id: str, viewer: Viewer, attachment: NewAttachment) -> DocumentView:
        """The session is opened if there is none. Raises as `checked` and `attach` do, `Unauthenticated` for who has nobody to
        ask, and `NotFound` for another user's session."""
        files_to_add = await self.checked([attachment])
        session_id = checked_session_id(session_id, viewer)
        async with self._database.begin() as session:
            if viewer.account is None and not await assistants.any_for_strangers(session):
                raise Unauthenticated(
                    viewer.refusal or "This needs a user: send an access token or an API key as a bearer."
                )
            await sessions.open_session(session, session_id, user_id=viewer.user_id, assistant_id=None)
            (document_id,) = await self.attach(session, session_id, files_to_add)
            document = await documents.get(session, document_id)
        assert document is not None, "its session is held"
        return document

    async def page(self, session_id: str, viewer: Viewer) -> list[DocumentView]:
        """All of them, the newest first. Raises `NotFound`."""
        async with self._database.read() as session:
            await require_visible(session, session_id, viewer)
            found = await collections.of_session(session, session_id)
            if found is None:
                return []
            return await documents.page(
                session, collection_id=found.ids[0], statuses=(), before=None, limit=self._a_session
            )

    async def remove(self, session_id: str, viewer: Viewer, document_id: UUID) -> None:
        """Raises `NotFound`."""
        async with self._database.begin() as session:
            await require_visible(session, session_id, viewer)
            await self._require_attached(session, session_id, [document_id])
            await documents.remove(session, document_id)

    async def ready(self, session_id: str, document_ids: Sequence[UUID]) -> list[str]:
        """The names of these files, once all of them can be found. Holds no connection while it waits.

        Raises `DocumentRefused` for one that cannot be read, `NotFound` for one that is deleted, `AttachmentNotReady`.
        """
        with anyio.move_on_after(self._wait_s):
            while True:
                async with self._database.read() as session:
                    found = await _those(session, session_id, document_ids)
                for document in found:
                    if document.status in {"failed", "cancelled"}:
                        why = document.error_message or "Its reading was called off."
                        raise DocumentRefused(
                            document.error_reason or "cancelled", f"{document.file_name}: {why}"
                        )
                if len(found) < len(set(document_ids)):
                    raise NotFound("attachment", "any more")
                if all(document.status == "ready" for document in found):
                    return [document.file_name for document in found]
                await anyio.sleep(_LOOK_EVERY_S)
        raise AttachmentNotReady


async def within_reach(
    session: AsyncSession, session_id: str, assistant: AssistantForTurn
) -> AssistantForTurn:
    """The assistant as it answers in this session: with what is attached to it, if anything is."""
    attached = await collections.of_session(session, session_id)
    if attached is None:
        return assistant
    return replace(
        assistant,
        collection_ids=(*assistant.collection_ids, *attached.ids),
        chunk_count=assistant.chunk_count + attached.chunk_count,
        top_k=assistant.top_k or _TOP_K,
    )


async def _those(session: AsyncSession, session_id: str, document_ids: Sequence[UUID]) -> list[DocumentView]:
    found = await collections.of_session(session, session_id) if document_ids else None
    return await documents.those_of(session, found.ids[0], document_ids) if found is not None else []
