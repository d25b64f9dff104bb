"""Freshet within a Python programme: the same assistants, documents and conversations as the server's, without a server.

What is named here is meant to be used; all of it is typed. `freshet.errors` are the failures that are expected.
"""

from app import errors, events
from app.db.assistants import AssistantView as Assistant
from app.db.chunks import Hit
from app.db.documents import DocumentView as Document
from app.db.documents import Progress
from app.events import Citation, Event, Source, TokenUsage
from app.llm.protocols import ChatModel, Embedder
from app.settings import Settings
from freshet.embedded import Answer, Freshet

__all__ = [
    "Answer",
    "Assistant",
    "ChatModel",
    "Citation",
    "Document",
    "Embedder",
    "Event",
    "Freshet",
    "Hit",
    "Progress",
    "Settings",
    "Source",
    "TokenUsage",
    "errors",
    "events",
]
