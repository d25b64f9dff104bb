"""A run as a response: its lines as the events of OpenAI's Responses, and the response that they add up to."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import UUID

import msgspec

from app import json_text
from app.api.streaming import SSE
from app.errors import FreshetError
from app.runs.log import Lines

_HEARTBEAT = b": heartbeat\n\n"
_TOKEN = b'{"type":"token"'
_CONTENT = b'"content":"'
_CUT_SHORT = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_id(message_id: UUID) -> str:
    return f"resp_{message_id.hex}"


def item_id(message_id: UUID) -> str:
    return f"msg_{message_id.hex}"


def annotation(citation: dict[str, Any], file_names: dict[str, str]) -> dict[str, Any]:
    """`file_names` are those of the sources, by their ids."""
    return {
        "type": "file_citation",
        "file_id": citation["document_id"],
        "filename": file_names.get(citation["source_id"], ""),
        "index": citation["end"],
        "start_index": citation["start"],
        "end_index": citation["end"],
        "quote": citation["quote"],
        "page_label": citation.get("page_label"),
        "verified": citation["verified"],
    }


def file_names(sources: list[dict[str, Any]]) -> dict[str, str]:
    return {source["id"]: source["metadata"].get("file_name", "") for source in sources}


class ResponseEvents:
    """Writes the lines of a run as events that are numbered from 0, and leaves those up to `starting_after` out. All that they tell
    follows from the log and `response`, so that they are the same for every reader, and at every reading.

    It is given the lines from the first one on. `response` is how the response begins, and as it is when the lines have ended.
    """

    content_type = f"{SSE}; charset=utf-8"

    def __init__(self, message_id: UUID, response: dict[str, Any], *, starting_after: int = -1) -> None:
        self.response = response
        self._item_id = item_id(message_id)
        self._place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        delta: dict[str, Any] = {"type": "response.output_text.delta", **self._place, "logprobs": []}
        self._delta = b'event: response.output_text.delta\ndata: %b,"delta":"' % json_text.encode(delta)[:-1]
        self._starting_after = starting_after
        self._number = 0
        self._texts: list[bytes] = []
        self._annotations: list[dict[str, Any]] = []
        self._file_names: dict[str, str] = {}

    def write(self, batch: Lines) -> bytes:
        if not batch.lines:
            return _HEARTBEAT
        written: list[bytes] = []
        for line in batch.lines:
            if line.startswith(_TOKEN):
                # What stands between the quotes is a part of a string of JSON here, in the text, and in the whole text.
                text = line[line.index(_CONTENT) + len(_CONTENT) : -3]
                if not self._texts:
                    written.append(self._open())
                self._texts.append(text)
                if self._number > self._starting_after:
                    written += (self._delta, text, b'","sequence_number":%d}\n\n' % self._number)
                self._number += 1
            else:
                written.append(self._events(line))
        return b"".join(written)

    def cut(self, error: FreshetError, resume_after: int) -> bytes:  # noqa: ARG002  # the number of a line, and not of an event
        """It has the number of the last event, behind which the stream is to be taken up."""
        number = max(self._number - 1, self._starting_after, 0)
        told = {"type": "error", "code": error.code, "message": error.message, "param": None}
        return b"event: error\ndata: %b\n\n" % json_text.encode({**told, "sequence_number": number})

    def _events(self, line: bytes) -> bytes:
        event = msgspec.json.decode(line)
        match event["type"]:
            case "start":
                created = self._event("response.created", response=self.response)
                return created + self._event("response.in_progress", response=self.response)
            case "sources":
                self._file_names = file_names(event["data"])
            case "citation":
                self._annotations.append(annotation(event, self._file_names))
            case "done":
                return self._done(event)
            case "error":
                return self._failed(event)
            case _:
                pass
        return b""

    def _open(self) -> bytes:
        added = self._event(
            "response.output_item.added", output_index=0, item=self._item("in_progress", content=[])
        )
        part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return added + self._event("response.content_part.added", **self._place, part=part)

    def _done(self, done: dict[str, Any]) -> bytes:
        reason = _CUT_SHORT.get(done["finish_reason"])
        if done["status"] == "stopped":
            status = "cancelled"
        elif reason is not None:
            status = "incomplete"
        else:
            status = "completed"
        closing = self._close("completed" if status == "completed" else "incomplete") if self._texts else b""
        self.response = {
            **self.response,
            "status": status,
            "incomplete_details": {"reason": reason} if status == "incomplete" else None,
            "output": self._output("completed" if status == "completed" else "incomplete"),
            "usage": _usage(done["usage"]),
        }
        # These clients know no event of their own for what has been cancelled; its status tells.
        kind = "response.completed" if status == "completed" else "response.incomplete"
        return closing + self._last(kind, may_be_another=False)

    def _failed(self, error: dict[str, Any]) -> bytes:
        self.response = {
            **self.response,
            "status": "failed",
            "error": {"code": "server_error", "message": error["message"], "type": error["code"]},
            "output": self._output("incomplete"),
        }
        return self._last("response.failed", may_be_another=error["code"] == "interrupted")

    def _close(self, status: str) -> bytes:
        added = [
            self._event(
                "response.output_text.annotation.added",
                **self._place,
                annotation_index=index,
                annotation=annotation,
            )
            for index, annotation in enumerate(self._annotations)
        ]
        part = self._part()
        return b"".join(
            (
                *added,
                self._event("response.output_text.done", **self._place, text=part["text"], logprobs=[]),
                self._event("response.content_part.done", **self._place, part=part),
                self._event("response.output_item.done", output_index=0, item=self._output(status)[0]),
            )
        )

    def _output(self, status: str) -> list[dict[str, Any]]:
        return [self._item(status, content=[self._part()])] if self._texts else []

    def _item(self, status: str, *, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _part(self) -> dict[str, Any]:
        text = msgspec.Raw(b'"%b"' % b"".join(self._texts))
        return {"type": "output_text", "text": text, "annotations": self._annotations, "logprobs": []}

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._number
        self._number = number + 1
        if number <= self._starting_after:
            return b""
        told = json_text.encode({"type": kind, **fields, "sequence_number": number})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), told)

    def _last(self, kind: str, *, may_be_another: bool) -> bytes:
        """A reader who was ahead of the log, as its process was killed with what it had not stored, is given the end all the same;
        and who has the number of the end of an interrupted run may have had something else by it."""
        if self._number < self._starting_after or (may_be_another and self._number == self._starting_after):
            self._number = self._starting_after + 1
        return self._event(kind, response=self.response)


async def response_of(events: ResponseEvents, batches: AsyncGenerator[Lines]) -> dict[str, Any]:
    """What the lines add up to."""
    async with aclosing(batches) as all_lines:
        async for batch in all_lines:
            events.write(batch)
    return events.response


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_tokens": usage["input_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
