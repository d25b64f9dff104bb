"""Who has called, and how what goes wrong is told to him."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from app.errors import FreshetError, InvalidInput, NotFound
from app.resources import Resources
from app.services.viewer import Viewer

logger = logging.getLogger(__name__)

UNEXPECTED = "Something went wrong on our side. It has been noted."

Context = ServerRequestContext[Any, Any]

P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Caller:
    resources: Resources
    viewer: Viewer

    def handler(
        self, function: Callable[["Caller", Context, P], Awaitable[R]]
    ) -> Callable[[Context, P], Awaitable[R]]:
        """The function for this caller; what it raises becomes an error of the protocol, in our words."""

        async def handle(context: Context, params: P) -> R:
            try:
                return await function(self, context, params)
            except FreshetError as error:
                wrong = isinstance(error, InvalidInput | NotFound)
                code = INVALID_PARAMS if wrong else INTERNAL_ERROR
                raise MCPError(code, error.message, {"code": error.code}) from error
            except Exception as error:  # the end of a request: nothing of it may reach the client
                logger.exception("a call of %s failed", context.method)
                raise MCPError(INTERNAL_ERROR, UNEXPECTED, {"code": "internal_error"}) from error

        return handle
