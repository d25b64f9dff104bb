"""An answer as it will be stored, from the events that were sent of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from app.db.runs import AnswerEnd
from app.events import Citation, Event, Sources, Step, Tokens
from app.runs.log import pack


@dataclass(slots=True)
class Draft:
    """The answer so far, as it will be stored."""

    texts: list[str] = field(default_factory=list[str])
    sources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    citations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    steps: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    _open: dict[str, tuple[Step, float]] = field(default_factory=dict[str, tuple[Step, float]])

    @classmethod
    def of_lines(cls, lines: Sequence[bytes]) -> "Draft":
        """What the lines of a log tell."""
        draft = cls()
        for line in lines:
            said = msgspec.json.decode(line)
            match said["type"]:
                case "token":
                    draft.texts.append(said["content"])
                case "sources":
                    draft.sources = said["data"]
                case "citation":
                    draft.citations.append(_without_head(said))
                case "step":
                    draft.steps[said["step_id"]] = _without_head(said)
                case _:
                    pass
        return draft

    def add(self, event: Event) -> None:
        if isinstance(event, Tokens):
            self.texts += event.contents
        elif isinstance(event, Step):
            self.steps[event.step_id] = msgspec.to_builtins(event)
            if event.status == "running":
                self._open[event.step_id] = (event, time.perf_counter())
            else:
                self._open.pop(event.step_id, None)
        elif isinstance(event, Sources):
            self.sources = msgspec.to_builtins(event.data)
        elif isinstance(event, Citation):
            self.citations.append(msgspec.to_builtins(event))

    def closings(self, status: Literal["completed", "failed"]) -> list[Step]:
        """What closes the steps that are open, the innermost first."""
        now = time.perf_counter()
        return [
            msgspec.structs.replace(step, status=status, duration=round(now - began, 4))
            for step, began in reversed(self._open.values())
        ]

    async def end(self, status: str, *, log: Sequence[bytes], **rest: Any) -> AnswerEnd:
        return AnswerEnd(
            status=status,
            # A model may say NUL, which PostgreSQL does not take in a text.
            text="".join(self.texts).replace("\0", ""),
            log=await pack(log),
            last_seq=len(log),
            sources=self.sources,
            citations=self.citations,
            steps=list(self.steps.values()),
            **rest,
        )


def _without_head(said: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in ("type", "seq")}
