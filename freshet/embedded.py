"""The parts of the server, opened for as long as a block lasts, and asked without HTTP."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

from anyio import to_thread
from pydantic import SecretStr

from app.cli.database import embedded_server, ready_schema, with_url
from app.db.assistants import AssistantView
from app.db.chunks import Hit
from app.db.documents import DocumentView, Progress
from app.errors import Conflict, DocumentRefused, InvalidInput, of_code
from app.events import Citation, Done, Error, Event, Source, Sources, Start, Tokens, TokenUsage, decode
from app.llm.protocols import ChatModel, Embedder
from app.rag.retrieval import Query
from app.resources import Resources, open_resources
from app.services.assistants import AssistantChange, NewAssistant
from app.services.attachments import NewAttachment
from app.services.chat import Asked, OnBusy
from app.services.knowledge import DEFAULT_COLLECTION
from app.services.viewer import ANONYMOUS, Viewer
from app.settings import Settings


class Asking(TypedDict, total=False):
    """What may go along with a question.

    `assistant` is a slug or an id; without one, the oldest that is for everybody answers. `session_id` is that of an earlier
    answer, to go on with its conversation. `user` is the email of who asks. `attachments` are files for this session alone.
    """

    assistant: str
    session_id: str
    user: str
    language: str
    attachments: Sequence[Path]
    on_busy: OnBusy


@dataclass(slots=True)
class Answer:
    """`status` is `completed`, or `stopped`. Offsets of the citations count characters of `text` and of their source's."""

    text: str = ""
    session_id: str = ""
    message_id: str = ""
    status: str = ""
    sources: list[Source] = field(default_factory=list[Source])
    citations: list[Citation] = field(default_factory=list[Citation])
    usage: TokenUsage | None = None


class Freshet:
    """`async with Freshet() as freshet: …`, entered and left by the same task. Answers that are still being made at the end are
    kept as far as they came.

    Settings are those of docs/operations.md in small letters, as `Freshet(freshet_data_dir="data")`; what is not given is
    read from the environment and .env, as the server does. Without a `database_url`, an embedded PostgreSQL is started under
    `freshet_data_dir`, or the one is used that runs there. `model` and `embedder` take the place of those that the settings name.

    Entering raises `errors.StartupRefused` with what to do about it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        model: ChatModel | None = None,
        embedder: Embedder | None = None,
        **named: Any,
    ) -> None:
        if settings is not None and named:
            raise InvalidInput("Give either Settings or single settings by their names.")
        self._settings = settings
        self._named = named
        self._model = model
        self._embedder = embedder
        self._opened: AsyncExitStack | None = None
        self._resources: Resources | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings or Settings.load(self._named)
        async with AsyncExitStack() as stack:
            reached = settings
            if settings.database.database_url is None:
                postgres = embedded_server(settings)
                stack.push_async_callback(to_thread.run_sync, postgres.stop)
                reached = with_url(settings, await to_thread.run_sync(postgres.start))
            await ready_schema(settings, reached)
            self._resources = await stack.enter_async_context(
                open_resources(
                    reached,
                    model=self._model,
                    embedder=self._embedder,
                    works=settings.ingest.ingest_in_server,
                )
            )
            self._opened = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, self._opened, self._resources = self._opened, None, None
        assert opened is not None, "it has been entered"
        # Without the error, which the task groups inside would wrap: it is the caller's, and goes on as it is.
        await opened.aclose()

    async def assistant(self, slug: str, /, **fields: Unpack[AssistantChange]) -> AssistantView:
        """The assistant of this slug, with these fields: made if there is none, else changed. `collections` are those that it
        answers from; what else there is, docs/protocol.md tells. Raises `InvalidInput`."""
        assistants = self._parts.assistants
        named = NewAssistant(name=fields.get("name", slug))
        try:
            return await assistants.create(**{**fields, **named, "slug": slug})
        except Conflict:
            return await assistants.change(slug, **fields)

    async def ingest(
        self,
        source: Path | str | bytes,
        *,
        collection: str = DEFAULT_COLLECTION,
        file_name: str | None = None,
        password: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> DocumentView:
        """A file by its path, or the bytes of one that is called `file_name`; it can be found when this returns.

        The same bytes in one collection are one document. Raises `DocumentRefused` for a file that cannot be read, `TooLarge`,
        `InvalidInput`, and `OSError` for a path that leads to no file.
        """
        if isinstance(source, bytes):
            content, name = source, file_name
        else:
            path = Path(source)
            content, name = await to_thread.run_sync(path.read_bytes), file_name or path.name
        if name is None:
            raise InvalidInput("Bytes need a file_name, whose ending may tell what they are.")
        document = await self._parts.knowledge.ingest_now(
            collection,
            name,
            content,
            password=SecretStr(password) if password is not None else None,
            on_progress=on_progress,
        )
        if document.error_reason is not None:
            raise DocumentRefused(document.error_reason, document.error_message or "It cannot be read.")
        return document

    async def search(
        self,
        question: str,
        *,
        collection: str | Sequence[str] = DEFAULT_COLLECTION,
        limit: int = 6,
        similarity_cutoff: float = 0.3,
    ) -> list[Hit]:
        """The best passages of the collections first, at most 50. Raises `NotFound` for a collection that there is none of."""
        knowledge = self._parts.knowledge
        reach = await knowledge.reach([collection] if isinstance(collection, str) else collection)
        query = Query(
            question=question,
            collection_ids=reach.ids,
            chunk_count=reach.chunk_count,
            top_k=limit,
            similarity_cutoff=similarity_cutoff,
        )
        return await knowledge.search(query)

    async def ask(self, question: str, **along: Unpack[Asking]) -> Answer:
        """The whole answer. Raises why there is none, such as `NotFound` or `ModelFailed`."""
        answer = Answer()
        async with aclosing(self.stream(question, **along)) as events:
            async for event in events:
                _add(answer, event)
        return answer

    async def stream(self, question: str, **along: Unpack[Asking]) -> AsyncGenerator[Event]:
        """The events of the answer as they come, the last of which is a `Done` or an `Error`. Leaving does not end the answer.

        Raises what is refused before the answer has begun.
        """
        parts = self._parts
        viewer = ANONYMOUS
        if "user" in along:
            viewer = Viewer(await parts.accounts.find_user(along["user"]))
        asked = Asked(
            message=question,
            assistant=along.get("assistant") or await parts.assistants.default(),
            session_id=along.get("session_id"),
            language=along.get("language"),
            attachments=tuple([await _attachment(path) for path in along.get("attachments", ())]),
            on_busy=along.get("on_busy", "reject"),
        )
        followed = await parts.chat.begin(asked, viewer)
        async with aclosing(followed.follow(after=0)) as batches:
            async for batch in batches:
                for line in batch.lines:
                    yield decode(line)

    @property
    def _parts(self) -> Resources:
        if self._resources is None:
            raise InvalidInput("Freshet is used within `async with Freshet() as freshet`.")
        return self._resources


async def _attachment(path: Path) -> NewAttachment:
    return NewAttachment(path.name, await to_thread.run_sync(path.read_bytes))


def _add(answer: Answer, event: Event) -> None:
    match event:
        case Start():
            answer.session_id, answer.message_id = event.session_id, event.message_id
        case Sources():
            answer.sources = event.data
        case Tokens():
            answer.text += "".join(event.contents)
        case Citation():
            answer.citations.append(event)
        case Done():
            answer.status, answer.usage = event.status, event.usage
        case Error():
            raise of_code(event.code, event.message)
        case _:
            pass
