"""Changing the embedder of a database that holds documents."""

from collections.abc import Callable

from app.db import embedders
from app.db.engine import Sessions
from app.llm.protocols import Embedder

_PASSAGES_A_BATCH = 64

OnProgress = Callable[[int, int], None]
"""Is told how many chunks are done, of how many."""


class ReembedService:
    def __init__(self, sessions: Sessions, embedder: Embedder) -> None:
        self._sessions = sessions
        self._embedder = embedder

    async def reembed(self, on_progress: OnProgress) -> bool:
        """Embeds every chunk anew, then makes this embedder the database's in one transaction. False if it is already.

        The old embeddings serve until then, and an attempt that was broken off is taken up where it ended. A server that
        still runs with the old embedder has to be started again afterwards.
        """
        name, dimensions = self._embedder.name, self._embedder.dimensions
        async with self._sessions.begin() as session:
            if await embedders.is_current(session, name, dimensions):
                return False
            await embedders.prepare_change(session, name)
            done, total = await embedders.progress_of_change(session)
        while True:
            on_progress(done, total)
            async with self._sessions.begin() as session:
                passages = await embedders.next_passages(session, _PASSAGES_A_BATCH)
                if not passages:
                    # Looked at again where no more can come.
                    await embedders.hold_chunks(session)
                    passages = await embedders.next_passages(session, _PASSAGES_A_BATCH)
                if not passages:
                    await embedders.finish_change(session, name, dimensions)
                    return True
            embeddings = await self._embedder.embed_passages([passage.text for passage in passages])
            async with self._sessions.begin() as session:
                await embedders.store_new(session, name, passages, embeddings)
                done, total = await embedders.progress_of_change(session)
