"""The tables. Migrations are written by hand beside them, and a test holds the two together.

Identifiers are UUIDs made in Python, so that they are known before the row is; times are UTC, and the database's own clock.
What a row is ordered by is a `position` that the database counts, as clocks of several processes disagree.
"""

from datetime import datetime
from typing import Any, ClassVar, cast
from uuid import UUID, uuid4

import sqlalchemy
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    func,
    true,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_TIME = DateTime(timezone=True)


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        datetime: _TIME,
        UUID: Uuid(as_uuid=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
        list[str]: JSONB(none_as_null=True),
        bytes: LargeBinary,
        float: Double,
    }


def columns_of(entity: type[Table]) -> "sqlalchemy.Table[Any]":
    """The table itself: statements on it, and not on the entity, do without the ORM, which costs about 100 µs each."""
    return cast("sqlalchemy.Table[Any]", entity.__table__)


def _id() -> Mapped[UUID]:
    return mapped_column(Uuid(as_uuid=True), primary_key=True, default=uuid4)


def _created() -> Mapped[datetime]:
    return mapped_column(_TIME, server_default=func.now())


class User(Table):
    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("role IN ('admin', 'user')", name="role"),
        CheckConstraint("email = lower(email)", name="email"),
    )

    id: Mapped[UUID] = _id()
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(server_default="")
    password_hash: Mapped[str]
    role: Mapped[str]
    is_active: Mapped[bool] = mapped_column(server_default=true())
    created_at: Mapped[datetime] = _created()


