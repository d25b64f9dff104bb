"""What must hold after a programme, whatever was done in it: each check tells what is wrong, in a sentence each."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from app.conformance import check
from bench.chaos_afterwards import afterwards
from bench.chaos_journal import Follower, Question
from bench.chaos_plan import may_be_asked_again
from bench.chaos_play import Done, Play, Played
from bench.chaos_readings import compare, compare_erased
from bench.chaos_stored import Ended, Stored
from bench.chaos_stored import stored as stored_of
from bench.chaos_world import SILENCE_S

_NOT_STORED = {400, 404, 409, 422}
_MOST_TO_CONFORM = 1000
# A process may be late by as much before others may take it for dead.
_WITHIN_S = SILENCE_S / 2


async def problems(play: Play) -> list[str]:
    """Of a programme that has settled. Asks each session once more at the end."""
    played = play.played
    stored = await stored_of(play)
    found = [*played.problems]
    found += [f"two answers are made at once in session {session_id}" for session_id in played.two_at_once]
    found += _stored_once(played, stored)
    found += _one_run_a_key(played, stored)
    found += _one_call_a_run(play, stored)
    found += _terminal(stored)
    found += _without_reason(played, stored)
    found += _followers(played, stored)
    found += _statuses(played)
    found += _stops(played, stored)
    return found + await afterwards(play, stored)


def _stored_once(played: Played, stored: Stored) -> Iterator[str]:
    found = Counter(text[text.index("[") :] for _, text in stored.questions if "[" in text)
    for question in played.journal.questions:
        count = found[question.marker]
        if count > 1:
            yield f"question {question.marker} is stored {count} times"
        if question.turn.again or played.journal.removed(question.session_id, purged=True):
            continue
        if question.accepted and count != 1:
            yield f"question {question.marker} was accepted and is stored {count} times"
        if count and all(request.status in _NOT_STORED for request in question.requests):
            yield f"question {question.marker} was refused and is stored"


def _one_run_a_key(played: Played, stored: Stored) -> Iterator[str]:
    runs_of_key: defaultdict[str, set[str]] = defaultdict(set)
    for run_id, run in stored.runs.items():
        if run.row["idempotency_key"] is not None:
            runs_of_key[run.row["idempotency_key"]].add(run_id)
    for question in played.journal.questions:
        if question.turn.key is None or played.journal.removed(question.session_id, purged=True):
            continue
        seen = {request.run_id for request in question.requests if request.run_id is not None}
        kept = runs_of_key[question.turn.key]
        if len(seen | kept) > 1:
            yield f"the key of question {question.marker} led to the runs {sorted(seen | kept)}"
        if question.accepted and not kept:
            yield f"the key of question {question.marker} leads to no run"


def _one_call_a_run(play: Play, stored: Stored) -> Iterator[str]:
    calls: Counter[tuple[str, str]] = Counter()
    for received in play.world.upstream.received:
        last = str(received.body.get("messages", [{}])[-1].get("content", ""))
        # A summary of the conversation has more behind the question.
        if last.endswith("]"):
            calls[last[last.rindex("[") :].partition("]")[0], received.body["model"]] += 1
    runs: Counter[tuple[str, str]] = Counter()
    completed: Counter[tuple[str, str]] = Counter()
    for run in stored.runs.values():
        if "[" in run.row["question"]:
            question = run.row["question"]
            key = question[question.rindex("[") :].partition("]")[0], run.row["model"]
            runs[key] += 1
            completed[key] += run.row["status"] == "completed"
    purged = {
        f"{question.marker[:-1]}"
        for question in play.played.journal.questions
        if play.played.journal.removed(question.session_id, purged=True)
    }
    for key, count in calls.items():
        if key[0] not in purged and not may_be_asked_again(key[1]) and count > runs[key]:
            yield f"the model {key[1]} was called {count} times for {runs[key]} runs of question {key[0]}]"
    for key, count in completed.items():
        if count > calls[key]:
            yield f"{count} runs of question {key[0]}] are complete after {calls[key]} calls of the model"


def _terminal(stored: Stored) -> Iterator[str]:
    if stored.lines_left:
        yield f"{stored.lines_left} rows of lines are left of runs that have ended"
    if stored.answers_without_run:
        yield f"{stored.answers_without_run} answers have no run"
    for run_id, run in stored.runs.items():
        yield from (f"run {run_id}: {what}" for what in _unlike_its_log(run))
        if complaints := check(b"".join(run.log), form="ndjson").problems:
            yield f"the log of run {run_id}: {complaints[0]}"


def _unlike_its_log(run: Ended) -> Iterator[str]:
    row, end = run.row, run.end
    said: list[dict[str, Any]] = [json.loads(line) for line in run.log]
    sources: list[Any] = [event["data"] for event in said if event["type"] == "sources"]
    status = {"done": end.get("status"), "error": "failed"}.get(end["type"])
    if sum(event["type"] in ("done", "error") for event in said) != 1 or status is None:
        yield "its log does not have one terminal event, at its end"
    if not row["status"] == row["message_status"] == status:
        yield f"it is {row['status']}, its answer {row['message_status']}, its log {status}"
    if not row["error_code"] == row["message_error_code"] == end.get("code"):
        yield f"it failed with {row['error_code']}, its log with {end.get('code')}"
    if row["last_seq"] != len(run.log):
        yield f"it has {len(run.log)} lines and last_seq {row['last_seq']}"
    if "".join(event["content"] for event in said if event["type"] == "token") != row["text"]:
        yield "its answer has another text than its log"
    if json.loads(row["sources"] or "[]") != (sources[0] if sources else []):
        yield "its answer has other sources than its log"


def _causes(played: Played, run: Ended) -> list[Done]:
    """What may have ended this run before its time."""
    return [
        done
        for done in played.disturbances
        if done.what.kind == "database"
        or ((not run.owners or done.what.server in run.owners) and _is_long(done))
    ]


def _is_long(done: Done) -> bool:
    return done.what.kind != "freeze" or done.what.lasts_s > _WITHIN_S


def _without_reason(played: Played, stored: Stored) -> Iterator[str]:
    for run_id, run in stored.runs.items():
        if not run.is_interrupted or _causes(played, run):
            continue
        if _is_starved(played, run):
            played.interrupted_for_want_of_a_processor += 1
        else:
            yield f"run {run_id} of server {run.owners} is interrupted, and nothing has happened to it"


def _is_starved(played: Played, run: Ended) -> bool:
    return bool(played.starved & run.owners if run.owners else played.starved)


def _followers(played: Played, stored: Stored) -> Iterator[str]:
    erased: defaultdict[str, list[Follower]] = defaultdict(list)
    for follower in played.journal.followers:
        run = stored.runs.get(follower.run_id)
        where = f"a reader of run {follower.run_id}"
        if follower.gave_up:
            seen = [
                f"server {reading.server} from {reading.after}: {len(reading.events)} events, {reading.heartbeats} heartbeats"
                for reading in follower.readings
            ]
            end = f"{len(run.log)} lines of {run.owners}, {run.row['status']}" if run is not None else "gone"
            yield f"{where} waited for its end for too long: {', '.join(seen)}; it is {end}"
        if run is None:
            erased[follower.run_id].append(follower)
            if not played.journal.removed(follower.session_id, purged=True):
                yield f"{where} follows a run that is not stored"
            continue
        for what in _follower(played, follower, run):
            yield f"{where} {what}"
    for run_id, followers in erased.items():
        for what in compare_erased([reading for one in followers for reading in one.readings]):
            yield f"a reader of the erased run {run_id} {what}"


def _follower(played: Played, follower: Follower, run: Ended) -> Iterator[str]:
    removed = played.journal.removed(follower.session_id)
    causes = _causes(played, run)
    began_at = min((done.began for done in causes), default=None)
    if played.database_was_away or _is_starved(played, run):
        # Nothing can be kept while the database is away, nor by a process that does not come to run.
        began_at = played.began
    for reading in follower.readings:
        is_owners = not run.owners or reading.server in run.owners
        yield from compare(reading, run.log, lost_since=began_at if is_owners else None, removed=removed)
        broken = reading.ended == "broken" and reading.server not in {
            done.what.server for done in played.disturbances
        }
        slow = run.row["model"] is not None and "w" in run.row["model"]
        if broken and not slow:
            yield f"lost its connection to server {reading.server}, to which nothing had happened"
    seen = any(reading.events for reading in follower.readings[:-1])
    if follower.readings and follower.readings[-1].status == 204 and seen and not follower.is_over:
        yield f"has {follower.readings[-1].after} of {len(run.log)} lines, and is told that there is nothing more"
    whole = [event for reading in follower.readings for _, event in reading.events if not reading.sse]
    plain = not any(reading.sse or reading.is_cut for reading in follower.readings)
    from_the_start = plain and follower.is_over and follower.readings[0].after == 0
    if from_the_start and len(whole) <= _MOST_TO_CONFORM:
        complaints = check(b"".join(whole), form="ndjson").problems
        shown = [
            f"server {reading.server} behind {reading.after}, {reading.ended}: {[event[:40] for _, event in reading.events[:3]]}"
            for reading in follower.readings
        ]
        yield from (f"has the whole {shown}, and the check says: {one}" for one in complaints[:1])


def _statuses(played: Played) -> Iterator[str]:
    allowed = {200, 404, 409}
    if played.disturbances:
        allowed |= {None, 503}
    for question in played.journal.questions:
        may = allowed | {502, 503, 504} if question.turn.whole else allowed
        for request in question.requests:
            if request.status not in may:
                yield f"question {question.marker} to server {request.server} got {request.status} {request.code}"
            if request.status == 404 and not _may_be_gone(played, question):
                yield f"question {question.marker} got 404"
    for session_id, purge, status in played.journal.removals:
        if status != 200 and not (status in (None, 503) and played.disturbances):
            yield f"session {session_id} was to be deleted (purge: {purge}) and got {status}"


def _may_be_gone(played: Played, question: Question) -> bool:
    return question.turn.again or played.journal.removed(question.session_id)


def _stops(played: Played, stored: Stored) -> Iterator[str]:
    for stop in played.journal.stops:
        if stop.status is None or stop.status == 503:
            if not played.disturbances:
                yield f"a stop got {stop.status}"
            continue
        removed = played.journal.removed(stop.session_id)
        if stop.status != 200:
            if not (stop.status == 404 and removed):
                yield f"a stop of run {stop.run_id} got {stop.status} {stop.answer.get('code')}"
            continue
        run = stored.runs.get(stop.answer["run_id"] or "")
        if run is None:
            if not removed:
                yield f"a stop of run {stop.run_id} found {stop.answer}"
        elif stop.answer["status"] != run.row["status"]:
            yield (
                f"a stop of run {stop.answer['run_id']} said {stop.answer['status']} after {stop.took_s:.1f} s,"
                f" and it is {run.row['status']} {run.row['error_code']}"
            )
