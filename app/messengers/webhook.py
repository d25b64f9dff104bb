"""A program of one's own: messages are posted here, answers are posted there, both signed in the form of Standard Webhooks."""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import aiohttp
import msgspec
from pydantic import SecretStr

from app import json_text
from app.db.channels import Letter
from app.errors import ConnectorRefused, InvalidInput, StartupRefused, Unauthenticated
from app.ingest.connectors.addresses import Guard
from app.messengers.conversing import said_to
from app.messengers.delivery import Delivery, Note
from app.messengers.growing import ChannelRefused, NotNow
from app.messengers.inbound import decoded
from app.messengers.pipeline import AssistantPipeline
from app.messengers.transcript import Transcript

_PREFIX = "whsec_"
_LEAST_SECRET_BYTES = 24
_TOLERANCE_S = 300
_LONGEST_ID = 200
_CALL_S = 30.0
_LONGEST_WAIT_S = 3600
_GONE = 410


class _Sent(msgspec.Struct):
    user_id: str
    text: str | None = None
    attachments: list[Any] = []


class Signatures:
    """Of `ID.TIMESTAMP.BODY` with HMAC-SHA256: what is repeated later than five minutes is refused, and what is repeated sooner has
    the same id."""

    def __init__(self, secret: SecretStr) -> None:
        try:
            self._key = base64.b64decode(secret.get_secret_value().removeprefix(_PREFIX), validate=True)
        except ValueError:
            self._key = b""
        if len(self._key) < _LEAST_SECRET_BYTES:
            raise StartupRefused(
                f"WEBHOOK_SECRET must be {_PREFIX} and at least {_LEAST_SECRET_BYTES} random bytes in base64, as from "
                "`openssl rand -base64 32`."
            )

    def signed(self, identifier: str, body: bytes) -> dict[str, str]:
        stamp = str(int(time.time()))
        return {
            "webhook-id": identifier,
            "webhook-timestamp": stamp,
            "webhook-signature": self._signature(identifier, stamp, body),
        }

    def verified(self, headers: Mapping[str, str], body: bytes) -> str:
        """The id. Raises `Unauthenticated`."""
        identifier, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        given = headers.get("webhook-signature", "").split(" ")
        is_now = stamp.isascii() and stamp.isdecimal() and abs(time.time() - int(stamp)) <= _TOLERANCE_S
        right = self._signature(identifier, stamp, body).encode()
        if not is_now or not any(hmac.compare_digest(one.encode(), right) for one in given):
            raise Unauthenticated("The signature does not fit, or is older than five minutes.")
        if not 0 < len(identifier) <= _LONGEST_ID:
            raise InvalidInput(f"webhook-id must have 1 to {_LONGEST_ID} characters.")
        return identifier

    def _signature(self, identifier: str, stamp: str, body: bytes) -> str:
        signed = b".".join((identifier.encode(), stamp.encode(), body))
        return "v1," + base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256)).decode()


class WebhookChannel:
    name = "webhook"

    def __init__(
        self,
        http: aiohttp.ClientSession,
        guard: Guard,
        callback_url: str,
        secret: SecretStr,
        pipeline: AssistantPipeline,
        delivery: Delivery,
    ) -> None:
        """`http` connects to the addresses alone that `guard` lets pass. Raises `StartupRefused`."""
        self._http = http
        self._guard = guard
        self._url = callback_url
        self._signatures = Signatures(secret)
        self._pipeline = pipeline
        self._delivery = delivery
        try:
            guard.check(callback_url)
        except ConnectorRefused as error:
            raise StartupRefused(f"WEBHOOK_CALLBACK_URL: {error.message}") from error

    async def receive(self, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Any:  # noqa: ARG002  # as all channels are called
        identifier = self._signatures.verified(headers, body)
        sent = decoded(body, _Sent)
        if not 0 < len(sent.user_id) <= _LONGEST_ID or "\0" in identifier + sent.user_id:
            raise InvalidInput(f"user_id must have 1 to {_LONGEST_ID} characters.")
        content: dict[str, Any] = {"text": (sent.text or "").replace("\0", "")}
        if sent.attachments:
            content["has_files"] = True
        await self._delivery.receive(Letter(self.name, identifier, sent.user_id, content))
        return {"id": identifier}

    async def answer(self, letter: Letter, note: Note) -> None:  # noqa: ARG002  # as all channels are called; an answer is one message
        said = await said_to(self._pipeline, letter)
        if isinstance(said, str):
            told: dict[str, Any] = {"text": "", "error": said, "sources": [], "citations": []}
        else:
            transcript = Transcript()
            async with aclosing(said.follow(after=0)) as batches:
                async for batch in batches:
                    transcript.read(batch.lines)
            told = transcript.told
        about = {"type": "answer", "in_reply_to": letter.key, "user_id": letter.conversation}
        await self._post(f"answer-{letter.key}", json_text.encode({**about, **told}))

    async def _post(self, identifier: str, body: bytes) -> None:
        headers = {"content-type": "application/json", **self._signatures.signed(identifier, body)}
        try:
            async with self._http.post(
                self._guard.check(self._url),
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=_CALL_S),
            ) as response:
                status, wait = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, TimeoutError, ConnectorRefused) as error:
            raise NotNow from error
        if status == _GONE:
            raise ChannelRefused("the callback is gone")
        if not 200 <= status < 300:
            asked_for_s = float(wait) if wait.isascii() and wait.isdecimal() else None
            raise NotNow(None if asked_for_s is None else min(asked_for_s, _LONGEST_WAIT_S))
