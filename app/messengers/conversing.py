"""What a letter asks for, in the words that the channels have in common."""

from collections.abc import Sequence

from app.db.channels import Letter
from app.errors import FreshetError
from app.messengers.growing import GrowingAnswer, NotNow
from app.messengers.message import Document, Message
from app.messengers.pipeline import AssistantPipeline
from app.services.attachments import NewAttachment
from app.services.runs import Followed

_GREETING = "Ask me a question, and I will look for the answer."
_ANEW = "This conversation begins anew."
# What may pass is waited for, but not by somebody who was told nothing for minutes.
_PATIENT_TRIES = 4


async def converse(
    pipeline: AssistantPipeline, letter: Letter, answer: GrowingAnswer, files: Sequence[NewAttachment] = ()
) -> None:
    """Raises `NotNow` and `ChannelRefused`."""
    said = await said_to(pipeline, letter, files)
    if isinstance(said, str):
        await answer.show(said)
    else:
        await answer.follow(said)


async def said_to(
    pipeline: AssistantPipeline, letter: Letter, files: Sequence[NewAttachment] = ()
) -> str | Followed:
    """The run that answers the letter, or the words that do; `files` are what came with it. Of its content, `text` is what was said, `command` is `start` or `reset`
    if it was that, and `has_files` whether there is more to it. Raises `NotNow`."""
    try:
        return await _said(pipeline, letter, files)
    except FreshetError as error:
        if error.retryable and letter.tries <= _PATIENT_TRIES:
            raise NotNow from error
        return error.message


async def _said(
    pipeline: AssistantPipeline, letter: Letter, files: Sequence[NewAttachment]
) -> str | Followed:
    match letter.content.get("command"):
        case "start":
            return await pipeline.first_message() or _GREETING
        case "reset":
            await pipeline.forget(letter.conversation)
            return _ANEW
        case _:
            return await pipeline.begin(_message(letter), letter.conversation, key=letter.key, files=files)


def _message(letter: Letter) -> Message:
    """What came with a file is not asked without it."""
    if letter.content.get("has_files"):
        return Message(attachments=[Document(id=letter.key)])
    return Message(text=letter.content.get("text"))
