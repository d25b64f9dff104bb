"""What was saved of OpenAI's Assistants API, made into collections, documents, assistants and sessions.

What is made has an id that follows from the one it had, so that another import finds it, and leaves it as it is.
"""

import re
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid5

from anyio import to_thread
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import assistants, collections, documents, imports, sessions
from app.db.engine import Sessions
from app.db.imports import PastMessage
from app.errors import Conflict, DatabaseUnavailable, FreshetError, InvalidInput, NotFound
from app.ingest.openai_export import (
    Export,
    FileOfVectorStore,
    Found,
    SavedAssistant,
    SavedFile,
    SavedMessage,
    SavedThread,
    SavedVectorStore,
)
from app.services import files, past_messages
from app.services.assistants import slugs
from app.services.chat import checked_session_id
from app.services.knowledge import LONGEST_NAME, KnowledgeService
from app.services.past_messages import CitedDocument
from app.services.vector_stores import UPLOADS
from app.services.viewer import Viewer

Kind = Literal["collections", "documents", "assistants", "sessions", "messages"]
Outcome = Literal["made", "changed", "unchanged"]

_IDS = UUID("6f1b7f0e-3c52-4d0c-9a55-0a7e5b1d8c11")
_LONGEST_NAME_OF_ASSISTANT = 200
_LONGEST_INSTRUCTIONS = 50_000
_LONGEST_DESCRIPTION = 2_000
_HELD_TOOLS = {"file_search"}
_UNFIT = re.compile(r"[/\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Remark:
    """About the thing that had this id, if it could be told, in this file of the export."""

    file: str
    id: str
    text: str


@dataclass(slots=True)
class Report:
    """`refused` is what was not made, and why; `notes` say what was left out of what was. `cited` counts the citations that are
    kept as sources of their messages, without a place in the document, as none was told."""

    counts: dict[Kind, Counter[Outcome]] = field(default_factory=dict[Kind, "Counter[Outcome]"])
    refused: list[Remark] = field(default_factory=list[Remark])
    notes: list[Remark] = field(default_factory=list[Remark])
    cited: int = 0

    def count(self, kind: Kind, outcome: Outcome) -> None:
        self.counts.setdefault(kind, Counter())[outcome] += 1


def id_of(origin: str) -> UUID:
    """Of what is made of the thing that had this id."""
    return uuid5(_IDS, origin)


class Importer:
    """Threads become sessions of the viewer, an anonymous one's those of whoever knows their ids. A dry run writes nothing."""

    def __init__(
        self,
        database: Sessions,
        knowledge: KnowledgeService,
        export: Export,
        viewer: Viewer,
        *,
        dry_run: bool,
    ) -> None:
        self._database = database
        self._knowledge = knowledge
        self._export = export
        self._viewer = viewer
        self._dry_run = dry_run
        self._stores_of: dict[str, list[str]] = {}
        for found in export.of(FileOfVectorStore):
            self._stores_of.setdefault(found.thing.id, []).append(found.thing.vector_store_id)
        self._messages_of: dict[str, list[Found[SavedMessage]]] = {}
        for message in export.of(SavedMessage):
            self._messages_of.setdefault(message.thing.thread_id or "", []).append(message)
        self.report = Report(refused=[Remark(one.file, one.id, one.reason) for one in export.unread])

    async def run(self, on_progress: Callable[[int, int], None]) -> Report:
        """Each thing in a transaction of its own; tells how many are done, of how many. Raises `DatabaseUnavailable`."""
        threads = self._export.of(SavedThread)
        known = {found.thing.id for found in threads}
        # Of messages alone a thread can be made as well.
        threads += [
            Found(messages[0].file, SavedThread(thread_id))
            for thread_id, messages in self._messages_of.items()
            if thread_id not in known
        ]
        work: list[tuple[Found[Any], Callable[[Found[Any]], Coroutine[Any, Any, None]]]] = [
            *((found, self._collection) for found in self._export.of(SavedVectorStore)),
            *((found, self._documents) for found in self._export.of(SavedFile)),
            *((found, self._assistant) for found in self._export.of(SavedAssistant)),
            *((found, self._session) for found in threads),
        ]
        for done, (found, make) in enumerate(work):
            on_progress(done, len(work))
            try:
                await make(found)
            except DatabaseUnavailable:
                raise
            except FreshetError as refused:
                self.report.refused.append(Remark(found.file, found.thing.id, refused.message))
        return self.report

    async def _collection(self, found: Found[SavedVectorStore]) -> None:
        store = found.thing
        async with self._database.begin() as session:
            if await imports.is_collection(session, id_of(store.id)):
                self.report.count("collections", "unchanged")
                return
            if not self._dry_run:
                name = _UNFIT.sub("-", store.name or "").strip()[:LONGEST_NAME].strip() or store.id
                fallback = f"{name[: LONGEST_NAME - len(store.id) - 3]} ({store.id})"
                description = f"The vector store {store.id}."
                for candidate in (name, fallback):
                    if await collections.insert_new(
                        session, candidate, description, collection_id=id_of(store.id)
                    ):
                        break
                else:
                    raise Conflict(f"There is a collection {fallback} already.")
        self.report.count("collections", "made")

    async def _documents(self, found: Found[SavedFile]) -> None:
        """One in each of its vector stores that there are; without any, among the uploads."""
        file = found.thing
        path = self._export.contents.get(file.id)
        if path is None:
            raise NotFound("content of the file", file.filename or file.id)
        content = await to_thread.run_sync(_content, path, self._knowledge.max_upload_bytes)
        name = file.filename or path.name
        stores = dict.fromkeys(self._stores_of.get(file.id, ()))
        known = {one.thing.id for one in self._export.of(SavedVectorStore)}
        for store in stores.keys() - known:
            self._note(found, f"Its vector store {store} is not among what was saved.")
        for store in [store for store in stores if store in known] or [None]:
            collection = str(id_of(store)) if store is not None else UPLOADS
            if self._dry_run:
                await files.checked(name, content, None, max_bytes=self._knowledge.max_upload_bytes)
                outcome = await self._would_put(collection, file.id)
            else:
                document, done = await self._knowledge.put(collection, file.id, name, content)
                outcome = "made" if done == "added" else done
                if document.error_message is not None:
                    self._note(found, document.error_message)
            self.report.count("documents", outcome)

    async def _would_put(self, collection: str, origin: str) -> Outcome:
        async with self._database.begin() as session:
            try:
                collection_id = (await collections.get(session, collection)).id
            except NotFound:
                return "made"
            there = await documents.id_of_origin(session, collection_id, origin)
        return "unchanged" if there is not None else "made"

    async def _assistant(self, found: Found[SavedAssistant]) -> None:
        saved = found.thing
        name = " ".join((saved.name or "").split()) or saved.id
        fields: dict[str, Any] = {
            "id": id_of(saved.id),
            "name": name[:_LONGEST_NAME_OF_ASSISTANT],
            "description": (saved.description or "")[:_LONGEST_DESCRIPTION],
            "instructions": saved.instructions or "",
            "model": saved.model,
            "model_parameters": {
                parameter: value
                for parameter, value in (("temperature", saved.temperature), ("top_p", saved.top_p))
                if value is not None
            },
            # It may answer from documents that were nobody's but their owner's.
            "user_authentication": True,
        }
        if len(fields["instructions"]) > _LONGEST_INSTRUCTIONS:
            raise InvalidInput(f"Its instructions are longer than {_LONGEST_INSTRUCTIONS:,} characters.")
        async with self._database.begin() as session:
            if await imports.is_assistant(session, id_of(saved.id)):
                self.report.count("assistants", "unchanged")
                return
            collection_ids = await self._collections_of(session, found)
            if not self._dry_run:
                for slug in slugs(name):
                    if await assistants.insert_new(session, {**fields, "slug": slug}) is not None:
                        break
                else:
                    raise Conflict(f"There is an assistant {slugs(name)[0]} already.")
                await assistants.set_collections(session, id_of(saved.id), collection_ids)
        for tool in dict.fromkeys(tool.type for tool in saved.tools if tool.type not in _HELD_TOOLS):
            self._note(found, f"Its tool {tool[:50]} is left out.")
        self.report.count("assistants", "made")

    async def _collections_of(self, session: AsyncSession, found: Found[SavedAssistant]) -> list[UUID]:
        resources = found.thing.tool_resources
        search = resources.file_search if resources is not None else None
        ids: list[UUID] = []
        for store in search.vector_store_ids if search is not None else ():
            if await imports.is_collection(session, id_of(store)):
                ids.append(id_of(store))
            elif not self._dry_run:
                self._note(found, f"Its vector store {store} is not among what was saved.")
        return ids

    async def _session(self, found: Found[SavedThread]) -> None:
        thread_id = found.thing.id
        checked_session_id(thread_id, self._viewer)
        async with self._database.begin() as session:
            owner = await sessions.owner_of(session, thread_id)
            if owner is not None and owner[0] not in {None, self._viewer.user_id}:
                raise Conflict("There is a session of this id, and it is another user's.")
            if owner is not None:
                await self._compare(session, thread_id)
                return
            past = await self._past_messages(session, thread_id)
            if not self._dry_run:
                began = datetime.fromtimestamp(found.thing.created_at or 0, UTC)
                times = [message.created_at for message in past]
                await imports.add_session(
                    session,
                    thread_id,
                    user_id=self._viewer.user_id,
                    assistant_id=await self._assistant_of(session, thread_id),
                    created_at=began if found.thing.created_at else min(times, default=datetime.now(UTC)),
                    last_active_at=max(times, default=began),
                )
                await imports.add_messages(session, thread_id, past)
        self.report.count("sessions", "made")
        for _ in past:
            self.report.count("messages", "made")

    async def _compare(self, session: AsyncSession, thread_id: str) -> None:
        """A conversation that is there may have gone on: nothing is put into its middle."""
        there = await imports.message_ids(session, thread_id)
        self.report.count("sessions", "unchanged")
        for message in self._messages_of.get(thread_id, ()):
            if id_of(message.thing.id) in there:
                self.report.count("messages", "unchanged")
            else:
                self._refuse(message, "The session was imported without it; erase that, and import it again.")

    async def _past_messages(self, session: AsyncSession, thread_id: str) -> list[PastMessage]:
        found_by_id = {found.thing.id: found for found in self._messages_of.get(thread_id, ())}
        past: list[PastMessage] = []
        for message in past_messages.in_order([found.thing for found in found_by_id.values()]):
            found = found_by_id[message.id]
            parent_id = past[-1].id if past else None
            cited = await self._cited(session, found)
            try:
                past.append(past_messages.past_message(message, id_of(message.id), parent_id, cited))
            except InvalidInput as refused:
                self._refuse(found, refused.message)
                continue
            for part in past_messages.left_out(message):
                self._note(found, f"Its part of type {part[:50]} is left out.")
        if past and await imports.any_message(session, [message.id for message in past]):
            raise Conflict("Some of its messages are in another session.")
        return past

    async def _cited(self, session: AsyncSession, found: Found[SavedMessage]) -> dict[str, CitedDocument]:
        cited: dict[str, CitedDocument] = {}
        for file_id, times in Counter(past_messages.cited_files(found.thing)).items():
            document = await imports.document_of_origin(session, file_id)
            if document is not None:
                cited[file_id] = CitedDocument(*document)
                self.report.cited += times
            elif not self._dry_run:
                self._note(found, f"It cites the file {file_id[:100]}, which is not here.")
        return cited

    async def _assistant_of(self, session: AsyncSession, thread_id: str) -> UUID | None:
        for found in reversed(self._messages_of.get(thread_id, ())):
            assistant_id = id_of(found.thing.assistant_id or "")
            if found.thing.assistant_id and await imports.is_assistant(session, assistant_id):
                return assistant_id
        return None

    def _note(self, found: Found[Any], text: str) -> None:
        self.report.notes.append(Remark(found.file, found.thing.id, text))

    def _refuse(self, found: Found[SavedMessage], reason: str) -> None:
        self.report.refused.append(Remark(found.file, found.thing.id, reason))


def _content(path: Path, limit: int) -> bytes:
    """No more of it than tells that it is too large."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise InvalidInput(f"Its content cannot be read: {error.strerror}.") from error
