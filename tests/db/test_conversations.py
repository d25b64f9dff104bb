from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import conversations, memory, processes, runs
from app.db import sessions as session_queries
from app.db.conversations import NewRun, StoredMessage
from app.db.engine import Sessions
from app.db.runs import AnswerEnd, NewLines
from app.db.tables import Assistant, Process, Run, User
from app.errors import NotFound, SessionBusy

SILENCE = timedelta(seconds=20)
LONG_AGO = timedelta(hours=1)


def ended(status: str, text: str, **rest: Any) -> AnswerEnd:
    return AnswerEnd(status, text, log=b"packed", last_seq=3, **rest)


class Conversation:
    """One session in the database, of nobody or of a user."""

    def __init__(self, sessions: Sessions, assistant_id: UUID, user_id: UUID | None = None) -> None:
        self.id = str(uuid4())
        self.user_id = user_id
        self._sessions = sessions
        self._assistant_id = assistant_id

    async def open(self, user_id: UUID | None) -> bool:
        async with self._sessions.begin() as session:
            opened = await session_queries.open_session(
                session, self.id, user_id=user_id, assistant_id=self._assistant_id
            )
        return opened.has_messages

    async def ask(
        self, question: str = "Why?", *, process_id: UUID | None = None, status: str = "running"
    ) -> NewRun:
        run = NewRun(
            id=uuid4(),
            process_id=process_id or uuid4(),
            session_id=self.id,
            assistant_id=self._assistant_id,
            question_id=uuid4(),
            answer_id=uuid4(),
            language=None,
            status=status,
        )
        async with self._sessions.begin() as session:
            await session_queries.open_session(
                session, self.id, user_id=self.user_id, assistant_id=self._assistant_id
            )
            await conversations.add_turn(session, run, question)
        return run

    async def end(self, run: NewRun, end: AnswerEnd) -> bool:
        async with self._sessions.begin() as session:
            return await runs.end(session, run.id, end)

    async def answered(self, question: str, answer: str) -> NewRun:
        run = await self.ask(question)
        await self.end(run, ended("completed", answer, finish_reason="stop"))
        return run

    async def page(
        self, *, before: int | None = None, limit: int = 50, user_id: UUID | None = None
    ) -> list[StoredMessage]:
        async with self._sessions.read() as session:
            return await conversations.page_of_messages(
                session, self.id, user_id=user_id or self.user_id, before=before, limit=limit
            )

    async def remembered(self, before: NewRun, limit: int = 100) -> list[str]:
        async with self._sessions.read() as session:
            remembered = await memory.newest(session, self.id, before_message=before.question_id, limit=limit)
        return [message.text for message in remembered.messages]

    async def forget(self, user_id: UUID | None) -> None:
        async with self._sessions.begin() as session:
            await session_queries.forget(session, self.id, user_id=user_id)


@pytest.fixture
async def assistant_id(sessions: Sessions) -> UUID:
    identifier = uuid4()
    async with sessions.begin() as session:
        await session.execute(insert(Assistant).values(id=identifier, slug="one", name="One"))
    return identifier


@pytest.fixture
async def users(sessions: Sessions) -> dict[str, UUID | None]:
    ids: dict[str, UUID | None] = {"nobody": None}
    async with sessions.begin() as session:
        for name in ("ada", "bob"):
            ids[name] = identifier = uuid4()
            await session.execute(
                insert(User).values(id=identifier, email=f"{name}@example.com", password_hash="", role="user")
            )
    return ids


@pytest.fixture
def conversation(sessions: Sessions, assistant_id: UUID) -> Conversation:
    return Conversation(sessions, assistant_id)


@pytest.mark.parametrize(
    ("owner", "visitor", "may_enter"),
    [
        ("nobody", "nobody", True),
        ("nobody", "ada", True),
        ("ada", "ada", True),
        ("ada", "nobody", False),
        ("ada", "bob", False),
    ],
)
async def test_who_may_enter_a_session(
    sessions: Sessions,
    assistant_id: UUID,
    users: dict[str, UUID | None],
    owner: str,
    visitor: str,
    may_enter: bool,
):
    conversation = Conversation(sessions, assistant_id, users[owner])
    assert await conversation.open(users[owner]) is False, "nothing has been said there"
    await conversation.answered("Why?", "Because.")
    async with sessions.read() as session:
        seen = await conversations.page_of_messages(
            session, conversation.id, user_id=users[visitor], before=None, limit=10
        )
        assert await session_queries.owner_of(session, conversation.id) == (users[owner],)
    assert len(seen) == (2 if may_enter else 0)
    if may_enter:
        assert await conversation.open(users[visitor]) is True
    else:
        with pytest.raises(NotFound):
            await conversation.open(users[visitor])
    await conversation.forget(users[visitor])
    assert len(await conversation.page(user_id=users[owner])) == (0 if may_enter else 2)


