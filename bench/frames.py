"""The bytes of an OpenAI-compatible answer: chunks of a chat completion as server-sent events, and whole JSON bodies."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from bench.behaviour import Behaviour

encode = msgspec.json.Encoder().encode

_CREATED = 1_700_000_000
_COMPLETION_ID = "chatcmpl-fake0000000000000000000000"
_PROMPT_TOKENS = 10
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-request-id: req_fake\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST_HTTP_CHUNK = b"0\r\n\r\n"


def http_chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


GARBAGE = http_chunk(b"data: {no json at all\xff\n\n")


def response(status: int, body: bytes, *, retry_after_s: int | None = None) -> bytes:
    retry = "" if retry_after_s is None else f"retry-after: {retry_after_s}\r\n"
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\ncontent-type: application/json\r\n"
        f"x-request-id: req_fake\r\n{retry}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def error_body(message: str, kind: str) -> bytes:
    return encode({"error": {"message": message, "type": kind, "param": None, "code": None}})


STREAM_ERROR = http_chunk(b"data: " + error_body("The server had an error.", "server_error") + b"\n\n")


def token_text(index: int, *, stamped: bool, width: int) -> str:
    text = f" {index}@{time.monotonic_ns()}" if stamped else f" {index}"
    return text.ljust(width) if width else text


def usage(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": _PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": _PROMPT_TOKENS + tokens,
    }


@dataclass(frozen=True, slots=True)
class ChunkFrames:
    """The frames of one model's stream; a token's frame is the fixed bytes around the encoded text."""

    before_delta: bytes
    head: bytes
    finish: bytes
    usage_prefix: bytes

    def token(self, text: str) -> bytes:
        return http_chunk(self.before_delta + b'"content":' + encode(text) + _AFTER_DELTA)

    def tail(self, tokens: int, *, with_usage: bool) -> bytes:
        counted = b""
        if with_usage:
            counted = http_chunk(
                self.usage_prefix + b'"choices":[],"usage":' + encode(usage(tokens)) + b"}\n\n"
            )
        return self.finish + counted + http_chunk(b"data: [DONE]\n\n") + LAST_HTTP_CHUNK


_AFTER_DELTA = b'},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
_AFTER_LAST_DELTA = b'},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'


@lru_cache(512)
def chunk_frames(model: str) -> ChunkFrames:
    """With all the fields that OpenAI sends, since whoever reads them pays for each."""
    prefix = b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,' % (
        _COMPLETION_ID.encode(),
        _CREATED,
        encode(model),
    )
    delta = prefix + (
        b'"service_tier":"default","system_fingerprint":"fp_fake000000","choices":[{"index":0,"delta":{'
    )
    return ChunkFrames(
        before_delta=delta,
        head=http_chunk(delta + b'"role":"assistant","content":""' + _AFTER_DELTA),
        finish=http_chunk(delta + _AFTER_LAST_DELTA),
        usage_prefix=prefix,
    )


@lru_cache(256)
def token_frames(model: str, behaviour: Behaviour) -> Sequence[bytes]:
    """Every token's frame of an answer whose tokens carry no stamp."""
    frames = chunk_frames(model)
    texts = (token_text(i, stamped=False, width=behaviour.width) for i in range(behaviour.tokens))
    return [frames.token(text) for text in texts]


def whole_completion(model: str, behaviour: Behaviour) -> bytes:
    texts = (token_text(i, stamped=behaviour.stamped, width=behaviour.width) for i in range(behaviour.tokens))
    message = {"role": "assistant", "content": "".join(texts), "refusal": None}
    return encode(
        {
            "id": _COMPLETION_ID,
            "object": "chat.completion",
            "created": _CREATED,
            "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": usage(behaviour.tokens),
        }
    )


def models(names: Sequence[str]) -> bytes:
    return encode({"object": "list", "data": [_model(name) for name in names]})


def _model(name: str) -> Mapping[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "fake"}
