"""Letters: what has been said over channels whose answers are brought. One that has been stored is answered, by whichever process."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

from app.db import channels
from app.db.channels import Letter
from app.db.engine import Sessions

LEASE_S = 30.0
"""For how long a letter, and the polling of a channel, is held by a process that shows no sign of life, in seconds."""

_LEASE = timedelta(seconds=LEASE_S)
# Channels send again what they are not told to have arrived, the most patient of them for a day.
_KEPT = timedelta(days=2)


class LetterService:
    def __init__(self, database: Sessions) -> None:
        self._database = database
        self._process_id: UUID = uuid4()

    async def add(self, letters: Sequence[Letter]) -> None:
        """When this returns they are stored, all of them; what has come before is passed over."""
        async with self._database.begin() as session:
            for letter in letters:
                await channels.add(session, letter)

    async def claim(self, names: Sequence[str], *, most: int) -> list[Letter]:
        """Those that wait, to be answered by this process, in the order of their conversations."""
        async with self._database.begin() as session:
            return await channels.claim(session, names, lease=_LEASE, most=most)

    async def keep(self, letters: Sequence[Letter]) -> None:
        await self.put_off(letters, LEASE_S)

    async def put_off(self, letters: Sequence[Letter], wait_s: float) -> None:
        """Whoever claims letters next gets them after this wait."""
        async with self._database.begin() as session:
            await channels.put_off(session, letters, timedelta(seconds=wait_s))

    async def note_posted(self, letter: Letter, posted: Sequence[str]) -> None:
        async with self._database.begin() as session:
            await channels.note_posted(session, letter, posted)

    async def answered(self, letter: Letter) -> None:
        async with self._database.begin() as session:
            await channels.answered(session, letter)

    async def forget_old(self) -> None:
        async with self._database.begin() as session:
            await channels.forget_answered(session, _KEPT)

    async def hold_polling(self, channel: str) -> bool:
        """Whether it is for this process to ask the channel, within the lease."""
        async with self._database.begin() as session:
            return await channels.hold_polling(session, channel, self._process_id, _LEASE)

    async def leave_polling(self, channel: str) -> None:
        async with self._database.begin() as session:
            await channels.leave_polling(session, channel, self._process_id)
