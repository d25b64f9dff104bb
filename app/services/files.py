"""Files as they are given: what is asked of them, and how they come into the queue."""

import hashlib
import re
from datetime import timedelta
from pathlib import PurePosixPath

from anyio import to_thread
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import documents, ingestions
from app.db.documents import Known, NewFile
from app.errors import DocumentRefused, InvalidInput, TooLarge

_LONGEST_NAME = 255
# Of what is ingested by the process that was given it, others take the job up only if that process has ended by then.
JOB_OF_ITS_OWN_WAITS = timedelta(seconds=60)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


async def checked(
    file_name: str,
    content: bytes,
    declared_type: str | None,
    *,
    max_bytes: int,
    title: str | None = None,
) -> NewFile:
    """Raises `InvalidInput` for its name, `DocumentRefused` if it is empty, `TooLarge`."""
    name = _plain_name(file_name)
    if not content:
        raise DocumentRefused("empty", "The file is empty.")
    if len(content) > max_bytes:
        raise TooLarge(f"The file is larger than {max_bytes:,} bytes.")
    digest = await to_thread.run_sync(lambda: hashlib.sha256(content).digest())
    return NewFile(name, declared_type, content, digest, title)


async def give(
    session: AsyncSession, known: Known, file: NewFile, *, execute_after: timedelta | None = None
) -> int | None:
    """The job to ingest the file, for a document that is held; None if the document's text was made of the same."""
    if known.indexed_sha256 == file.sha256:
        await ingestions.discard(session, known.id)
        await documents.keep_file(session, known)
        return None
    await documents.give_file(session, known, file)
    return await ingestions.enqueue(session, known.id, execute_after=execute_after)


def _plain_name(file_name: str) -> str:
    """Without the folders that some browsers send along."""
    name = PurePosixPath(file_name.replace("\\", "/")).name.strip()
    if name in {"", ".."} or _CONTROL.search(name):
        raise InvalidInput("The file needs a name without control characters.")
    if len(name) > _LONGEST_NAME:
        raise InvalidInput(f"The name of the file is longer than {_LONGEST_NAME} characters.")
    return name
