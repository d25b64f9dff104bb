"""A few programmes of chaos: processes that are killed, frozen and stopped, and a database that crashes, under clients that come and go."""

import anyio

from bench import chaos
from bench.chaos_plan import draw

# A process is frozen for longer than others wait for it, another is killed, and the database restarts.
_SEED = 58
_WITHIN_S = 240


async def test_no_promise_is_broken_whatever_happens_to_processes_and_database():
    assert {one.kind for one in draw(_SEED).disturbances} == {"freeze", "kill", "database"}
    with anyio.fail_after(_WITHIN_S):
        result = await chaos.run([_SEED])
    assert result.violations == {}
    assert result.counts["questions accepted"] > 10


async def test_what_the_database_does_not_forbid_any_more_is_seen():
    sought = "two answers are made at once"
    with anyio.fail_after(_WITHIN_S):
        # It ends with the first that sees it. What comes of it may be seen before, as an answer that ends twice.
        result = await chaos.run(range(1000, 1020), rule="unique-index", sought=sought)
    assert any(sought in what for found in result.violations.values() for what in found)
