"""Answers that are given again: which question may have which answer, and what of an answer is kept.

Only a question without a conversation is looked up, and only an answer that names its sources is kept. What else an answer
depends on is its `scope`: nothing is found in another one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol
from uuid import UUID

import msgspec

from app import wording
from app.db.assistants import AssistantForTurn
from app.events import Citation, Event, Status, Step, Tokens
from app.llm.protocols import Vector
from app.rag import languages

# What does not change an answer, or is looked at by itself.
_BESIDE = (
    "budget",
    "chunk_count",
    "corpus_version",
    "is_enabled",
    "unread_limit_s",
    "answer_cache_s",
    "slug",
    "name",
    "goal",
)
# Words without which a question asks for the same. All others tell questions apart that read alike to an embedder: "how" from
# "can", "from" from "to", "not", numbers, names.
_BESIDE_THE_POINT = frozenset(
    "a an the i you we my your our me us do does did can could would will is are was were be been of in on for to by with at please tell"
    " explain show there it this that and"
    " der die das den dem des ein eine einen einem einer eines ich du sie wir mein meine meinen meinem meiner mir mich dein ihr uns unser"
    " kann können könnte ist sind war waren wird werden in im am auf für zu zum zur von vom mit bei bitte es und"
    " le la les l un une des du de je tu vous nous mon ma mes mon ton votre nos est sont peut peux puis puis-je pouvez à au aux dans sur pour"
    " par avec en s il plaît te et"
    " el la los las un una unos unas yo mi mis tu su nos me te se es son está están puedo puede pueden de del a al en para por con favor y".split()
)
_SAME = {
    "which": "what",
    "welche": "was",
    "welcher": "was",
    "welches": "was",
    "quelle": "quel",
    "quelles": "quel",
    "quels": "quel",
}


@dataclass(frozen=True, slots=True)
class Key:
    """`question` is the same for questions that differ in case, spaces and punctuation alone. Questions whose `guard` differs are
    never taken for each other, however close they are."""

    assistant_id: UUID
    collection_ids: tuple[UUID, ...]
    corpus_version: int
    scope: bytes
    question: str
    guard: str
    least_similarity: float
    max_age_s: float


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it was kept. `similarity` is the cosine of its question to the one that was asked."""

    events: Sequence[Mapping[str, Any]]
    age_s: float
    similarity: float


class Cache(Protocol):
    async def look_up(self, key: Key, embedding: Vector | None) -> Kept | None:
        """The answer to the very question, or with an embedding to one that is close enough to it."""
        ...

    async def keep(self, key: Key, embedding: Vector, events: Sequence[Mapping[str, Any]]) -> bool:
        """False if the documents have changed since, or are just being changed."""
        ...


def key(assistant: AssistantForTurn, question: str, *beside: object) -> Key | None:
    """None for an assistant whose answers are not kept. `beside` is what the answer depends on besides assistant and question."""
    if assistant.answer_cache_s is None:
        return None
    fields = {name: value for name, value in asdict(assistant).items() if name not in _BESIDE}
    fields["collection_ids"] = sorted(assistant.collection_ids)
    return Key(
        assistant_id=assistant.id,
        collection_ids=assistant.collection_ids,
        corpus_version=assistant.corpus_version,
        scope=hashlib.sha256(msgspec.json.encode([fields, beside], order="deterministic")).digest(),
        question=" ".join(languages.words(question.casefold())),
        guard=guard(question),
        least_similarity=assistant.answer_cache_similarity,
        max_age_s=assistant.answer_cache_s,
    )


def guard(question: str) -> str:
    """The words that tell what is asked for, by their stems, in their order: who paid whom is a matter of order."""
    words = (word.removesuffix("'s") for word in languages.words(question.casefold().replace("’", "'")))
    telling = [_SAME.get(word, wording.stem(word)) for word in words if word not in _BESIDE_THE_POINT]
    return " ".join(telling)


class Recording:
    """What of an answer is worth keeping, from its events."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def add(self, event: Event) -> None:
        if isinstance(event, Step | Status):
            return
        last = self._events[-1] if self._events else None
        if isinstance(event, Tokens) and isinstance(last, Tokens):
            self._events[-1] = Tokens(contents=last.contents + event.contents)
        else:
            self._events.append(event)

    def events(self) -> list[dict[str, Any]] | None:
        """None if the answer cites none of its sources, or holds what PostgreSQL does not take."""
        is_cited = any(isinstance(event, Citation) for event in self._events)
        says_nul = any(
            "\0" in text for event in self._events if isinstance(event, Tokens) for text in event.contents
        )
        if says_nul or not is_cited:
            return None
        return [{"type": event.type_name, "event": msgspec.to_builtins(event)} for event in self._events]


def replayed(events: Sequence[Mapping[str, Any]]) -> list[Event]:
    kinds = {kind.type_name: kind for kind in Event.__subclasses__()}
    return [msgspec.convert(kept["event"], kinds[kept["type"]]) for kept in events]
