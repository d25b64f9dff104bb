"""What was tried in a batch, and how often."""

from collections import Counter

from bench.chaos_play import Played


def count(played: Played, counts: Counter[str]) -> None:
    for question in played.journal.questions:
        counts["questions"] += 1
        counts["requests to ask"] += len(question.requests)
        counts["questions accepted"] += question.accepted
        counts["questions with a key"] += question.turn.key is not None
        counts["the same key twice at once"] += len(question.turn.servers) > 1
        counts["answers asked for again"] += question.turn.again
        counts["questions refused as busy"] += any(request.status == 409 for request in question.requests)
        counts[f"on_busy {question.turn.on_busy}"] += 1
    for follower in played.journal.followers:
        counts["readers"] += 1
        counts["responses read"] += len(follower.readings)
        for reading in follower.readings:
            counts[f"responses that ended: {reading.ended}"] += 1
            counts["events read"] += len(reading.events)
            counts["readers cut off as too slow"] += reading.last.get("code") == "reader_too_slow"
            counts["readers sent away by a stop"] += (
                reading.is_cut and reading.last.get("code") == "shutting_down"
            )
    counts["answers interrupted for want of a processor"] += played.interrupted_for_want_of_a_processor
    counts["stops"] += len(played.journal.stops)
    counts["sessions deleted"] += sum(not purge for _, purge, _ in played.journal.removals)
    counts["sessions purged"] += sum(purge for _, purge, _ in played.journal.removals)
    for done in played.disturbances:
        what = done.what
        match what.kind:
            case "kill":
                counts["kill -9 of a process"] += 1
            case "term":
                counts[f"SIGTERM, {1 + len(what.signals)} times"] += 1
            case "freeze":
                counts["SIGSTOP beyond the limit" if what.lasts_s > 1 else "SIGSTOP within the limit"] += 1
            case "database":
                counts["PostgreSQL crashed" if what.crash else "PostgreSQL restarted"] += 1


def table(counts: Counter[str], programmes: int, took_s: float) -> str:
    rows = [f"| programmes | {programmes} |", f"| seconds | {took_s:.0f} |"]
    rows += [f"| {name} | {number} |" for name, number in sorted(counts.items())]
    return "\n".join(["| what | count |", "| --- | ---: |", *rows])
