"""What a driver has found, kept as a service would keep it."""

import socket
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from aiohttp.abc import AbstractResolver, ResolveResult

from app.errors import ConnectorRefused
from app.ingest.connectors import (
    Changed,
    Driver,
    Failed,
    Found,
    Gone,
    Incomplete,
    PassedOver,
    State,
    Unchanged,
)


@dataclass(slots=True)
class Kept:
    """`states` is what the next round is told."""

    states: dict[str, State] = field(default_factory=dict[str, State])

    async def round(self, driver: Driver) -> "Round":
        found: list[Found] = []
        refusal = None
        try:
            async with aclosing(driver.found(self.states)) as finding:
                async for one in finding:
                    found.append(one)  # noqa: PERF401  # what comes before a refusal counts
        except ConnectorRefused as error:
            refusal = error
        for one in found:
            if isinstance(one, Changed | PassedOver | Unchanged) and one.state is not None:
                self.states[one.key] = one.state
            elif isinstance(one, Gone):
                self.states.pop(one.key, None)
        return Round(found, refusal)


@dataclass(slots=True)
class Round:
    found: list[Found]
    refusal: ConnectorRefused | None

    @property
    def changed(self) -> dict[str, Changed]:
        return {one.key: one for one in self.found if isinstance(one, Changed)}

    @property
    def unchanged(self) -> list[str]:
        return [one.key for one in self.found if isinstance(one, Unchanged)]

    @property
    def passed_over(self) -> dict[str, str]:
        return {one.key: one.why for one in self.found if isinstance(one, PassedOver)}

    @property
    def failed(self) -> dict[str, str]:
        return {one.key: one.why for one in self.found if isinstance(one, Failed)}

    @property
    def gone(self) -> list[str]:
        return [one.key for one in self.found if isinstance(one, Gone)]

    @property
    def is_complete(self) -> bool:
        return self.refusal is None and not any(isinstance(one, Incomplete) for one in self.found)


class Names(AbstractResolver):
    """Resolves names as a table says, which a test may change at any time."""

    def __init__(self, table: Mapping[str, str]) -> None:
        self.table = dict(table)
        self.asked: list[tuple[str, int]] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append((host, family))
        if host not in self.table:
            raise OSError("There is no such host.")
        return [
            ResolveResult(
                hostname=host, host=self.table[host], port=port, family=socket.AF_INET, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        pass