class RefreshToken(Table):
    """`family_id` is shared by all tokens that descend from one login; a used token seen again ends its family."""

    __tablename__ = "refresh_tokens"

    id: Mapped[UUID] = _id()
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    family_id: Mapped[UUID] = mapped_column(index=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = _created()
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class ApiKey(Table):
    """`prefix` is what may be shown of the key; the key itself is known to its owner alone."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = _id()
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]
    key_hash: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = _created()
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class LoginFailures(Table):
    """How often login failed of late, by `subject`: `account:<email>` or `address:<ip>`."""

    __tablename__ = "login_failures"

    subject: Mapped[str] = mapped_column(primary_key=True)
    failures: Mapped[int]
    last_failed_at: Mapped[datetime]


class Assistant(Table):
    """`collection_ids` of an assistant are the rows of `assistant_collections`; none means that it answers from no documents.

    `answer_cache_s` is for how long its answers are given again, in seconds; null: never. `unread_limit_s` is for how long its answers go on without a reader, in seconds; null: to their end.
    `tools` are those that its model may have called, as `server/tool`.
    """

    __tablename__ = "assistants"
    __table_args__ = (
        CheckConstraint("unread_limit_s >= 0", name="unread_limit_s"),
        CheckConstraint("top_k BETWEEN 0 AND 50", name="top_k"),
        CheckConstraint("similarity_cutoff BETWEEN -1 AND 1", name="similarity_cutoff"),
        CheckConstraint("answer_cache_s > 0", name="answer_cache_s"),
        CheckConstraint("answer_cache_similarity BETWEEN 0 AND 1", name="answer_cache_similarity"),
        CheckConstraint("answerability IN ('off', 'normal', 'strict')", name="answerability"),
    )

    id: Mapped[UUID] = _id()
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    instructions: Mapped[str] = mapped_column(server_default="")
    context: Mapped[str] = mapped_column(server_default="")
    first_message: Mapped[str] = mapped_column(server_default="")
    response_shape: Mapped[dict[str, Any] | None]
    goal: Mapped[str] = mapped_column(server_default="")
    model: Mapped[str | None]
    model_parameters: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    tools: Mapped[list[str]] = mapped_column(server_default=sql("'[]'::jsonb"))
    user_authentication: Mapped[bool] = mapped_column(server_default=false())
    is_enabled: Mapped[bool] = mapped_column(server_default=true())
    top_k: Mapped[int] = mapped_column(server_default=sql("6"))
    similarity_cutoff: Mapped[float] = mapped_column(server_default=sql("0.3"))
    answerability: Mapped[str] = mapped_column(server_default="normal")
    answer_cache_s: Mapped[float | None]
    answer_cache_similarity: Mapped[float] = mapped_column(server_default=sql("0.9"))
    language: Mapped[str | None]
    unread_limit_s: Mapped[float | None]
    budget: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())


class Collection(Table):
    """A set of documents. `chunk_count` is kept by triggers on the chunks; `version` counts the changes of what is found in it.

    `session_id` is the session whose attachments it holds: then it is searched for that session alone, and goes with it.
    """

    __tablename__ = "collections"

    id: Mapped[UUID] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    session_id: Mapped[str | None] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), unique=True)
    description: Mapped[str] = mapped_column(server_default="")
    chunk_count: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    version: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    created_at: Mapped[datetime] = _created()


class AssistantCollection(Table):
    __tablename__ = "assistant_collections"

    assistant_id: Mapped[UUID] = mapped_column(
        ForeignKey("assistants.id", ondelete="CASCADE"), primary_key=True
    )
    collection_id: Mapped[UUID] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class Document(Table):
    """`text` is the converted text that the chunks' offsets count in; `pages` is `[{label, start, end}]` in the same offsets.

    `content_sha256` is of the file that was given last, `indexed_sha256` of the one that text and chunks were made of: they
    differ while a new file is ingested, and after it was refused. `origin` is the key under which somebody else keeps the
    document; of those without one, the same bytes in one collection are one document.
    """

    __tablename__ = "documents"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'processing', 'ready', 'failed', 'cancelled')", name="status"),
        Index(
            "documents_collection_id_content_sha256_key",
            "collection_id",
            "content_sha256",
            unique=True,
            postgresql_where=sql("origin IS NULL"),
        ),
        Index(
            "documents_collection_id_origin_key",
            "collection_id",
            "origin",
            unique=True,
            postgresql_where=sql("origin IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = _id()
    collection_id: Mapped[UUID] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"), index=True)
    origin: Mapped[str | None]
    file_name: Mapped[str]
    declared_type: Mapped[str | None]
    media_type: Mapped[str | None]
    kind: Mapped[str | None]
    title: Mapped[str | None]
    url: Mapped[str | None]
    content_sha256: Mapped[bytes]
    indexed_sha256: Mapped[bytes | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str]
    error_reason: Mapped[str | None]
    error_message: Mapped[str | None]
    warnings: Mapped[list[dict[str, Any]]] = mapped_column(server_default=sql("'[]'::jsonb"))
    pages: Mapped[list[dict[str, Any]]] = mapped_column(server_default=sql("'[]'::jsonb"))
    text: Mapped[str | None]
    chunk_count: Mapped[int] = mapped_column(Integer, server_default=sql("0"))
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True), unique=True)


class DocumentFile(Table):
    """A file as it was given, apart from the document, as hardly any query wants its bytes. There are two of a document whose
    new file has not been ingested: the other is the one that its text was made of. `title` goes before the one in the file."""

    __tablename__ = "document_files"

    document_id: Mapped[UUID] = mapped_column(
        ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True
    )
    content_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    file_name: Mapped[str]
    declared_type: Mapped[str | None]
    title: Mapped[str | None]
    content: Mapped[bytes]


class Ingestion(Table):
    """The work on a document's newest file, from when it is queued; kept when it is over, for its figures.

    `job_id` is that of the one job in the queue that may do it. Who does it at the moment is `claim_id`, for as long as
    `updated_at` is kept fresh. `done`, `total` and `reused` count passages. `problem` is why the last attempt did not get
    through, while another is to come.
    """

    __tablename__ = "ingestions"

    document_id: Mapped[UUID] = mapped_column(
        ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True
    )
    job_id: Mapped[int | None] = mapped_column(BigInteger)
    claim_id: Mapped[UUID | None]
    attempts: Mapped[int] = mapped_column(server_default=sql("0"))
    stage: Mapped[str] = mapped_column(server_default="waiting")
    done: Mapped[int] = mapped_column(server_default=sql("0"))
    total: Mapped[int] = mapped_column(server_default=sql("0"))
    reused: Mapped[int] = mapped_column(server_default=sql("0"))
    seconds_left: Mapped[float | None]
    problem: Mapped[str | None]
    started_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())


class Chunk(Table):
    """A passage: the characters `start_offset` to `end_offset` of its document's text.

    `heading` is the path of headings above it, joined by " > ". The embedding has the dimension of the one row of `embedders`;
    its index is made when that row is, on the embedding cast to that dimension, and is not known here. `language` names one
    of PostgreSQL's text search configurations; `words`, and how many they are, are found by a trigger.
    """

    __tablename__ = "chunks"
    __table_args__ = (
        # Without fastupdate: its list of what is yet to be indexed is read whole by every search, 3 ms after 8,000 chunks.
        Index("chunks_words_idx", "words", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
        UniqueConstraint("document_id", "ordinal"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    document_id: Mapped[UUID] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"))
    collection_id: Mapped[UUID] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"), index=True)
    ordinal: Mapped[int]
    start_offset: Mapped[int]
    end_offset: Mapped[int]
    page_label: Mapped[str | None]
    heading: Mapped[str] = mapped_column(server_default="")
    text: Mapped[str]
    embedding: Mapped[Any] = mapped_column(HALFVEC())
    language: Mapped[str] = mapped_column(server_default="english")
    words: Mapped[Any] = mapped_column(TSVECTOR)
    word_count: Mapped[int]


class Lexeme(Table):
    """In how many of a collection's chunks in a language a lexeme stands; kept by triggers on the chunks."""

    __tablename__ = "lexemes"

    collection_id: Mapped[UUID] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    language: Mapped[str] = mapped_column(primary_key=True)
    lexeme: Mapped[str] = mapped_column(primary_key=True)
    chunk_count: Mapped[int] = mapped_column(BigInteger)


class Language(Table):
    """How many of a collection's chunks are in a language, and of how many words; kept by triggers on the chunks."""

    __tablename__ = "languages"

    collection_id: Mapped[UUID] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    language: Mapped[str] = mapped_column(primary_key=True)
    chunk_count: Mapped[int] = mapped_column(BigInteger)
    word_count: Mapped[int] = mapped_column(BigInteger)


class EmbedderRecord(Table):
    """The one embedder that all embeddings in this database come from."""

    __tablename__ = "embedders"
    __table_args__ = (CheckConstraint("only_row", name="only_row"),)

    only_row: Mapped[bool] = mapped_column(primary_key=True, server_default=true())
    name: Mapped[str]
    dimensions: Mapped[int]


class Session(Table):
    """A conversation. `user_id` is whose it is; null: whoever knows its id. It outlives the assistant it was opened with.

    `forgotten_up_to` is the position of the last message that a reset has put out of sight. `title` is what its user calls it,
    `client_metadata` what a client has noted of it.
    """

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_user_id_last_active_at_idx", "user_id", "last_active_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str | None]
    assistant_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("assistants.id", ondelete="SET NULL"), index=True
    )
    forgotten_up_to: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    created_at: Mapped[datetime] = _created()
    last_active_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())
    client_metadata: Mapped[dict[str, Any] | None]


