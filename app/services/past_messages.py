"""Messages of the Assistants API as messages of a session: their text with our marks, and the sources that they cite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Literal, cast
from uuid import UUID

import msgspec

from app.db.imports import PastMessage
from app.errors import InvalidInput
from app.events import Source
from app.ingest.openai_export import Annotation, SavedMessage

_TYPES: dict[str, Literal["pdf", "docx"]] = {".pdf": "pdf", ".docx": "docx"}


@dataclass(frozen=True, slots=True)
class CitedDocument:
    id: UUID
    file_name: str


def in_order(messages: Sequence[SavedMessage]) -> list[SavedMessage]:
    """By their times; those of one second as they were said, as lists may have the newest first."""
    backwards = len(messages) > 1 and (messages[0].created_at or 0) > (messages[-1].created_at or 0)
    said = reversed(messages) if backwards else messages
    return sorted(said, key=lambda message: message.created_at or 0)


def cited_files(message: SavedMessage) -> list[str]:
    return [one.file_citation.file_id for one in _annotations(message) if one.file_citation is not None]


def left_out(message: SavedMessage) -> list[str]:
    """The types of its parts that are no text."""
    return [part.type for part in message.content if not isinstance(part, str) and part.text is None]


def past_message(
    message: SavedMessage,
    message_id: UUID,
    parent_id: UUID | None,
    documents: Mapping[str, CitedDocument],
) -> PastMessage:
    """`documents` are those of its files that there are, by the ids of the files. Raises `InvalidInput`."""
    if message.role not in {"user", "assistant"}:
        raise InvalidInput(f"A message of the role {message.role[:50]} has no place in a session.")
    sources: dict[str, Source] = {}
    texts: list[str] = []
    for text, annotations in _texts(message):
        for annotation in annotations:
            cited = annotation.file_citation
            document = documents.get(cited.file_id) if cited is not None else None
            if cited is None or document is None:
                continue
            number = sources.setdefault(
                cited.file_id, _source(len(sources) + 1, document, cited.quote or "")
            ).id
            text = _marked(text, annotation.text, number)
        texts.append(text)
    whole = "\n\n".join(text for text in texts if text.strip())
    if not whole:
        raise InvalidInput("It holds no text.")
    data = [msgspec.to_builtins(source) for source in sources.values()]
    created_at = datetime.fromtimestamp(message.created_at or 0, UTC)
    return PastMessage(
        message_id, parent_id, message.role, whole, created_at, cast("list[dict[str, Any]]", data)
    )


def _texts(message: SavedMessage) -> list[tuple[str, list[Annotation]]]:
    if isinstance(message.content, str):
        return [(message.content, [])]
    texts: list[tuple[str, list[Annotation]]] = []
    for part in message.content:
        if isinstance(part.text, str):
            texts.append((part.text, []))
        elif part.text is not None:
            texts.append((part.text.value, part.text.annotations))
    return texts


def _annotations(message: SavedMessage) -> list[Annotation]:
    return [annotation for _, annotations in _texts(message) for annotation in annotations]


def _marked(text: str, theirs: str, number: str) -> str:
    """With our mark in the place of theirs, and a blank before it."""
    before, found, behind = text.partition(theirs) if theirs else (text, "", "")
    if not found:
        return text
    blank = "" if not before or before[-1].isspace() else " "
    return f"{before}{blank}[{number}]{behind}"


def _source(number: int, document: CitedDocument, quote: str) -> Source:
    """The score is not known, and so the least."""
    return Source(
        id=str(number),
        text=quote,
        score=0,
        name=document.file_name,
        type=_TYPES.get(PurePath(document.file_name).suffix.lower(), "txt"),
        content=quote,
        metadata={"file_name": document.file_name, "document_id": str(document.id)},
    )
