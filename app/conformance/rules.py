"""The rules of a stream's events: what each must hold, and what must have come before it."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from app.conformance.form import Entry, Problem
from app.errors import Interrupted
from app.events import PROTOCOL_VERSION, Citation, Cut, Done, Error, Event, Sources, Start, Step

# Types of steps that a client has words of its own for.
WELL_KNOWN_STEPS = frozenset(
    """
    initialization history_loading cache_lookup query_rewrite router vectorization retrieval reranking synthesis
    sql_schema_retrieval sql_generation query_execution visualization_analysis user_persistence assistant_persistence
    cache_update completed
    """.split()
)
_SUMMARY = "completed"
_CUT = "error without a seq"


class _AnyStep(Step, frozen=True):
    """Steps may be of more types than this version knows."""

    step_type: str  # pyright: ignore[reportIncompatibleVariableOverride]  # wider, as what is read may be newer


class _Token(msgspec.Struct, frozen=True):
    content: str


_KINDS: dict[str, type[msgspec.Struct]] = {
    **{kind.type_name: kind for kind in Event.__subclasses__()},
    "step": _AnyStep,
    "token": _Token,
    _CUT: Cut,
}


class Rules:
    """Reads the events of one stream in their order. What came up to `after` was in another one, and is not known here."""

    def __init__(self, *, after: int) -> None:
        self.problems: list[Problem] = []
        self._after = after
        self._last_seq = after
        self._line = 1
        self._last: str | None = None
        self._ended_by: str | None = None
        self._message_id: str | None = None
        self._steps: dict[str, _AnyStep] = {}
        self._open: set[str] = set()
        self._said: list[str] = []
        self._judged = False
        self._texts: dict[str, str] = {}
        self._citations: list[tuple[int, Citation]] = []
        self._rules: dict[str, Callable[[Any], None]] = {
            "start": self._start,
            "status": self._status,
            "step": self._step,
            "sources": self._sources,
            "token": self._token,
            "citation": self._citation,
            "conversation": self._conversation,
            "done": self._done,
            "error": self._error,
            _CUT: self._cut,
        }

    def read(self, entry: Entry) -> None:
        self._line, event = entry
        kind = event.get("type")
        if self._ended_by is not None:
            self._tell(f"{kind} follows {self._ended_by}", "nothing")
        elif not isinstance(kind, str):
            self._tell("the event has no type", "one")
            self._number(event, terminal=False)
        elif kind == "heartbeat":
            if "seq" in event:
                self._tell("the heartbeat has a seq", "none")
        else:
            self._read_event(kind, event)

    def end(self, last_line: int) -> None:
        """The stream is over, with this line."""
        if self._ended_by is None:
            self._line = last_line
            self._tell("the stream ends without done or error", "one of them")

    def _tell(self, what: str, expected: str) -> None:
        self.problems.append(Problem(self._line, what, expected))

    def _read_event(self, kind: str, event: dict[str, Any]) -> None:
        cut = kind == "error" and "seq" not in event and "resume_after" in event
        terminal = kind in {"done", "error"}
        if not cut:
            self._number(event, terminal=terminal)
        if self._last is None and not self._after and kind != "start":
            self._tell(f"the stream begins with {kind}", "start")
        if self._last == _SUMMARY and not terminal:
            self._tell(f"{kind} follows the summary step", "the end")
        self._hold_against_its_rule(_CUT if cut else kind, event)
        self._last = _SUMMARY if event.get("step_type") == _SUMMARY else kind
        if terminal:
            self._ended_by = kind
            self._check_citations()

    def _number(self, event: dict[str, Any], *, terminal: bool) -> None:
        seq, expected = event.get("seq"), self._last_seq + 1
        if type(seq) is not int or (seq != expected and not (terminal and self._may_end_at(seq, event))):
            self._tell("seq is missing" if seq is None else f"seq is {seq!r}", str(expected))
        self._last_seq = seq if type(seq) is int else expected

    def _may_end_at(self, seq: int, event: dict[str, Any]) -> bool:
        """When a process was killed, what it had sent last may be lost: then the answer ends before what a reader has seen."""
        resumed_beyond = self._last is None
        return 0 < seq <= self._last_seq and (resumed_beyond or event.get("code") == Interrupted.code)

    def _hold_against_its_rule(self, kind: str, event: dict[str, Any]) -> None:
        """Types and fields that this version does not know may be there."""
        if kind not in _KINDS:
            return
        try:
            typed = msgspec.convert(event, _KINDS[kind])
        except msgspec.ValidationError as error:
            self._tell(*_misfit(kind, str(error)))
        else:
            if kind in self._rules:
                self._rules[kind](typed)

    def _start(self, start: Start) -> None:
        if self._last is not None or self._after:
            self._tell("start comes again", "it first and once")
        if start.protocol != PROTOCOL_VERSION:
            self._tell(f"protocol is {start.protocol}", str(PROTOCOL_VERSION))
        self._message_id = start.message_id

    def _status(self, _: object) -> None:
        if self._said:
            self._tell("status follows a token", "it before the first one")

    def _sources(self, sources: Sources) -> None:
        if self._said:
            self._tell("sources follow a token", "them before the first one")
        self._texts = {source.id: source.text for source in sources.data}
        for source in sources.data:
            if source.content != source.text:
                self._tell(f"content of source {source.id} is another than its text", "the same")

    def _token(self, token: _Token) -> None:
        if not token.content:
            self._tell("content of the token is empty", "text")
        if self._judged:
            self._tell("a token follows conversation", "it behind the last one")
        self._said.append(token.content)

    def _conversation(self, _: object) -> None:
        if self._judged:
            self._tell("conversation comes again", "it once")
        self._judged = True

    def _citation(self, citation: Citation) -> None:
        self._citations.append((self._line, citation))

    def _check_citations(self) -> None:
        """At the end, when the whole text is known."""
        if self._after:
            return
        said = "".join(self._said)
        for line, citation in self._citations:
            for what, expected in _faults_of(citation, said, self._texts):
                self.problems.append(Problem(line, what, expected))

    def _step(self, step: _AnyStep) -> None:
        known = step.step_type in WELL_KNOWN_STEPS
        if known and step.label is not None:
            self._tell(f"a {step.step_type} step has a label", "none, as its type is a well-known one")
        if not known and not step.label:
            self._tell(f"a {step.step_type} step has no label", "one, as its type is no well-known one")
        if step.parent_id is not None and step.parent_id not in self._steps and not self._after:
            self._tell(f"parent_id is {step.parent_id}", "a step that is running before its parts")
        if step.status == "running":
            self._opening(step)
        else:
            self._closing(step)

    def _opening(self, step: _AnyStep) -> None:
        if step.step_type == _SUMMARY:
            self._tell("the summary step is running", "its closing event alone")
        if step.step_id in self._steps:
            self._tell(f"step_id {step.step_id} is used again", "another")
        self._steps[step.step_id] = step
        self._open.add(step.step_id)

    def _closing(self, step: _AnyStep) -> None:
        if step.duration is None or step.duration < 0:
            shown = "missing" if step.duration is None else step.duration
            self._tell(f"duration of the {step.step_type} step is {shown}", "seconds")
        opening = self._steps.setdefault(step.step_id, step)
        if opening is step:
            if step.step_type != _SUMMARY and not self._after:
                self._tell(f"step {step.step_id} is {step.status}", "it running before")
        elif step.step_id not in self._open:
            self._tell(f"step {step.step_id} is closed again", "it closed once")
        self._open.discard(step.step_id)
        for name in ("step_type", "parent_id", "label"):
            told, before = getattr(step, name), getattr(opening, name)
            if told != before:
                self._tell(f"{name} of the closing event is {told}", f"{before}, as when the step began")

    def _done(self, done: Done) -> None:
        if self._message_id is not None and done.message_id != self._message_id:
            self._tell(f"message_id is {done.message_id}", f"{self._message_id}, as start says")
        if done.status != "completed":
            return
        for step_id in sorted(self._open):
            self._tell(f"step {step_id} ({self._steps[step_id].step_type}) is open", "it closed before done")
        if self._last not in {None, _SUMMARY}:
            self._tell(f"done follows {self._last}", "it right behind the summary step")

    def _error(self, error: Error | Cut) -> None:
        if error.error != error.message:
            self._tell("error is another text than message", "the same")

    def _cut(self, cut: Cut) -> None:
        self._error(cut)
        if cut.resume_after != self._last_seq:
            self._tell(f"resume_after is {cut.resume_after}", f"{self._last_seq}, the last seq")


def _faults_of(citation: Citation, said: str, sources: dict[str, str]) -> Iterator[tuple[str, str]]:
    start, end, mark = citation.start, citation.end, f"[{citation.index}]"
    if not 0 <= start < end <= len(said):
        yield f"the citation is from {start} to {end}", f"a span within 0 to {len(said)}"
    elif mark not in said[start:end]:
        yield f"the citation's span has no {mark}", "the claim with its mark"
    if citation.source_id not in sources:
        yield f"the citation is of source {citation.source_id}", "one that sources told"
    elif sources[citation.source_id][citation.quote_start : citation.quote_end] != citation.quote:
        place = f"{citation.quote_start} to {citation.quote_end}"
        yield (
            "quote of the citation is another text",
            f"the characters {place} of source {citation.source_id}",
        )


def _misfit(kind: str, message: str) -> tuple[str, str]:
    """What is wrong and what was expected, of what msgspec says."""
    reason, _, place = message.partition(" - at `$")
    field = kind + place.rstrip("`")
    if lacking := re.fullmatch(r"Object missing required field `(.+)`", reason):
        return f"{field} has no {lacking[1]}", "one"
    if other := re.fullmatch(r"Expected `(.+)`, got `(.+)`", reason):
        return f"{field} is {other[2]}", other[1]
    return f"{field} does not fit ({reason})", "what the protocol says"