class ChatToken(Table):
    """Lets its holder into one session through a socket, and as `user_id`, if there is one. `name` is what he calls himself."""

    __tablename__ = "chat_tokens"

    id: Mapped[UUID] = _id()
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    name: Mapped[str]
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), index=True)
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    assistant_id: Mapped[UUID] = mapped_column(ForeignKey("assistants.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = _created()
    expires_at: Mapped[datetime] = mapped_column(_TIME, index=True)


class Message(Table):
    """`usage`, `steps`, `sources` and `citations` are those of the answer's stream.

    The messages of a session are a tree: a question that was edited and an answer that was made again are siblings of what they
    stand for. `is_shown` marks the branch that was chosen; along a branch, positions grow.
    """

    __tablename__ = "messages"
    __table_args__ = (
        CheckConstraint("role IN ('user', 'assistant')", name="role"),
        CheckConstraint("status IN ('queued', 'running', 'completed', 'stopped', 'failed')", name="status"),
        Index("messages_session_id_position_idx", "session_id", "position"),
    )

    id: Mapped[UUID] = _id()
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    is_shown: Mapped[bool] = mapped_column(server_default=true())
    role: Mapped[str]
    status: Mapped[str]
    text: Mapped[str] = mapped_column(server_default="")
    finish_reason: Mapped[str | None]
    error_code: Mapped[str | None]
    sources: Mapped[list[dict[str, Any]]] = mapped_column(server_default=sql("'[]'::jsonb"))
    citations: Mapped[list[dict[str, Any]]] = mapped_column(server_default=sql("'[]'::jsonb"))
    steps: Mapped[list[dict[str, Any]]] = mapped_column(server_default=sql("'[]'::jsonb"))
    visualization: Mapped[dict[str, Any] | None]
    usage: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = _created()


class Feedback(Table):
    """What a reader has said of an answer."""

    __tablename__ = "feedback"
    __table_args__ = (CheckConstraint("rating IN ('up', 'down')", name="rating"),)

    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True), unique=True)
    rating: Mapped[str]
    comment: Mapped[str | None]
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())


class Summary(Table):
    """What is remembered of a conversation up to a message, whose `position` is told again to be found by. `usage` is what the model
    has taken to write it."""

    __tablename__ = "summaries"
    __table_args__ = (Index("summaries_session_id_position_idx", "session_id", "position"),)

    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    position: Mapped[int] = mapped_column(BigInteger)
    text: Mapped[str]
    usage: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _created()


