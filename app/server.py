"""uvicorn, set up as the answers need it, and told to drain the runs when it is asked to stop."""

from socket import socket
from typing import Any

import uvicorn

from app.resources import Resources
from app.settings import ServerSettings

# What the clean-up of the runs may take beyond the grace period, in seconds.
_CLEAN_UP_S = 10


class DrainingServer(uvicorn.Server):
    """Ends its runs before its connections, so that each reader gets the last line of its answer.

    Runs without a reader have the same grace period: it is waited for where the runner is left.
    """

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        resources: Any = self.lifespan.state.get("resources")
        if isinstance(resources, Resources):
            resources.drain()
        await super().shutdown(sockets)
        if self.force_exit and isinstance(resources, Resources):
            resources.runner.drain(0)


def config(app: Any, settings: ServerSettings, **overrides: Any) -> uvicorn.Config:
    """`app` is an application, or where to import its factory from, which several workers need."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        factory=isinstance(app, str),
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        backlog=8192,
        lifespan="on",
        timeout_graceful_shutdown=int(settings.shutdown_grace_s) + _CLEAN_UP_S,
        **overrides,
    )