async def test_entering_an_anonymous_session_does_not_make_it_ones_own(
    conversation: Conversation, sessions: Sessions, users: dict[str, UUID | None]
):
    await conversation.open(None)
    await conversation.open(users["ada"])
    async with sessions.read() as session:
        assert await session_queries.owner_of(session, conversation.id) == (None,)
        assert await session_queries.owner_of(session, "nowhere") is None


async def test_a_second_turn_waits_for_the_end_of_the_first_and_leaves_nothing_when_refused(
    conversation: Conversation,
):
    first = await conversation.ask("First?")
    with pytest.raises(SessionBusy):
        await conversation.ask("Second?")
    assert [message.text for message in await conversation.page()] == ["First?", ""]
    await conversation.end(first, ended("failed", "Half", error_code="model_incomplete"))
    await conversation.ask("Second?")


async def test_what_an_answer_ended_with_is_what_is_read_again(conversation: Conversation):
    turn = await conversation.ask()
    reserved = (await conversation.page())[1]
    assert (reserved.role, reserved.status, reserved.text) == ("assistant", "running", "")
    end = ended(
        "completed",
        "Because “so”.",
        finish_reason="stop",
        sources=[{"id": "1", "text": "so"}],
        steps=[{"step_id": "a"}],
        usage={"input_tokens": 1},
    )
    await conversation.end(turn, end)
    answer = (await conversation.page())[1]
    assert (answer.id, answer.status, answer.text) == (turn.answer_id, "completed", end.text)
    assert (answer.finish_reason, answer.error_code, answer.usage) == ("stop", None, {"input_tokens": 1})
    assert (answer.sources, answer.steps) == (end.sources, end.steps)


@pytest.mark.parametrize(
    "end", [ended("completed", "Whole"), ended("failed", "Whole", error_code="model_timeout")]
)
async def test_a_turn_ends_once(conversation: Conversation, end: AnswerEnd):
    turn = await conversation.ask()
    assert await conversation.end(turn, end)
    assert not await conversation.end(turn, ended("failed", "", error_code="interrupted"))
    assert not await conversation.end(turn, ended("completed", "Something else"))
    answer = (await conversation.page())[1]
    assert (answer.status, answer.text, answer.error_code) == (end.status, end.text, end.error_code)


async def end_abandoned(
    sessions: Sessions, process_id: UUID, *, running: tuple[UUID, ...] = (), ago: timedelta = LONG_AGO
) -> int:
    """As the heartbeat of a process does, when all runs began this long ago."""
    async with sessions.begin() as session:
        await session.execute(update(Run).values(started_at=func.now() - ago))
        await processes.beat(session, process_id)
        silent = await processes.hold_silent(session, process_id, silence=SILENCE)
        left = await runs.abandoned(
            session, process_id, silent=silent, running=running, silence=SILENCE, limit=10
        )
        for one in left:
            await runs.end(session, one.run_id, ended("failed", "Kept", error_code="interrupted"))
        return len(left)


async def show_heartbeat(sessions: Sessions, process_id: UUID, *, ago: timedelta) -> None:
    async with sessions.begin() as session:
        await processes.beat(session, process_id)
        await session.execute(
            update(Process).where(Process.id == process_id).values(heartbeat_at=func.now() - ago)
        )


@pytest.mark.parametrize(
    ("last_beat", "began", "ended"),
    [
        (timedelta(0), LONG_AGO, 0),
        (SILENCE / 2, LONG_AGO, 0),
        (2 * SILENCE, LONG_AGO, 1),
        (None, LONG_AGO, 1),
        # It may have been accepted just before the first heartbeat of its process.
        (None, SILENCE / 2, 0),
    ],
)
async def test_the_runs_of_a_silent_process_are_ended(
    conversation: Conversation,
    sessions: Sessions,
    last_beat: timedelta | None,
    began: timedelta,
    ended: int,
):
    other = uuid4()
    await conversation.ask(process_id=other)
    if last_beat is not None:
        await show_heartbeat(sessions, other, ago=last_beat)
    assert await end_abandoned(sessions, uuid4(), ago=began) == ended
    answer = (await conversation.page())[1]
    assert (answer.status, answer.error_code) == (("failed", "interrupted") if ended else ("running", None))
    if ended:
        await conversation.ask("Again?")


