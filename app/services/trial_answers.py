"""Answers made for an evaluation: from the passages that were found, and kept nowhere."""

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from app.db.chunks import Hit
from app.llm.protocols import ChatModel, Finish, Passage, Prompt, Usage
from app.rag import measures, memory, prompt
from app.rag.evaluation import JudgedQuestion


@dataclass(frozen=True, slots=True)
class TrialAnswer:
    """`usage` is estimated where the model does not tell it. `holds_expected` is None where no answer is expected."""

    text: str
    usage: Usage
    took_s: float
    holds_expected: bool | None


async def make(
    model: ChatModel, question: JudgedQuestion, hits: Sequence[Hit], *, context_tokens: int
) -> TrialAnswer:
    """As an assistant without instructions and without a conversation answers. Raises `ModelFailed`."""
    passages = prompt.within_budget(
        [Passage(number, hit.text, hit.similarity) for number, hit in enumerate(hits, 1)], context_tokens
    )
    messages = prompt.build(
        instructions="",
        context="",
        language=None,
        history=(),
        question=question.text,
        passages=passages,
        grounded=True,
    )
    began = time.perf_counter()
    said: list[str] = []
    usage: Usage | None = None
    async with aclosing(model.stream(Prompt(messages, question.text, passages))) as pieces:
        async for piece in pieces:
            if isinstance(piece, Finish):
                usage = piece.usage
            else:
                said += piece
    took_s = time.perf_counter() - began
    text = "".join(said)
    read = sum(memory.estimated_tokens(message.content) for message in messages)
    expected = question.answer
    return TrialAnswer(
        text=text,
        usage=usage or Usage(input_tokens=read, output_tokens=memory.estimated_tokens(text)),
        took_s=took_s,
        holds_expected=None if expected is None else measures.contains(text, expected),
    )
