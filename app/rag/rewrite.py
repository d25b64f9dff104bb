"""A question of a conversation, as it would be asked without what was said before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import anyio

from app.errors import FreshetError
from app.events import TokenUsage
from app.llm.protocols import ChatMessage, ChatModel, Prompt
from app.rag import languages, memory, writing
from app.rag.languages import Language

# Tuned on half of the conversations of mtrag-human (docs/retrieval.md). A question with so few words of its own is one of a
# conversation; one that points back after more than these has named what it points to itself; and
# so has one of many.
_FEW_WORDS = 2
_NAMED_BEFORE = 3
_MANY_WORDS = 10
# How often the question stands beside so many words of what it is about, that to the embedder as to BM25 the question weighs more;
# and where its few words are all that tells that it is no question by itself.
_WEIGHT, _MOST_ADDED = 2, 3
_WEIGHT_IN_DOUBT, _MOST_ADDED_IN_DOUBT = 3, 2
# What is remembered of what was asked about, and how much of an answer is looked at for it.
_MOST_WORDS = 8
_ANSWER_BEGINS = 400

# Of the conversation, the model is told so much; a question that it makes longer than this is an answer.
_TOLD_TOKENS = 1_000
_LONGEST_QUESTION = 600
_TASK = """\
You are given a conversation and its last message. Write the last message so that it can be understood, and searched for, \
without the conversation: put in what its pronouns stand for and what it leaves out. Keep its language and its meaning, add nothing \
else, and do not answer it. If it can be understood by itself, repeat it as it is. Reply with the message alone."""

Mode = Literal["model", "model_if_needed", "rules", "off"]


@dataclass(frozen=True, slots=True)
class Rewriting:
    """How questions are rewritten. The model is asked about each that has a history, or about those that the rules take to need
    it; the rules take over where it fails, or takes longer than `limit_s`."""

    mode: Mode
    limit_s: float

    def concerns(self, history: Sequence[ChatMessage], question: str) -> bool:
        if not history or self.mode == "off":
            return False
        return self.mode == "model" or by_rules(history, question) is not None


@dataclass(frozen=True, slots=True)
class Standalone:
    """`question` is for whoever reads it, `sought` what is searched for. `usage` is what the model has taken for it."""

    question: str
    sought: str
    method: Literal["model", "rules"]
    usage: TokenUsage | None = None


async def rewrite(
    rewriting: Rewriting,
    model: ChatModel,
    history: Sequence[ChatMessage],
    question: str,
    *,
    named_model: str | None,
) -> Standalone | None:
    """None if the question stands alone. `named_model` is the assistant's own."""
    if rewriting.mode != "rules":
        with anyio.move_on_after(rewriting.limit_s):
            written = await _by_model(model, history, question, named_model)
            if written is not None:
                return written
    return by_rules(history, question)


def by_rules(history: Sequence[ChatMessage], question: str) -> Standalone | None:
    """With the words that the conversation is about; None if the question does not lean on them, or they are unknown."""
    language = _language(history, question)
    if language is None or not _leans(question, language):
        return None
    own = language.content(question)
    in_doubt = len(own) == _FEW_WORDS and _pointer(question, language) is None
    weight, most_added = (_WEIGHT_IN_DOUBT, _MOST_ADDED_IN_DOUBT) if in_doubt else (_WEIGHT, _MOST_ADDED)
    added = [word for stem, word in _topic(history, language).items() if stem not in own][:most_added]
    if not added:
        return None
    asked, topic = question.strip(), " ".join(added)
    return Standalone(f"{asked} ({topic})", " ".join([*[asked] * weight, topic]), "rules")


async def _by_model(
    model: ChatModel, history: Sequence[ChatMessage], question: str, named_model: str | None
) -> Standalone | None:
    prompt = Prompt(messages=_task(history, question), question=question, model=named_model)
    try:
        said = await writing.write(model, prompt)
    except FreshetError:
        return None
    written = " ".join(said.text.split())
    if not written or len(written) > max(_LONGEST_QUESTION, 2 * len(question)):
        return None
    return Standalone(written, written, "model", said.usage)


def _task(history: Sequence[ChatMessage], question: str) -> list[ChatMessage]:
    told = memory.within_budget(history, _TOLD_TOKENS)
    asked = f"{memory.transcript(told)}\n\n<last_message>\n{question}\n</last_message>"
    return [ChatMessage("system", _TASK), ChatMessage("user", asked)]


def _leans(question: str, language: Language) -> bool:
    """Whether the question needs what was said before it, by the words that it has."""
    own = language.content(question)
    if len(own) > _MANY_WORDS:
        return False
    before = _pointer(question, language)
    if before is not None and len(language.content(before)) < _NAMED_BEFORE:
        return True
    if language.opens.match(question) and len(own) <= _FEW_WORDS + 1:
        return True
    if own and language.defines.match(question):
        return False
    return len(own) <= _FEW_WORDS


def _pointer(question: str, language: Language) -> str | None:
    """What stands before the first word that points back; None if none does."""
    rest = language.looks_so.sub(" ", question)
    found = language.points_back.search(rest)
    return rest[: found.start()] if found is not None else None


def _topic(history: Sequence[ChatMessage], language: Language) -> dict[str, str]:
    """The words that the last questions were about, by their stems: first those that the answer has taken up."""
    topic: dict[str, str] = {}
    for message in history:
        if message.role == "user":
            own = language.content(message.content)
            if _leans(message.content, language):
                own |= {stem: word for stem, word in topic.items() if stem not in own}
            topic = dict(list(own.items())[:_MOST_WORDS])
        else:
            said = language.content(message.content[:_ANSWER_BEGINS])
            topic = dict(sorted(topic.items(), key=lambda entry: entry[0] not in said))
    return topic


def _language(history: Sequence[ChatMessage], question: str) -> Language | None:
    """The question's own; of one too short to tell, that of the questions before it."""
    before: Language | None = None
    for message in history:
        if message.role == "user":
            before = languages.of(message.content, before)
    return languages.of(question, before)
