"""The lines of a run as the UI message stream of Vercel's AI SDK, which fails on a chunk whose type it does not know: all that is ours
alone goes as `data-…`."""

from typing import Any

import msgspec

from app import json_text
from app.api.original import address
from app.api.streaming import SSE
from app.errors import FreshetError
from app.ingest.formats import media_type_of
from app.runs.log import Lines

HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}

_HEARTBEAT = b": heartbeat\n\n"
_TOKEN = b'{"type":"token"'
_CONTENT = b'"content":'
_TEXT_ID = "text"
_DELTA = b'data: {"type":"text-delta","id":"text","delta":'
_END = b"data: [DONE]\n\n"
_FINISH_REASONS = {"stop": "stop", "length": "length", "content_filter": "content-filter"}
_OF_THE_MESSAGE = ("run_id", "session_id", "user_message_id", "model")
_OF_A_PLACE = ("document_id", "page_label", "quote_start", "quote_end", "verified")
_TERMINAL = ("done", "error")

Fields = dict[str, Any]


class UIMessageStream:
    """One text part, with the sources before it and a `data-citation` behind each mark; the citations again at its end, where
    `ai` 7 looks for them."""

    content_type = f"{SSE}; charset=utf-8"

    def __init__(self, files: str, session_id: str) -> None:
        self._files = files
        self._session_id = session_id
        self._sources: dict[str, Fields] = {}
        self._citations: list[Fields] = []
        # The text so far, as JSON: it is decoded where something has been cited.
        self._said: list[bytes] = []

    def write(self, batch: Lines) -> bytes:
        if not batch.lines:
            return _HEARTBEAT
        return b"".join(map(self._frames, batch.lines))

    def cut(self, error: FreshetError, resume_after: int) -> bytes:  # noqa: ARG002  # these clients resume from the start
        return _frame(_error(error.message)) + _END

    def _frames(self, line: bytes) -> bytes:
        if line.startswith(_TOKEN):
            content = line[line.index(_CONTENT) + len(_CONTENT) : -2]
            self._said.append(content)
            delta = b"%b%b}\n\n" % (_DELTA, content)
            return delta if len(self._said) > 1 else _frame({"type": "text-start", "id": _TEXT_ID}) + delta
        event = msgspec.json.decode(line)
        frames = b"".join(map(_frame, self._chunks(event)))
        return frames + _END if event["type"] in _TERMINAL else frames

    def _chunks(self, event: Fields) -> list[Fields]:
        match event["type"]:
            case "start":
                return _start(event)
            case "step":
                # The chunk that closes a step takes the place of the one that opened it.
                return [_data(event) | {"id": event["step_id"]}]
            case "status":
                return [_data(event) | {"transient": True}]
            case "sources":
                return self._put_sources(event)
            case "citation":
                return [self._citation(event)]
            case "done":
                return self._done(event)
            case "error":
                return [_error(event["message"])]
            case _:
                return [_data(event)]

    def _put_sources(self, event: Fields) -> list[Fields]:
        self._sources = {source["id"]: source for source in event["data"]}
        chunks: list[Fields] = []
        for source in event["data"]:
            place = {**source["metadata"], "text": source["text"], "score": source["score"]}
            kind, fields = self._source(source, place)
            chunks.append({"type": f"source-{kind}", "sourceId": source["id"], **fields})
        return chunks

    def _citation(self, event: Fields) -> Fields:
        self._citations.append(event)
        chunk = _data(event)
        source = self._sources.get(event["source_id"], {})
        link = {"url": source.get("url") or self._file(event), "title": source.get("name", "")}
        return chunk | {"id": str(len(self._citations)), "data": chunk["data"] | link}

    def _done(self, event: Fields) -> list[Fields]:
        end = [{"type": "text-end", "id": _TEXT_ID, **self._cited()}] if self._said else []
        if event["status"] == "stopped":
            return [*end, {"type": "finish-step"}, {"type": "abort", "reason": "stopped"}]
        finish = {
            "type": "finish",
            "finishReason": _FINISH_REASONS.get(event["finish_reason"], "other"),
            "messageMetadata": {"usage": event["usage"]},
        }
        return [*end, {"type": "finish-step"}, finish]

    def _cited(self) -> Fields:
        if not self._citations:
            return {}
        text = "".join(map(msgspec.json.decode, self._said))
        citations: list[Fields] = []
        for citation in self._citations:
            source = self._sources.get(citation["source_id"])
            if source is not None:
                place = {name: citation[name] for name in _OF_A_PLACE if name in citation}
                kind, fields = self._source(source, place)
                start, end = (_utf16_units(text[: citation[edge]]) for edge in ("start", "end"))
                told = {"type": "source", "sourceType": kind, "id": source["id"], **fields}
                citations.append(
                    {"source": told, "startIndex": start, "endIndex": end, "citedText": citation["quote"]}
                )
        return {"citations": citations}

    def _source(self, source: Fields, place: Fields) -> tuple[str, Fields]:
        """Whether it is a `url` or a `document`, and what a part and a citation tell of it alike; `place` is what is ours alone."""
        if source.get("url"):
            fields = {"url": source["url"], "title": source["name"]}
            return "url", {**fields, "providerMetadata": {"freshet": place}}
        file_name = source["metadata"].get("file_name", "")
        return "document", {
            "mediaType": media_type_of(file_name) or "application/octet-stream",
            "title": source["name"],
            "filename": file_name,
            "providerMetadata": {"freshet": {**place, "url": self._file(place)}},
        }

    def _file(self, place: Fields) -> str:
        return address(self._files, place["document_id"], self._session_id, place.get("page_label"))


def _start(event: Fields) -> list[Fields]:
    told = {name: event[name] for name in _OF_THE_MESSAGE if name in event}
    start = {"type": "start", "messageId": event["message_id"], "messageMetadata": told}
    return [start, {"type": "start-step"}]


def _data(event: Fields) -> Fields:
    data = {name: value for name, value in event.items() if name not in ("type", "seq")}
    return {"type": f"data-{event['type']}", "data": data}


def _error(message: str) -> Fields:
    return {"type": "error", "errorText": message}


def _frame(chunk: Fields) -> bytes:
    return b"data: %b\n\n" % json_text.encode(chunk)


def _utf16_units(text: str) -> int:
    """The length of the text as JavaScript counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2
