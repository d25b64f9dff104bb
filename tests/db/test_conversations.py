from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import DBAPIError

from app.db import conversations
from app.db.conversations import AnswerEnd, StoredMessage
from app.db.engine import Sessions
from app.db.tables import Assistant, Process, Run, User
from app.errors import NotFound, SessionBusy

SILENCE = timedelta(seconds=20)
LONG_AGO = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Turn:
    run_id: UUID
    question_id: UUID
    answer_id: UUID


class Conversation:
    """One session in the database, of nobody or of a user."""

    def __init__(self, sessions: Sessions, assistant_id: UUID, user_id: UUID | None = None) -> None:
        self.id = str(uuid4())
        self.user_id = user_id
        self._sessions = sessions
        self._assistant_id = assistant_id

    async def open(self, user_id: UUID | None) -> bool:
        async with self._sessions.begin() as session:
            return await conversations.open_session(
                session, self.id, user_id=user_id, assistant_id=self._assistant_id
            )

    async def ask(self, question: str = "Why?", *, process_id: UUID | None = None) -> Turn:
        turn = Turn(uuid4(), uuid4(), uuid4())
        async with self._sessions.begin() as session:
            await conversations.open_session(
                session, self.id, user_id=self.user_id, assistant_id=self._assistant_id
            )
            await conversations.add_turn(
                session,
                run_id=turn.run_id,
                process_id=process_id or uuid4(),
                session_id=self.id,
                assistant_id=self._assistant_id,
                question_id=turn.question_id,
                question=question,
                answer_id=turn.answer_id,
            )
        return turn

    async def end(self, turn: Turn, end: AnswerEnd) -> None:
        async with self._sessions.begin() as session:
            await conversations.end_turn(session, run_id=turn.run_id, end=end)

    async def answered(self, question: str, answer: str) -> Turn:
        turn = await self.ask(question)
        await self.end(turn, AnswerEnd("completed", answer, finish_reason="stop"))
        return turn

    async def page(
        self, *, before: int | None = None, limit: int = 50, user_id: UUID | None = None
    ) -> list[StoredMessage]:
        async with self._sessions.read() as session:
            return await conversations.page_of_messages(
                session, self.id, user_id=user_id or self.user_id, before=before, limit=limit
            )

    async def remembered(self, before: Turn, limit: int = 100) -> list[str]:
        async with self._sessions.read() as session:
            messages = await conversations.recent_messages(
                session, self.id, before_message=before.question_id, limit=limit
            )
        return [message.text for message in messages]

    async def forget(self, user_id: UUID | None) -> None:
        async with self._sessions.begin() as session:
            await conversations.forget(session, self.id, user_id=user_id)


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
    assert await conversation.open(users[owner]) is False, "it was not there before"
    await conversation.answered("Why?", "Because.")
    async with sessions.read() as session:
        seen = await conversations.page_of_messages(
            session, conversation.id, user_id=users[visitor], before=None, limit=10
        )
        assert await conversations.owner_of(session, conversation.id) == (users[owner],)
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
        assert await conversations.owner_of(session, conversation.id) == (None,)
        assert await conversations.owner_of(session, "nowhere") is None


async def test_a_second_turn_waits_for_the_end_of_the_first_and_leaves_nothing_when_refused(
    conversation: Conversation,
):
    first = await conversation.ask("First?")
    with pytest.raises(SessionBusy):
        await conversation.ask("Second?")
    assert [message.text for message in await conversation.page()] == ["First?", ""]
    await conversation.end(first, AnswerEnd("failed", "Half", error_code="model_incomplete"))
    await conversation.ask("Second?")


async def test_what_an_answer_ended_with_is_what_is_read_again(conversation: Conversation):
    turn = await conversation.ask()
    reserved = (await conversation.page())[1]
    assert (reserved.role, reserved.status, reserved.text) == ("assistant", "running", "")
    end = AnswerEnd(
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
    "end", [AnswerEnd("completed", "Whole"), AnswerEnd("failed", "Whole", error_code="model_timeout")]
)
async def test_a_turn_ends_once(conversation: Conversation, end: AnswerEnd):
    turn = await conversation.ask()
    await conversation.end(turn, end)
    await conversation.end(turn, AnswerEnd("failed", "", error_code="interrupted"))
    await conversation.end(turn, AnswerEnd("completed", "Something else"))
    answer = (await conversation.page())[1]
    assert (answer.status, answer.text, answer.error_code) == (end.status, end.text, end.error_code)


async def end_abandoned(
    sessions: Sessions, process_id: UUID, *, running: tuple[UUID, ...] = (), ago: timedelta = LONG_AGO
) -> int:
    """As the heartbeat of a process does, when all runs began this long ago."""
    async with sessions.begin() as session:
        await session.execute(update(Run).values(started_at=func.now() - ago))
        await conversations.beat(session, process_id)
        return await conversations.end_abandoned_runs(session, process_id, running=running, silence=SILENCE)


async def show_heartbeat(sessions: Sessions, process_id: UUID, *, ago: timedelta) -> None:
    async with sessions.begin() as session:
        await conversations.beat(session, process_id)
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
    running = (turn.run_id,) if still_runs else ()
    assert await end_abandoned(sessions, process_id, running=running, ago=began) == ended


async def test_an_ended_run_is_not_abandoned(conversation: Conversation, sessions: Sessions):
    await conversation.answered("Why?", "Because.")
    assert await end_abandoned(sessions, uuid4()) == 0
    assert (await conversation.page())[1].status == "completed"


async def test_an_assumed_interruption_gives_way_to_the_true_end(
    conversation: Conversation, sessions: Sessions
):
    turn = await conversation.ask()
    assert await end_abandoned(sessions, uuid4()) == 1
    await conversation.end(turn, AnswerEnd("completed", "All of it."))
    answer = (await conversation.page())[1]
    assert (answer.status, answer.text, answer.error_code) == ("completed", "All of it.", None)
    async with sessions.read() as session:
        assert (await session.execute(select(Run.status))).scalar_one() == "completed"


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
    await conversation.end(turn, AnswerEnd("completed", "Too late."))
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
    await conversation.end(failed, AnswerEnd("failed", "", error_code="model_timeout"))
    partial = await conversation.ask("Q2")
    await conversation.end(partial, AnswerEnd("failed", "Half", error_code="model_incomplete"))
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
        await conversations.beat(session, gone)
    await show_heartbeat(sessions, gone, ago=timedelta(days=2))
    async with sessions.begin() as session:
        await conversations.beat(session, living)
        assert (await session.execute(select(Process.id))).scalars().all() == [living]
