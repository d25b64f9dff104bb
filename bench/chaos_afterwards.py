"""What clients must find after a programme, when all is quiet: every answer from every process, and sessions that take questions."""

import json
from collections.abc import Sequence
from random import Random

from bench.chaos_play import Play
from bench.chaos_stored import Stored

_QUIET_ENDS = 3
_READING_WITHIN_S = 0.03


async def afterwards(play: Play, stored: Stored) -> list[str]:
    """Asks each session once more at the end."""
    ready = [server.number for server in play.world.servers if server.is_ready]
    found = await _replays(play, stored, ready)
    found += await _histories(play, stored, ready)
    found += await _not_busy(play, ready)
    return found + await _quiet_ends(play, ready)


async def _replays(play: Play, stored: Stored, ready: Sequence[int]) -> list[str]:
    """From every process the same bytes, for as long as the session is there."""
    found: list[str] = []
    for run_id, run in stored.runs.items():
        session_id = run.row["session_id"]
        for server in ready:
            async with play.clients.get(server, f"{session_id}/stream", run_id=run_id, after="0") as response:
                body = await response.read()
            if response.status == 404 and play.played.journal.removed(session_id):
                continue
            if response.status != 200 or body != b"".join(run.log):
                found.append(f"server {server} replays run {run_id} with {response.status} and other bytes")
    return found


async def _histories(play: Play, stored: Stored, ready: Sequence[int]) -> list[str]:
    found: list[str] = []
    chance = Random(play.played.programme.seed)
    by_message = {run.row["message_id"]: run for run in stored.runs.values()}
    for session_id in {run.row["session_id"] for run in stored.runs.values()}:
        async with play.clients.get(chance.choice(ready), f"{session_id}/history", limit="200") as response:
            messages = (await response.json())["messages"] if response.status == 200 else None
        if messages is None:
            found.append(f"the history of session {session_id} got {response.status}")
            continue
        for message in messages:
            run = by_message.get(message["id"])
            if message["sender"] == "bot" and (
                run is None
                or (message["text"], message["status"], message["error_code"])
                != (run.row["text"], run.row["status"], run.row["error_code"])
                or message["sources"] != json.loads(run.row["sources"] or "[]")
            ):
                found.append(f"the history of session {session_id} shows another answer {message['id']}")
    return found


async def _not_busy(play: Play, ready: Sequence[int]) -> list[str]:
    found: list[str] = []
    chance = Random(play.played.programme.seed)
    for conversation in play.played.programme.conversations:
        status, body = await play.clients.ask_once_more(chance.choice(ready), conversation.session_id)
        end = json.loads(body.splitlines()[-1])
        if status != 200 or end.get("status") != "completed":
            found.append(f"session {conversation.session_id} does not take another question: {status} {end}")
    return found


async def _quiet_ends(play: Play, ready: Sequence[int]) -> list[str]:
    """What a process tells last is missed by nobody: nothing that it says later would make up for it."""
    chance = Random(play.played.programme.seed)
    found: list[str] = []
    for _ in range(_QUIET_ENDS):
        owner, *others = chance.sample(ready, len(ready))
        asleep_after_s = [chance.uniform(0.002, _READING_WITHIN_S) for _ in others]
        found += await play.clients.quiet_end(owner, others, asleep_after_s)
    return found
