"""The steps of an answer, as its reader sees them: opened and closed by whoever calls a step, and timed in between."""

import time
from typing import Any
from uuid import uuid4

from app.events import Step, StepType


class OpenStep:
    """A step that has begun. `opening` is to be sent now, one of the closings when it is over."""

    __slots__ = ("_began", "opening")

    def __init__(
        self,
        step_type: StepType,
        *,
        parent: "OpenStep | None" = None,
        label: str | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        """`label` is what to call a step of a type that clients have no words for. `about` is the payload from the beginning on, to
        which the closing adds."""
        self.opening = Step(
            step_type=step_type,
            status="running",
            step_id=uuid4().hex,
            parent_id=parent.opening.step_id if parent is not None else None,
            label=label,
            payload=about,
        )
        self._began = time.perf_counter()

    def completed(self, **payload: Any) -> Step:
        return self._closing("completed", payload)

    def failed(self, **payload: Any) -> Step:
        return self._closing("failed", payload)

    def _closing(self, status: Any, payload: dict[str, Any]) -> Step:
        return Step(
            step_type=self.opening.step_type,
            status=status,
            step_id=self.opening.step_id,
            parent_id=self.opening.parent_id,
            label=self.opening.label,
            duration=round(time.perf_counter() - self._began, 4),
            payload={**(self.opening.payload or {}), **payload} or None,
        )
