"""Files that change their collection, whatever is going on with them."""

import anyio
import pytest

from app.db.engine import Sessions
from app.ingest.convert import Converter
from app.services.knowledge import KnowledgeService
from app.services.vector_stores import UPLOADS, VectorStoreService
from tests.queued import do_next, next_job
from tests.services.test_knowledge import RIVERS, GuidedEmbedder


@pytest.mark.parametrize("moment", ["while it waits", "while it is embedded", "once it is ready"])
async def test_a_file_is_found_where_it_was_put_and_nowhere_else(sessions: Sessions, moment: str):
    embedder = GuidedEmbedder()
    async with Converter() as converter:
        knowledge = KnowledgeService(sessions, embedder, converter, max_upload_bytes=100_000)
        stores = VectorStoreService(sessions, knowledge.passages)
        file, _ = await knowledge.add(UPLOADS, "rivers.md", RIVERS)
        job = await next_job(sessions)
        assert job is not None
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                if moment != "while it waits":
                    tasks.start_soon(knowledge.ingest_job, job)
                    await embedder.asked.wait()
                if moment == "while it is embedded":
                    await stores.create("waters", file_ids=[file.id])
                embedder.may.set()
            if moment != "while it is embedded":
                await stores.create("waters", file_ids=[file.id])
            await knowledge.ingest_job(job)
            assert await do_next(sessions, knowledge) == (moment != "once it is ready")

        waters, uploads = await knowledge.collection("waters"), await knowledge.collection(UPLOADS)
        assert (await knowledge.document(file.id)).status == "ready"
        assert (waters.chunk_count, uploads.chunk_count) == (1, 0)
        for name, hits in (("waters", 1), (UPLOADS, 0)):
            found = await stores.search(name, ["What is a freshet?"], limit=1, similarity_cutoff=0)
            assert len(found) == hits
