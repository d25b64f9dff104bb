"""Collections of documents, and the documents in them; for administrators."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from app.api.contract import OPTIONAL_USER, Cursor, Limit, cut, problems
from app.api.deps import Admin, Knowledge, ReaderOfDocument
from app.api.text import Text
from app.db.documents import DocumentView, Stage, Status
from app.errors import InvalidInput
from app.services.knowledge import (
    DEFAULT_COLLECTION,
    LONGEST_NAME,
    NAME_PATTERN,
    CollectionChange,
    KnowledgeService,
)

router = APIRouter(tags=["documents"])

MAX_EXCERPT = 100_000
_LONGEST_PASSWORD = 1_000
# PostgreSQL counts in 32 bits, from 1.
MAX_OFFSET = 2**31 - 2 - MAX_EXCERPT

CollectionIdentifier = Annotated[
    Text, Path(min_length=1, max_length=LONGEST_NAME, description="A name or an id.")
]
CollectionName = Annotated[
    str,
    Field(
        max_length=LONGEST_NAME,
        pattern=NAME_PATTERN,
        description="Without slashes, control characters, or blanks around it; not an id.",
    ),
]
Description = Annotated[Text, Field(max_length=2_000)]


class NewCollection(BaseModel):
    name: CollectionName
    description: Description = ""


class ChangeOfCollection(BaseModel):
    """What is not sent, or null, stays as it is."""

    name: CollectionName | None = None
    description: Description | None = None

    def given(self) -> CollectionChange:
        fields = CollectionChange()
        if self.name is not None:
            fields["name"] = self.name
        if self.description is not None:
            fields["description"] = self.description
        return fields


class Collection(BaseModel):
    """`chunk_count` is how many passages can be found in it."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    description: str
    document_count: int
    chunk_count: int
    created_at: datetime


class CollectionPage(BaseModel):
    """`next` is the `cursor` of the page that follows, null at the end."""

    items: list[Collection]
    next: str | None


class CollectionOfDocument(BaseModel):
    id: UUID
    name: str


class Failure(BaseModel):
    """`reason` is a stable word, `message` is for people."""

    reason: str
    message: str


class ProgressOfDocument(BaseModel):
    """Of a document that waits or is ingested. `done`, `total` and `reused` are passages; `reused` are those that the document
    had before. `attempts` counts this one; `problem` is why the last did not get through. `seconds_left` is an estimate."""

    model_config = ConfigDict(from_attributes=True)

    stage: Stage
    done: int
    total: int
    reused: int
    attempts: int
    seconds_left: float | None
    problem: str | None
    started_at: datetime | None


class Document(BaseModel):
    """`progress` is null once nothing more happens by itself; `error` is that of a `failed` one.

    Both, and `status`, are about the newest file; the rest is about what can be found, which after a new file was refused, or
    while it is ingested, is that of the file before. `origin` is the key of whoever keeps the document elsewhere.
    """

    id: UUID
    collection: CollectionOfDocument
    origin: str | None
    file_name: str
    title: str | None
    kind: str | None
    media_type: str | None
    url: str | None
    size_bytes: int
    status: Status
    progress: ProgressOfDocument | None
    error: Failure | None
    warnings: list[str]
    page_count: int
    chunk_count: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, view: DocumentView) -> "Document":
        fields = asdict(view)
        del fields["progress"]
        reason, message = view.error_reason, view.error_message
        return cls(
            **fields,
            collection=CollectionOfDocument(id=view.collection_id, name=view.collection_name),
            progress=None if view.is_over else ProgressOfDocument.model_validate(view.progress),
            error=Failure(reason=reason, message=message or "") if reason is not None else None,
        )


class DocumentPage(BaseModel):
    """`next` is the `cursor` of the page that follows, null at the end."""

    items: list[Document]
    next: str | None


class Excerpt(BaseModel):
    """The characters `start` to `end` of a text of `length` characters."""

    model_config = ConfigDict(from_attributes=True)

    text: str
    start: int
    end: int
    length: int


@router.post("/collections", status_code=201, responses=problems(401, 403, 409, 413, 422))
async def create_collection(body: NewCollection, knowledge: Knowledge, _: Admin) -> Collection:
    return Collection.model_validate(
        await knowledge.create_collection(body.name, description=body.description)
    )


@router.get("/collections", responses=problems(401, 403, 422))
async def list_collections(
    knowledge: Knowledge, _: Admin, limit: Limit = 50, cursor: Annotated[Text | None, Cursor] = None
) -> CollectionPage:
    """In the order of their names."""
    rows = await knowledge.collections(after=cursor, limit=limit + 1)
    rows, following = cut(rows, limit, lambda row: row.name)
    return CollectionPage(items=[Collection.model_validate(row) for row in rows], next=following)


@router.get("/collections/{collection}", responses=problems(401, 403, 404, 422))
async def get_collection(collection: CollectionIdentifier, knowledge: Knowledge, _: Admin) -> Collection:
    return Collection.model_validate(await knowledge.collection(collection))


@router.patch("/collections/{collection}", responses=problems(401, 403, 404, 409, 413, 422))
async def change_collection(
    collection: CollectionIdentifier, body: ChangeOfCollection, knowledge: Knowledge, _: Admin
) -> Collection:
    return Collection.model_validate(await knowledge.change_collection(collection, **body.given()))


@router.delete("/collections/{collection}", status_code=204, responses=problems(401, 403, 404, 422))
async def delete_collection(collection: CollectionIdentifier, knowledge: Knowledge, _: Admin) -> None:
    """With all its documents."""
    await knowledge.delete_collection(collection)


