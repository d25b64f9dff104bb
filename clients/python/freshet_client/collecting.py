"""Events to a whole answer."""

from .errors import AnswerFailed
from .events import Citation, Done, Error, Event, Sources, Start, Token
from .records import Answer, Cited, Source


class Collecting:
    def __init__(self) -> None:
        self._start: Start | None = None
        self._texts: list[str] = []
        self._sources: list[Source] = []
        self._citations: list[Cited] = []
        self._last: Done | Error | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, Start):
            self._start = event
        elif isinstance(event, Token):
            self._texts.append(event.content)
        elif isinstance(event, Sources):
            self._sources = event.data
        elif isinstance(event, Citation):
            self._citations.append(event)
        elif isinstance(event, Done | Error):
            self._last = event

    def answer(self) -> Answer:
        """Of all the events from the first to the last. `AnswerFailed` if that is an `error`."""
        start, last = self._start, self._last
        assert start is not None  # a stream from its beginning has both, or has raised
        assert last is not None
        answer = Answer(
            text="".join(self._texts),
            status="failed" if isinstance(last, Error) else last.status,
            session_id=start.session_id,
            run_id=start.run_id,
            message_id=start.message_id,
            user_message_id=start.user_message_id,
            model=start.model,
            sources=self._sources,
            citations=self._citations,
            finish_reason=None if isinstance(last, Error) else last.finish_reason,
            usage=None if isinstance(last, Error) else last.usage,
        )
        if isinstance(last, Error):
            raise AnswerFailed(last.code, last.message, retryable=last.retryable, answer=answer)
        return answer
