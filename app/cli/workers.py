"""Several processes that serve one port: uvicorn's supervisor, with our server in each."""

from socket import socket

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from app.errors import StartupRefused
from app.server import DrainingServer


class _Worker(multiprocess.Process):
    @property
    def server(self) -> uvicorn.Server:
        if self._server is None:
            self._server = DrainingServer(config=self.config)
        return self._server


def supervise(config: uvicorn.Config, listener: socket) -> None:
    """Returns when it was asked to stop and all workers have ended. Raises `StartupRefused` if one cannot start."""
    # The supervisor makes its processes from this name, and offers no other way to put a server of one's own in.
    setattr(multiprocess, multiprocess.Process.__name__, _Worker)
    supervisor = multiprocess.Multiprocess(config, sockets=[listener])
    supervisor.run()
    if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
        raise StartupRefused("A worker could not start. What it said is above.")
