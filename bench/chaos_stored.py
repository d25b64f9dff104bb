"""What the database has of a programme when it is over."""

import json
from dataclasses import dataclass, field
from typing import Any

from app.runs.log import unpack
from bench.chaos_play import Play

_RUNS = """
    SELECT runs.id::text, runs.session_id, runs.status, runs.error_code, runs.last_seq, runs.log, runs.idempotency_key,
        runs.user_message_id, assistants.model, answer.id::text AS message_id, answer.status AS message_status,
        answer.text, answer.sources::text AS sources, answer.error_code AS message_error_code, question.text AS question
    FROM runs JOIN messages answer ON answer.id = runs.message_id JOIN messages question ON question.id = runs.user_message_id
    LEFT JOIN assistants ON assistants.id = runs.assistant_id
"""
_LINES_LEFT = """
    SELECT count(*) FROM run_lines JOIN runs ON runs.id = run_id WHERE runs.status NOT IN ('queued', 'running')
"""
_QUESTIONS = "SELECT session_id, text FROM messages WHERE role = 'user'"
_ANSWERS_WITHOUT_RUN = """
    SELECT id FROM messages WHERE role = 'assistant' AND NOT EXISTS (SELECT FROM runs WHERE message_id = messages.id)
"""


@dataclass(slots=True)
class Ended:
    """A run as the database has it. `owners` are the servers that may have made it."""

    row: dict[str, Any]
    log: list[bytes]
    owners: set[int] = field(default_factory=set[int])

    @property
    def end(self) -> dict[str, Any]:
        return json.loads(self.log[-1])

    @property
    def is_interrupted(self) -> bool:
        return self.end.get("code") == "interrupted"


@dataclass(slots=True)
class Stored:
    runs: dict[str, Ended]
    questions: list[tuple[str, str]]
    lines_left: int
    answers_without_run: int


async def stored(play: Play) -> Stored:
    async with play.world.connection() as connection:
        rows = [dict(row) for row in await connection.fetch(_RUNS)]
        questions = [(row["session_id"], row["text"]) for row in await connection.fetch(_QUESTIONS)]
        lines_left = await connection.fetchval(_LINES_LEFT)
        orphans = len(await connection.fetch(_ANSWERS_WITHOUT_RUN))
    # A run that is still open has been told of already.
    runs = {row["id"]: Ended(row, unpack(row["log"])) for row in rows if row["log"] is not None}
    for question in play.played.journal.questions:
        # Who takes up a run by its key need not be answered by its owner.
        asked = {request.server for request in question.requests if request.status in (None, 200, 503)}
        for request in question.requests:
            if request.run_id in runs:
                runs[request.run_id].owners |= asked
    return Stored(runs, questions, lines_left, orphans)
