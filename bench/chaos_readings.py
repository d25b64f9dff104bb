"""What a reader may have seen of a run, byte for byte."""

from collections.abc import Iterator, Sequence
from typing import Any

from app.events import sse_frame
from bench.chaos_journal import Reading, decoded

_CUTS = {"reader_too_slow", "shutting_down", "database_unavailable"}
# What a process has said is kept within this time, also when the machine is busy.
_KEPT_WITHIN_S = 1.5


def compare(
    reading: Reading, log: Sequence[bytes], *, lost_since: float | None, removed: bool
) -> Iterator[str]:
    """Its events are the log's behind `after`, in order and without a hole, and end as the log does.

    `lost_since`: when the process that made the run and served this reader was ended or frozen, if it was; what it had said shortly
    before, and after, may be missing from a log that ends as interrupted.
    """
    where = f"at server {reading.server}, behind {reading.after} of {len(log)},"
    if reading.status == 200:
        yield from (f"{where} {what}" for what in _compare_events(reading, log, lost_since))
    elif not ((reading.status == 404 and removed) or (reading.status == 204 and reading.after >= len(log))):
        yield f"{where} got {reading.status}"


def _compare_events(reading: Reading, log: Sequence[bytes], lost_since: float | None) -> Iterator[str]:
    for seq, (at, event) in enumerate(reading.events, reading.after + 1):
        if seq <= len(log) and event == _encoded(log[seq - 1], seq, sse=reading.sse):
            is_last = seq == len(log)
        else:
            said = decoded(event, sse=reading.sse)
            is_last = said.get("type") in ("done", "error")
            if is_last:
                yield from _other_end(event, said, seq, log, sse=reading.sse)
            elif said.get("seq") != seq or not _may_be_lost(at, seq, log, lost_since):
                expected = log[seq - 1] if seq <= len(log) else b"nothing"
                yield f"got as number {seq} {event[:160]!r} and not {expected[:160]!r}"
                return
        if is_last != (seq == reading.after + len(reading.events)) and (is_last or reading.ended == "whole"):
            yield (
                f"got more behind the end, number {seq}"
                if is_last
                else f"ends behind {seq} without done or error"
            )
            return
    if reading.ended == "whole" and not reading.events:
        yield "came to an end without any event"


def _encoded(line: bytes, seq: int, *, sse: bool) -> bytes:
    return sse_frame(line, seq) if sse else line


def _other_end(
    event: bytes, said: dict[str, Any], seq: int, log: Sequence[bytes], *, sse: bool
) -> Iterator[str]:
    """A stream may be cut while its run goes on. The log's last line may come to a reader that is ahead of it; and what could not be
    stored is told to those that are there."""
    if "resume_after" in said:
        if said.get("code") not in _CUTS or said["resume_after"] != seq - 1 or "seq" in said:
            yield f"was cut off behind {seq - 1} with {event!r}"
        return
    is_ahead = seq > len(log) and event == _encoded(log[-1], len(log), sse=sse)
    is_not_stored = said.get("code") == "answer_not_stored" and b'"interrupted"' in log[-1]
    if not (is_ahead or is_not_stored):
        yield f"was told {event[:120]!r} as number {seq}, and the log ends with {log[-1][:120]!r}"


def _may_be_lost(at: float, seq: int, log: Sequence[bytes], lost_since: float | None) -> bool:
    # Where nothing has been kept, the log has a first line that was made when it was ended.
    is_behind = (seq >= len(log) or len(log) == 2) and b'"code":"interrupted"' in log[-1]
    return is_behind and lost_since is not None and at >= lost_since - _KEPT_WITHIN_S


def compare_erased(readings: Sequence[Reading]) -> Iterator[str]:
    """Of a run that is gone: all saw the same, except for its end."""
    told: dict[int, bytes] = {}
    for reading in readings:
        if reading.status not in (200, 204, 404):
            yield f"got {reading.status}"
        seq = reading.after
        for place, (_, event) in enumerate(reading.events, 1):
            seq += 1
            said = decoded(event, sse=reading.sse)
            if said.get("type") in ("done", "error"):
                if place != len(reading.events):
                    yield f"got {reading.events[place][1][:80]!r} after the end"
                break
            if said.get("seq") != seq:
                yield f"got {said.get('seq')} in place of {seq}"
                break
            if not reading.sse and told.setdefault(seq, event) != event:
                yield f"got two different events as number {seq}"
                break
        else:
            if reading.ended == "whole" and reading.status == 200:
                yield f"came to an end behind {seq} without done or error"