@pytest.mark.parametrize(
    ("still_runs", "began", "ended"), [(True, LONG_AGO, 0), (False, LONG_AGO, 1), (False, SILENCE / 2, 0)]
)
async def test_a_run_that_its_own_process_has_lost_is_ended(
    conversation: Conversation, sessions: Sessions, still_runs: bool, began: timedelta, ended: int
):
    process_id = uuid4()
    turn = await conversation.ask(process_id=process_id)
    running = (turn.id,) if still_runs else ()
    assert await end_abandoned(sessions, process_id, running=running, ago=began) == ended


async def test_an_ended_run_is_not_abandoned(conversation: Conversation, sessions: Sessions):
    await conversation.answered("Why?", "Because.")
    assert await end_abandoned(sessions, uuid4()) == 0
    assert (await conversation.page())[1].status == "completed"


async def test_what_another_process_has_ended_stays_ended_when_its_own_wakes_up(
    conversation: Conversation, sessions: Sessions
):
    own = uuid4()
    turn = await conversation.ask(process_id=own)
    await show_heartbeat(sessions, own, ago=2 * SILENCE)
    assert await end_abandoned(sessions, uuid4()) == 1
    async with sessions.begin() as session:
        await processes.beat(session, own)
        assert await runs.add_lines(session, [NewLines(turn.id, 1, 1, b"{}\n")]) == set()
        assert await runs.called_off(session, [turn.id]) == {turn.id: False}
    assert not await conversation.end(turn, ended("completed", "All of it."))
    answer = (await conversation.page())[1]
    assert (answer.status, answer.text, answer.error_code) == ("failed", "Kept", "interrupted")


async def test_a_process_that_wakes_up_waits_for_who_is_ending_its_runs(
    conversation: Conversation, sessions: Sessions
):
    """Else it would store lines behind the end."""
    own = uuid4()
    turn = await conversation.ask(process_id=own)
    await show_heartbeat(sessions, own, ago=2 * SILENCE)
    taken: list[set[UUID]] = []

    async def wake_up() -> None:
        async with sessions.begin() as session:
            await processes.beat(session, own)
            taken.append(await runs.add_lines(session, [NewLines(turn.id, 1, 1, b"{}\n")]))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, sessions.begin() as session:
            silent = await processes.hold_silent(session, uuid4(), silence=SILENCE)
            assert silent == [own]
            tasks.start_soon(wake_up)
            while not await blocked(session):  # noqa: ASYNC110  # the database tells nobody
                await anyio.sleep(0.01)
            await runs.end(session, turn.id, ended("failed", "Kept", error_code="interrupted"))
    assert taken == [set()]


async def blocked(session: AsyncSession) -> bool:
    """Whether another connection waits for what this one holds."""
    waiting = text(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    )
    return bool((await session.execute(waiting)).scalar_one())


async def test_lines_are_news_until_the_log_is_whole(conversation: Conversation, sessions: Sessions):
    turn = await conversation.ask()
    unknown = uuid4()
    async with sessions.begin() as session:
        await runs.add_lines(session, [NewLines(turn.id, 1, 2, b"1\n2\n")])
        # As after an attempt whose success was not told.
        await runs.add_lines(session, [NewLines(turn.id, 3, 3, b"3\n")])
        assert await runs.add_lines(session, [NewLines(turn.id, 3, 4, b"3\n4\n")]) == {turn.id}
        assert [one.lines for one in await runs.news(session, {turn.id: 0})] == [b"1\n2\n", b"3\n4\n"]
        assert [(one.first_seq, one.lines) for one in await runs.news(session, {turn.id: 3})] == [
            (3, b"3\n4\n")
        ]
        (nothing,) = await runs.news(session, {turn.id: 4})
        assert (nothing.exists, nothing.lines, nothing.log) == (True, None, None)
        (gone,) = await runs.news(session, {unknown: 0})
        assert not gone.exists
        await runs.end(session, turn.id, ended("completed", "All"))
        (whole,) = await runs.news(session, {turn.id: 2})
        assert (whole.log, whole.lines) == (b"packed", None)
        assert await runs.lines_of(session, [turn.id]) == {turn.id: []}


