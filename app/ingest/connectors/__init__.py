"""Where documents live, and what is new there: each kind of connector is a generator of what it finds.

A driver's `found(known)` yields each item once, and ends normally only when it has seen all there is: then what it has not
named is gone. A listing that fails or stops early raises `ConnectorRefused` or yields `Incomplete`, and nothing is gone but what
it has named as such.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

State = Mapping[str, Any]
"""What a driver wants to be told of an item next time; it is kept as JSON."""


@dataclass(frozen=True, slots=True)
class Changed:
    """An item that is new, or may have changed, with its bytes."""

    key: str
    file_name: str
    content: bytes
    declared_type: str | None = None
    url: str | None = None
    state: State = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Unchanged:
    """`state` is what is to be known of it from now on, None for what has been known."""

    key: str
    state: State | None = None


@dataclass(frozen=True, slots=True)
class PassedOver:
    """An item that is there and no document, as a page that asks not to be indexed. A document of it is removed."""

    key: str
    why: str
    state: State


@dataclass(frozen=True, slots=True)
class Failed:
    """An item that cannot be had now. A document of it stays as it is."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Gone:
    key: str


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Not all was seen, and why: what has not been named may still be there."""

    why: str


Found = Changed | Unchanged | PassedOver | Failed | Gone | Incomplete


class Driver(Protocol):
    def found(self, known: Mapping[str, State]) -> AsyncGenerator[Found]:
        """`known` are the states of the items of before, by their keys. Raises `ConnectorRefused` when nothing can be listed."""
        ...

    async def check(self) -> None:
        """Raises `ConnectorRefused` with what is wrong, if the source cannot be listed."""
        ...
