"""What an assistant remembers of a conversation: its last turns word for word, and a summary of those before them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.llm.protocols import ChatMessage

# As many of the last messages are ever looked at.
MOST_MESSAGES = 100

_TAG = re.compile(r"<(\s*/?\s*conversation)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Memory:
    """`summary` is of all that was said before `messages`; empty: nothing was, or it is not remembered."""

    messages: Sequence[ChatMessage] = ()
    summary: str = ""


def estimated_tokens(text: str) -> int:
    """About how many tokens a language model makes of it: four bytes of UTF-8 each, which is near for English and for Chinese."""
    return len(text.encode("utf-8", "replace")) // 4 + 1


def transcript(messages: Sequence[ChatMessage], summary: str = "") -> str:
    """What was said, behind the summary of what was said before, for a model that is to read it as an outsider. Nobody in it can
    end it."""
    lines = "\n".join(f"{message.role}: {message.content}" for message in messages)
    if summary:
        lines = f"(What was said before, in short: {summary})\n{lines}"
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


def falling_out(messages: Sequence[ChatMessage], budget_tokens: int) -> int:
    """How many of the oldest messages are to be folded into the summary: none until three quarters of the room are taken, then so
    many that half of it is free. The last turn stays, unless it fills the room alone."""
    sizes = [estimated_tokens(message.content) for message in messages]
    if sum(sizes) <= budget_tokens * 3 / 4 and len(messages) <= MOST_MESSAGES * 3 / 4:
        return 0
    first = len(messages)
    left = budget_tokens / 2
    while first and left >= sizes[first - 1] and len(messages) - first < MOST_MESSAGES / 2:
        first -= 1
        left -= sizes[first]
    while first < len(messages) and messages[first].role != "user":
        first += 1
    last_turn = max((at for at, message in enumerate(messages) if message.role == "user"), default=0)
    return min(first, last_turn) if sum(sizes[last_turn:]) <= budget_tokens else first