async def test_queued_runs_follow_in_the_order_of_their_questions(
    conversation: Conversation, sessions: Sessions
):
    first = await conversation.ask("First?")
    second = await conversation.ask("Second?", status="queued")
    third = await conversation.ask("Third?", status="queued")

    async def promote(run: NewRun) -> bool:
        async with sessions.begin() as session:
            return await runs.promote(session, run.id)

    assert [await promote(run) for run in (second, third)] == [False, False]
    await conversation.end(first, ended("completed", "One."))
    # A second attempt may follow one whose success was not told.
    assert [await promote(run) for run in (third, second, second, third)] == [False, True, True, False]
    await conversation.end(second, ended("stopped", "Two."))
    assert await promote(third)
    statuses = [message.status for message in await conversation.page() if message.role == "assistant"]
    assert statuses == ["completed", "stopped", "running"]


async def test_of_two_that_are_promoted_at_once_one_is(conversation: Conversation, sessions: Sessions):
    """The index decides, as each of them cannot see the other."""
    second = await conversation.ask("Second?", status="queued")
    async with sessions.begin() as session:
        await session.execute(update(Run).where(Run.id == second.id).values(status="running"))
    third = await conversation.ask("Third?", status="queued")
    with pytest.raises(IntegrityError, match="runs_one_running_a_session_key"):
        async with sessions.begin() as session:
            await session.execute(update(Run).where(Run.id == third.id).values(status="running"))


async def test_what_is_forgotten_is_out_of_sight_and_out_of_mind(conversation: Conversation):
    await conversation.answered("My name?", "Ada.")
    await conversation.forget(None)
    assert await conversation.page() == []
    later = await conversation.ask("Who am I?")
    assert await conversation.remembered(later) == []
    assert [message.text for message in await conversation.page()] == ["Who am I?", ""]


async def test_an_answer_that_was_being_made_when_it_was_forgotten_stays_out_of_sight(
    conversation: Conversation,
):
    turn = await conversation.ask()
    await conversation.forget(None)
    await conversation.end(turn, ended("completed", "Too late."))
    assert await conversation.page() == []
    assert await conversation.remembered(await conversation.ask("And?")) == []


async def test_forgetting_what_is_not_there_is_nothing(conversation: Conversation):
    await conversation.forget(None)
    await conversation.open(None)
    await conversation.forget(None)
    assert await conversation.page() == []


async def test_pages_follow_each_other_without_a_gap(conversation: Conversation):
    for number in range(3):
        await conversation.answered(f"Q{number}", f"A{number}")
    newest = await conversation.page(limit=2)
    middle = await conversation.page(limit=3, before=newest[0].position)
    oldest = await conversation.page(limit=3, before=middle[0].position)
    assert [m.text for m in (*oldest, *middle, *newest)] == ["Q0", "A0", "Q1", "A1", "Q2", "A2"]
    assert await conversation.page(before=oldest[0].position) == []


async def test_what_is_remembered_ends_before_the_question_and_leaves_out_empty_answers(
    conversation: Conversation, sessions: Sessions, assistant_id: UUID
):
    await Conversation(sessions, assistant_id).answered("Elsewhere?", "Elsewhere.")
    await conversation.answered("Q0", "A0")
    failed = await conversation.ask("Q1")
    await conversation.end(failed, ended("failed", "", error_code="model_timeout"))
    partial = await conversation.ask("Q2")
    await conversation.end(partial, ended("failed", "Half", error_code="model_incomplete"))
    now = await conversation.ask("Q3")
    assert await conversation.remembered(now) == ["Q0", "A0", "Q1", "Q2", "Half"]
    assert await conversation.remembered(now, limit=2) == ["Q2", "Half"]


async def test_a_value_that_the_database_cannot_take_is_a_bug_and_no_absence(sessions: Sessions):
    with pytest.raises(DBAPIError):
        async with sessions.read() as session:
            await conversations.page_of_messages(session, "x", user_id=None, before=10**30, limit=1)


async def test_a_process_that_has_long_been_gone_is_forgotten(sessions: Sessions):
    living, gone = uuid4(), uuid4()
    async with sessions.begin() as session:
        await processes.beat(session, gone)
    await show_heartbeat(sessions, gone, ago=timedelta(days=2))
    async with sessions.begin() as session:
        await processes.beat(session, living)
        assert (await session.execute(select(Process.id))).scalars().all() == [living]