_COLLECTION_OF_FORM = {
    "type": "string",
    "maxLength": LONGEST_NAME,
    "pattern": NAME_PATTERN,
    "default": DEFAULT_COLLECTION,
    "description": "A name or an id. A name that there is none of makes a collection.",
}


def file_form(**further: Any) -> dict[str, Any]:
    """A form with a file, as OpenAPI tells it; `further` are fields beside it."""
    password = {
        "type": "string",
        "format": "password",
        "maxLength": _LONGEST_PASSWORD,
        "description": "Opens a PDF, and those inside of an archive or a letter. It is not stored.",
    }
    fields = {"file": {"type": "string", "format": "binary"}, **further, "password": password}
    schema = {"type": "object", "required": ["file"], "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@router.post(
    "/documents",
    status_code=202,
    openapi_extra=file_form(collection=_COLLECTION_OF_FORM),
    responses={
        200: {"model": Document, "description": "The collection has these bytes already."},
        **problems(401, 403, 404, 413, 422),
    },
)
async def add_document(request: Request, response: Response, knowledge: Knowledge, _: Admin) -> Document:
    """Stores a file, which is then ingested in the background: ask for the document until its status is `ready` or `failed`.

    The same bytes in one collection are one document; one that failed is tried again.
    """
    # Read here and not by the framework, which would take the whole file in before it asks who sends it.
    upload = await read_upload(request)
    document, is_new = await knowledge.add(
        upload.collection,
        upload.file_name,
        upload.content,
        upload.declared_type,
        password=upload.password,
    )
    if not is_new:
        response.status_code = 200
    return Document.of(document)


@router.get("/documents", responses=problems(401, 403, 404, 422))
async def list_documents(
    knowledge: Knowledge,
    _: Admin,
    collection: Annotated[Text | None, Query(min_length=1, max_length=LONGEST_NAME)] = None,
    status: Status | None = None,
    attachments: Annotated[bool, Query(description="Also those that are attached to sessions.")] = False,
    limit: Limit = 50,
    cursor: Annotated[
        str | None, Query(pattern="^[0-9]{1,18}$", description="The `next` of the page before.")
    ] = None,
) -> DocumentPage:
    """The newest first, of all collections or of one."""
    before = int(cursor) if cursor is not None else None
    rows = await knowledge.documents(
        collection=collection, status=status, before=before, limit=limit + 1, attachments=attachments
    )
    rows, following = cut(rows, limit, lambda row: str(row.position))
    return DocumentPage(items=[Document.of(row) for row in rows], next=following)


@router.get("/documents/{document_id}", responses=problems(401, 403, 404, 422))
async def get_document(document_id: UUID, knowledge: Knowledge, _: Admin) -> Document:
    return Document.of(await knowledge.document(document_id))


@router.get(
    "/documents/{document_id}/text",
    dependencies=[ReaderOfDocument],
    responses=problems(401, 403, 404, 409, 422),
    openapi_extra=OPTIONAL_USER,
)
async def get_document_text(
    document_id: UUID,
    knowledge: Knowledge,
    start: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
    end: Annotated[
        int | None,
        Query(
            ge=0,
            le=MAX_OFFSET,
            description=f"What is more than {MAX_EXCERPT:,} after the start is cut off.",
        ),
    ] = None,
) -> Excerpt:
    """What the file was converted to; passages and citations count in its characters."""
    return await excerpt(knowledge, document_id, start, end)


async def excerpt(knowledge: KnowledgeService, document_id: UUID, start: int, end: int | None) -> Excerpt:
    """At most `MAX_EXCERPT` characters."""
    last = start + MAX_EXCERPT if end is None else max(start, min(end, start + MAX_EXCERPT))
    return Excerpt.model_validate(await knowledge.excerpt(document_id, start=start, end=last))


@router.delete("/documents/{document_id}", status_code=204, responses=problems(401, 403, 404, 422))
async def delete_document(document_id: UUID, knowledge: Knowledge, _: Admin) -> None:
    await knowledge.delete_document(document_id)


@dataclass(frozen=True, slots=True)
class Upload:
    """`fields` are all of the form that are text."""

    collection: str
    file_name: str
    declared_type: str | None
    content: bytes
    password: SecretStr | None
    fields: dict[str, str]


async def read_upload(request: Request) -> Upload:
    """On its way a file of more than a megabyte is on disk. Raises `InvalidInput`."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidInput("Send the file as multipart/form-data.")
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=10)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidInput("The body is not a form as multipart/form-data has it, with one file.") from error
    except ClientDisconnect as error:
        raise InvalidInput("The upload broke off.") from error
    try:
        file, collection = form.get("file"), form.get("collection", DEFAULT_COLLECTION)
        if not isinstance(file, UploadFile) or not isinstance(collection, str):
            raise InvalidInput("The form needs a file in the field `file`, and a `collection` that is text.")
        content = await file.read()
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return Upload(collection, file.filename or "", file.content_type, content, _password(form), fields)
    finally:
        for value in form.values():
            if isinstance(value, UploadFile):
                value.file.close()


def _password(form: FormData) -> SecretStr | None:
    password = form.get("password", "")
    if not isinstance(password, str) or len(password) > _LONGEST_PASSWORD:
        raise InvalidInput(f"The `password` is text of at most {_LONGEST_PASSWORD:,} characters.")
    return SecretStr(password) if password else None
