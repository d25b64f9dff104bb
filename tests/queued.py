"""The queue without its clock: a job is done when the test says so."""

from uuid import UUID

from sqlalchemy import text

from app.db.engine import Sessions
from app.db.queue import Job, Later
from app.services.knowledge import KnowledgeService

_TAKE = text(
    "UPDATE pgqueuer SET status = 'picked' WHERE id = (SELECT id FROM pgqueuer WHERE status = 'queued'"
    " AND execute_after <= now() ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, payload, attempts"
)
_PUT_BACK = text("UPDATE pgqueuer SET status = 'queued', attempts = attempts + 1 WHERE id = :id")
_REMOVE = text("DELETE FROM pgqueuer WHERE id = :id")


async def next_job(sessions: Sessions) -> Job | None:
    """The oldest, as a worker takes it."""
    async with sessions.begin() as session:
        row = (await session.execute(_TAKE)).one_or_none()
    return Job(row.id, row.payload, row.attempts) if row is not None else None


async def do_next(sessions: Sessions, knowledge: KnowledgeService) -> bool:
    """One attempt at the job that has waited longest; false if none waits. What is to be done later, waits no longer."""
    job = await next_job(sessions)
    if job is None:
        return False
    over = _REMOVE
    try:
        await knowledge.ingest_job(job)
    except Later:
        over = _PUT_BACK
    async with sessions.begin() as session:
        await session.execute(over, {"id": job.id})
    return True


async def job_of(sessions: Sessions, document_id: UUID) -> Job:
    """As one that has been taken by a process which has died since."""
    statement = text("SELECT id, payload, attempts FROM pgqueuer WHERE payload = :payload")
    async with sessions.read() as session:
        row = (await session.execute(statement, {"payload": str(document_id).encode()})).one()
    return Job(row.id, row.payload, row.attempts)