class KeptAnswer(Table):
    """The last answer to a question, to be given again; `events` are those that its reader saw.

    `scope` is all that it depends on but the question and the documents, `corpus_version` the sum of its collections' versions.
    Triggers on collections, and whoever changes the assistant, delete it.
    """

    __tablename__ = "kept_answers"
    __table_args__ = (
        Index("kept_answers_scope_question_key", "scope", sql("md5(question)"), unique=True),
        Index("kept_answers_assistant_id_created_at_idx", "assistant_id", "created_at"),
    )

    id: Mapped[UUID] = _id()
    assistant_id: Mapped[UUID] = mapped_column(ForeignKey("assistants.id", ondelete="CASCADE"))
    scope: Mapped[bytes]
    question: Mapped[str]
    guard: Mapped[str]
    embedding: Mapped[Any] = mapped_column(HALFVEC())
    corpus_version: Mapped[int] = mapped_column(BigInteger)
    events: Mapped[list[dict[str, Any]]]
    created_at: Mapped[datetime] = _created()


class Process(Table):
    """A process that runs answers, for as long as its heartbeat is fresh."""

    __tablename__ = "processes"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = _created()
    heartbeat_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())


OPEN = "status IN ('queued', 'running')"


class Run(Table):
    """One answer being made, or made. That a session has one running run at the most is a partial unique index; those that
    are queued run after it, in the order of their messages.

    `request_sha256` tells whether a request with the same `idempotency_key` is the same request. `log` is the whole log of a
    run that has ended, compressed; `last_seq` the number of its last line. The lines of one that has not are in `run_lines`.
    `was_abandoned`: another process has ended it, with what its own had stored. `request` is what is told of the request by
    who tells it again; null where nobody does, empty where nobody does any more.
    """

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("status IN ('queued', 'running', 'completed', 'stopped', 'failed')", name="status"),
        Index(
            "runs_one_running_a_session_key",
            "session_id",
            unique=True,
            postgresql_where=sql("status = 'running'"),
        ),
        Index(
            "runs_idempotency_scope_idempotency_key_key",
            "idempotency_scope",
            "idempotency_key",
            unique=True,
            postgresql_where=sql("idempotency_key IS NOT NULL"),
        ),
        Index("runs_open_process_id_idx", "process_id", postgresql_where=sql(OPEN)),
        Index("runs_open_session_id_idx", "session_id", postgresql_where=sql(OPEN)),
    )

    id: Mapped[UUID] = _id()
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), index=True)
    assistant_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("assistants.id", ondelete="SET NULL"), index=True
    )
    user_id: Mapped[UUID | None]
    accounts: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    user_message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), unique=True)
    process_id: Mapped[UUID]
    language: Mapped[str | None]
    status: Mapped[str]
    stop_requested: Mapped[bool] = mapped_column(server_default=false())
    error_code: Mapped[str | None]
    idempotency_scope: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    request_sha256: Mapped[bytes | None]
    last_seq: Mapped[int | None]
    log: Mapped[bytes | None]
    was_abandoned: Mapped[bool] = mapped_column(server_default=false())
    started_at: Mapped[datetime] = _created()
    ended_at: Mapped[datetime | None]
    request: Mapped[dict[str, Any] | None]


class Usage(Table):
    """What an answer has taken, whatever its end; it outlives the run. `cost` is at the prices of the day, null where there were none."""

    __tablename__ = "usage"
    __table_args__ = (Index("usage_user_id_ended_at_idx", "user_id", "ended_at"),)

    run_id: Mapped[UUID] = mapped_column(primary_key=True)
    session_id: Mapped[str | None] = mapped_column(ForeignKey("sessions.id", ondelete="SET NULL"), index=True)
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    assistant_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("assistants.id", ondelete="SET NULL"), index=True
    )
    model: Mapped[str | None]
    status: Mapped[str]
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    embedding_tokens: Mapped[int] = mapped_column(BigInteger)
    is_estimated: Mapped[bool]
    cost: Mapped[float | None]
    ended_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now(), index=True)


class Spendings(Table):
    """What has been spent of a budget in one of its periods, both of which `account` names."""

    __tablename__ = "spendings"

    account: Mapped[str] = mapped_column(primary_key=True)
    tokens: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[float]
    updated_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())


class RateLimit(Table):
    """When all that a subject may ask in a minute will be free again."""

    __tablename__ = "rate_limits"

    subject: Mapped[str] = mapped_column(primary_key=True)
    free_at: Mapped[datetime]


