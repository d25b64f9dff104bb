"""What an assistant remembers of a conversation: its last turns, within a budget."""

import re
from collections.abc import Sequence

from app.llm.protocols import ChatMessage

_TAG = re.compile(r"<(\s*/?\s*conversation)", re.IGNORECASE)


def estimated_tokens(text: str) -> int:
    """About how many tokens a language model makes of it: four bytes of UTF-8 each, which is near for English and for Chinese."""
    return len(text.encode("utf-8", "replace")) // 4 + 1


def transcript(messages: Sequence[ChatMessage]) -> str:
    """What was said, for a model that is to read it as an outsider. Nobody in it can end it."""
    lines = "\n".join(f"{message.role}: {message.content}" for message in messages)
    unbroken = _TAG.sub(r"<\\\1", lines)
    return f"<conversation>\n{unbroken}\n</conversation>"


def within_budget(messages: Sequence[ChatMessage], budget_tokens: int) -> list[ChatMessage]:
    """The newest messages that fit together, in time order, beginning with a question of the user, or with what opened the
    conversation."""
    kept: list[ChatMessage] = []
    left = budget_tokens
    for message in reversed(messages):
        left -= estimated_tokens(message.content)
        if left < 0:
            break
        kept.append(message)
    kept.reverse()
    while kept and len(kept) < len(messages) and kept[0].role != "user":
        kept.pop(0)
    return kept
