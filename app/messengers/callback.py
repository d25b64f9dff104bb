"""`POST /chat?user_id=`: a message, answered with a message, for a front end or a bot that keeps its own users."""

import re
from collections.abc import Mapping

from pydantic import SecretStr

from app.errors import InvalidInput
from app.messengers.inbound import decoded, require_bearer
from app.messengers.interface import CallbackMessengerInterface
from app.messengers.message import Message

PATH = "/chat"

_USER_ID = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
# As with the id of an anonymous session, which anybody who knows it can go on with.
_UNGUESSABLE = re.compile(r"[^\x00-\x1f\x7f]{22,200}")


class HttpCallback(CallbackMessengerInterface):
    """Without a secret, the user's id is all that leads to his conversation, and so must be one that nobody guesses."""

    def __init__(self, secret: SecretStr | None) -> None:
        self._secret = secret

    async def receive(self, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Message:
        if self._secret is not None:
            require_bearer(headers, self._secret)
        user_id = query.get("user_id", "")
        if not (_UNGUESSABLE if self._secret is None else _USER_ID).fullmatch(user_id):
            raise InvalidInput(
                "user_id must have 1 to 200 characters."
                if self._secret is not None
                else "Without CALLBACK_SECRET, user_id must have 22 to 200 characters that nobody can guess."
            )
        return (await self.on_request_async(decoded(body, Message), user_id)).last_response