class RunLines(Table):
    """Consecutive lines of a run that has not ended, as one text: those numbered `first_seq` to `last_seq`."""

    __tablename__ = "run_lines"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    first_seq: Mapped[int] = mapped_column(primary_key=True)
    last_seq: Mapped[int]
    lines: Mapped[bytes]


class Connector(Table):
    """Where documents of a collection live, and when they are looked for. `place` is as its kind has it, `secrets` are encrypted.

    `is_trusted`: named by whoever runs the server, and not through the API. `next_sync_at` is when its schedule next wants it.
    """

    __tablename__ = "connectors"
    __table_args__ = (CheckConstraint("kind IN ('folder', 'web', 's3')", name="kind"),)

    id: Mapped[UUID] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    collection_id: Mapped[UUID] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"), index=True)
    place: Mapped[dict[str, Any]]
    secrets: Mapped[bytes | None]
    schedule: Mapped[str | None]
    is_paused: Mapped[bool] = mapped_column(server_default=false())
    is_trusted: Mapped[bool] = mapped_column(server_default=false())
    next_sync_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())


class ConnectorSync(Table):
    """One round of a connector. That there is one open round at most is a partial unique index.

    Who does it is `claim_id`, for as long as `updated_at` is kept fresh. `errors` are `[{key, message}]`, the first of them.
    """

    __tablename__ = "connector_syncs"
    __table_args__ = (
        CheckConstraint(
            "status IN ('queued', 'running', 'completed', 'incomplete', 'failed', 'cancelled', 'interrupted')",
            name="status",
        ),
        CheckConstraint("cause IN ('manual', 'schedule', 'removal')", name="cause"),
        Index(
            "connector_syncs_one_open_a_connector_key",
            "connector_id",
            unique=True,
            postgresql_where=sql("ended_at IS NULL"),
        ),
        Index("connector_syncs_connector_id_position_idx", "connector_id", "position"),
    )

    id: Mapped[UUID] = _id()
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    connector_id: Mapped[UUID] = mapped_column(ForeignKey("connectors.id", ondelete="CASCADE"))
    status: Mapped[str]
    cause: Mapped[str]
    claim_id: Mapped[UUID | None]
    cancel_requested: Mapped[bool] = mapped_column(server_default=false())
    added: Mapped[int] = mapped_column(server_default=sql("0"))
    changed: Mapped[int] = mapped_column(server_default=sql("0"))
    unchanged: Mapped[int] = mapped_column(server_default=sql("0"))
    removed: Mapped[int] = mapped_column(server_default=sql("0"))
    passed_over: Mapped[int] = mapped_column(server_default=sql("0"))
    failed: Mapped[int] = mapped_column(server_default=sql("0"))
    doing: Mapped[str | None]
    message: Mapped[str | None]
    errors: Mapped[list[dict[str, Any]]] = mapped_column(server_default=sql("'[]'::jsonb"))
    created_at: Mapped[datetime] = _created()
    started_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())
    ended_at: Mapped[datetime | None]


class ConnectorItem(Table):
    """What a connector has seen under a key. `state` is what its driver wants to be told next time; `is_document` tells whether
    there was a document of it, which somebody may have deleted since."""

    __tablename__ = "connector_items"

    connector_id: Mapped[UUID] = mapped_column(
        ForeignKey("connectors.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    document_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("documents.id", ondelete="SET NULL"), index=True
    )
    is_document: Mapped[bool]
    state: Mapped[dict[str, Any]]
    seen_in: Mapped[UUID]


class ChannelMessage(Table):
    """What was said over a channel whose answers are brought; `key` is what the channel knows it by.

    Whoever answers it puts `due_at` ahead, and again while it is at it; what is due has been left. `posted` are the channel's names
    of the messages that hold the answer. What has been answered is kept for its key alone, as it may be sent again.
    """

    __tablename__ = "channel_messages"
    __table_args__ = (
        Index(
            "channel_messages_open_idx",
            "channel",
            "conversation",
            "position",
            postgresql_where=sql("answered_at IS NULL"),
        ),
    )

    channel: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    conversation: Mapped[str]
    content: Mapped[dict[str, Any]]
    posted: Mapped[list[str]] = mapped_column(JSONB, server_default=sql("'[]'::jsonb"))
    tries: Mapped[int] = mapped_column(server_default=sql("0"))
    due_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())
    received_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())
    answered_at: Mapped[datetime | None] = mapped_column(_TIME, index=True)


class ChannelPoller(Table):
    """The one process that asks a channel for what has been said, until then."""

    __tablename__ = "channel_pollers"

    channel: Mapped[str] = mapped_column(primary_key=True)
    process_id: Mapped[UUID]
    until: Mapped[datetime]
