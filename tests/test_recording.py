"""What the tests read is held against the protocol."""

from asyncio import StreamReader, StreamWriter, start_server

import anyio

from tests.recorded_stream import DONE, STATUS, TOKEN, as_ndjson, recorded
from tests.recording import RecordedStreams

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nx-run-id: 1\r\nconnection: close\r\n\r\n"


async def _found(body: bytes, *, whole: bool) -> list[str]:
    """The problems of an answer of these bytes, read to its end or left after its first line."""

    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD + body)
        writer.close()

    streams = RecordedStreams()
    with anyio.fail_after(5):
        async with await start_server(answer, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            async with (
                streams.client(f"http://{host}:{port}") as client,
                client.stream("GET", "/") as response,
            ):
                lines = response.aiter_lines()
                await anext(lines)
                if whole:
                    _ = [line async for line in lines]
    return streams.problems


async def test_a_test_is_told_which_line_of_what_it_read_breaks_the_protocol() -> None:
    (problem,) = await _found(as_ndjson(recorded()[:DONE]), whole=True)

    assert problem.startswith("GET /, line 13: the stream ends without done or error")
    assert '"step_type":"completed"' in problem
    assert await _found(as_ndjson(recorded()), whole=True) == []


async def test_a_stream_that_a_test_leaves_needs_no_end() -> None:
    assert await _found(as_ndjson(recorded()[:TOKEN]), whole=False) == []
    assert await _found(as_ndjson(recorded()[STATUS:TOKEN]), whole=False) != []
