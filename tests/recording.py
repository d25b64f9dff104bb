"""Every stream that a test reads over HTTP is recorded on its way, and held against the protocol when it closes."""

from collections.abc import AsyncIterator

import httpx

from app.conformance import Form, Problem, check

_FORMS: dict[str, Form] = {"application/x-ndjson": "ndjson", "text/event-stream": "sse"}


class RecordedStreams:
    """`problems` are those of all streams that have closed, each with the request that it answered."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def client(
        self,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 20,
        limits: httpx.Limits | None = None,
    ) -> httpx.AsyncClient:
        transport = _RecordingTransport(self, limits or httpx.Limits())
        return httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout, transport=transport)

    def closed(self, request: httpx.Request, body: bytes, form: Form, *, whole: bool) -> None:
        report = check(body, after=_resumed_after(request), prefix=not whole, form=form)
        self.problems += [_told(request, problem, body) for problem in report.problems]


class _RecordingTransport(httpx.AsyncBaseTransport):
    def __init__(self, streams: RecordedStreams, limits: httpx.Limits) -> None:
        self._streams = streams
        self._inner = httpx.AsyncHTTPTransport(limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        form = _FORMS.get(response.headers.get("content-type", "").partition(";")[0])
        if response.status_code == 200 and form is not None and "x-run-id" in response.headers:
            assert isinstance(response.stream, httpx.AsyncByteStream)
            response.stream = _RecordedBody(response.stream, request, form, self._streams)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _RecordedBody(httpx.AsyncByteStream):
    """Whole when it was read to its end; else its reader has left, or its sender broke off."""

    def __init__(
        self,
        inner: httpx.AsyncByteStream,
        request: httpx.Request,
        form: Form,
        streams: RecordedStreams,
    ) -> None:
        self._inner = inner
        self._request = request
        self._form: Form = form
        self._streams = streams
        self._parts: list[bytes] = []
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            self._parts.append(part)
            yield part
        self._whole = True

    async def aclose(self) -> None:
        await self._inner.aclose()
        self._streams.closed(self._request, b"".join(self._parts), self._form, whole=self._whole)


def _resumed_after(request: httpx.Request) -> int:
    return int(request.url.params.get("after") or request.headers.get("last-event-id") or 0)


def _told(request: httpx.Request, problem: Problem, body: bytes) -> str:
    lines = body.splitlines()
    line = lines[problem.line - 1] if problem.line <= len(lines) else b""
    return f"{request.method} {request.url.path}, {problem}: {line[:200].decode(errors='replace')}"
