import io
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import cast

import anyio
import anyio.lowlevel
import pytest

from app.errors import DocumentRefused
from app.ingest.convert import ConversionLimits, Converter, Page, Worker, WorkerDied
from app.ingest.readers import Allowance
from app.ingest.worker import LENGTHS, answer, head, serve
from tests.ingest.ingest_files import archive, docx, encrypted, lines_of, paragraph, pdf

# Reading this takes some seconds, in which nothing looks at a clock.
ENDLESS = b"<div>" * 2_000_000

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
async def converter() -> AsyncGenerator[Converter]:
    async with Converter() as converter:
        yield converter


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def readers() -> Iterator[Path]:
    """The processes that read for this one, and any child that nobody has waited for."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == str(os.getpid()) and (state == "Z" or b"app.ingest.worker" in command):
            yield process


async def refusal(converter: Converter, content: bytes, name: str) -> DocumentRefused:
    with pytest.raises(DocumentRefused) as refused:
        await converter.convert(content, name)
    return refused.value


async def test_every_format_is_converted(converter: Converter):
    files = {
        "a.md": b"# Title\r\n\r\ntext",
        "a.txt": b"text",
        "a.html": b"<title>Title</title><h1>Head</h1>text",
        "a.docx": docx(paragraph("Title", "H1") + paragraph("text")),
        "a.pdf": pdf([lines_of("text"), lines_of("more")], title="Title"),
    }
    converted = {name: await converter.convert(content, name) for name, content in files.items()}
    assert {name: (one.kind, one.title, one.text) for name, one in converted.items()} == {
        "a.md": ("txt", "Title", "# Title\n\ntext"),
        "a.txt": ("txt", None, "text"),
        "a.html": ("web", "Title", "# Head\n\ntext"),
        "a.docx": ("docx", "Title", "# Title\n\ntext"),
        "a.pdf": ("pdf", "Title", "text\n\nmore"),
    }
    assert converted["a.pdf"].media_type == "application/pdf"
    assert converted["a.pdf"].pages == (Page("1", 0, 4), Page("2", 6, 10))


async def test_a_refusal_comes_with_its_reason_and_words(converter: Converter):
    refused = await refusal(converter, pdf([b""]), "a.pdf")
    assert (refused.reason, refused.message) == ("no_text", "The PDF holds no text.")
    assert (await refusal(converter, b"", "a.pdf")).reason == "empty"


async def test_a_password_opens_a_pdf_also_inside_of_an_archive(converter: Converter):
    locked = encrypted(b"secret")
    assert (await converter.convert(locked, "a.pdf", password="secret")).text == "behind a lock"
    inside = await converter.convert(archive({"a.pdf": locked}), "a.zip", password="secret")
    assert (inside.text, inside.pages[0].label) == ("# a.pdf\n\nbehind a lock", "a.pdf > 1")


async def test_what_a_reader_does_not_expect_is_a_broken_file(
    converter: Converter, caplog: pytest.LogCaptureFixture
):
    relation = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship/></Relationships>'
    refused = await refusal(converter, docx(paragraph("a"), more={"_rels/.rels": relation}), "a.docx")
    assert (refused.reason, refused.message) == ("broken", "The document is damaged and cannot be read.")
    assert "KeyError" in caplog.text


async def test_a_file_larger_than_the_limit_is_refused_unread():
    async with Converter(ConversionLimits(input_bytes=10, text_characters=5)) as converter:
        assert (await refusal(converter, b"a" * 11, "a.txt")).reason == "too_large"
        assert (await refusal(converter, b"a" * 10, "a.txt")).reason == "too_large"
        assert (await converter.convert(b"a" * 5, "a.txt")).text == "a" * 5


@needs_proc
async def test_reading_that_takes_too_long_is_ended_and_nothing_of_it_is_left():
    before = set(readers())
    async with Converter(ConversionLimits(time_s=0.4)) as converter:
        assert (await refusal(converter, ENDLESS, "a.html")).reason == "timeout"
        assert set(readers()) == before


@needs_proc
async def test_cancelling_a_conversion_ends_its_reading():
    before = set(readers())
    async with Converter() as converter:
        with anyio.move_on_after(0.4) as scope:
            await converter.convert(ENDLESS, "a.html")
        assert scope.cancelled_caught
        assert set(readers()) == before
        assert (await converter.convert(b"next", "a.txt")).text == "next"


needs_memory_limit = pytest.mark.skipif(
    sys.platform != "linux", reason="the limit of memory is enforced on Linux"
)


@needs_memory_limit
async def test_reading_that_takes_too_much_memory_is_refused_and_the_next_document_is_read():
    async with Converter(ConversionLimits(memory_bytes=64 * 1024 * 1024)) as converter:
        await converter.convert(b"before", "a.txt")
        assert (await refusal(converter, docx("<w:p/>" * 60_000), "a.docx")).reason == "memory"
        assert (await converter.convert(b"next", "a.txt")).text == "next"


@needs_memory_limit
async def test_a_library_that_ends_its_process_when_it_gets_no_memory_costs_one_document():
    async with Converter(ConversionLimits(memory_bytes=128 * 1024 * 1024)) as converter:
        drawing = b"BT /F1 12 Tf " + b"(A) Tj " * 600_000 + b"ET"
        assert (await refusal(converter, pdf([drawing]), "a.pdf")).reason == "memory"
        assert (await converter.convert(pdf([lines_of("next")]), "a.pdf")).text == "next"


@needs_proc
@pytest.mark.parametrize("noticed", [False, True])
async def test_a_reader_that_was_killed_while_it_waited_is_replaced(converter: Converter, noticed: bool):
    before = set(readers())
    await converter.convert(b"a", "a.txt")
    [waiting] = set(readers()) - before
    os.kill(int(waiting.name), signal.SIGKILL)
    while noticed and waiting.exists():
        await anyio.lowlevel.checkpoint()
    assert (await converter.convert(b"b", "a.txt")).text == "b"


@needs_proc
@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGSEGV, "broken"), (signal.SIGXCPU, "timeout"), (signal.SIGKILL, "memory")],
)
async def test_a_reader_that_dies_costs_its_document_and_the_reason_tells_how(
    converter: Converter, number: int, reason: str
):
    before = set(readers())

    async def kill() -> None:
        while not (reading := set(readers()) - before):
            await anyio.lowlevel.checkpoint()
        os.kill(int(reading.pop().name), number)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            assert (await refusal(converter, ENDLESS, "a.html")).reason == reason
    assert (await converter.convert(b"next", "a.txt")).text == "next"


@pytest.mark.parametrize("reply", [b"\xff" * 64, b"\0\0\0\2\0\0\0\0[]", b'\0\0\0\x09\0\0\0\0{"title"', b""])
async def test_a_reply_that_is_none_is_taken_for_the_death_of_the_reader(reply: bytes):
    script = f"import sys; sys.stdin.buffer.read(26); sys.stdout.buffer.write({reply!r})"
    worker = Worker(await anyio.open_process([sys.executable, "-c", script], start_new_session=True))
    with anyio.fail_after(10), pytest.raises(WorkerDied):
        await worker.ask("text", b"a", max_body_bytes=100)
    await worker.stop()


@needs_proc
async def test_readers_are_used_again_and_are_never_more_than_allowed(converter: Converter):
    async with Converter() as other:
        # The event loop keeps a descriptor from its first child process on.
        await other.convert(b"a", "a.md")
    before = set(readers())
    descriptors = open_descriptors()
    most = 0

    async def read(number: int) -> None:
        nonlocal most
        assert (await converter.convert(b"%d" % number, "a.md")).text == str(number)
        most = max(most, len(set(readers()) - before))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(read, number)
    assert most == 2
    await converter.aclose()
    assert set(readers()) == before
    assert open_descriptors() == descriptors


@needs_proc
async def test_a_reader_that_has_read_much_is_replaced(converter: Converter):
    before = set(readers())
    await converter.convert(b"a", "a.txt")
    first = set(readers()) - before
    for _ in range(500):
        await converter.convert(b"a", "a.txt")
    assert first.isdisjoint(readers())


@needs_proc
async def test_a_reader_gets_no_secrets_and_may_write_no_files(
    converter: Converter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SECRET_KEY", "do not tell")
    before = set(readers())
    await converter.convert(b"a", "a.txt")
    [reader] = set(readers()) - before
    assert b"SECRET_KEY" not in (reader / "environ").read_bytes()
    assert "Max file size             0" in (reader / "limits").read_text()


async def test_a_converter_that_is_closed_keeps_no_reader():
    converter = Converter()
    await converter.aclose()
    assert (await converter.convert(b"a", "a.txt")).text == "a"


def test_a_worker_answers_one_request_after_the_other():
    requests = b"".join(
        head(b'{"reader": "%b"}' % reader, len(content)) + content
        for reader, content in [(b"markdown", b"# A\n\ntext"), (b"text", b" "), (b"no_such", b"a")]
    )
    replies, reads = io.BytesIO(), list[int]()
    serve(io.BytesIO(requests), replies, 1000, before_each=lambda: reads.append(replies.tell()))
    replies.seek(0)
    answers = list[tuple[dict[str, str], bytes]]()
    while lengths := replies.read(LENGTHS.size):
        header_length, body_length = LENGTHS.unpack(lengths)
        answers.append((json.loads(replies.read(header_length)), replies.read(body_length)))
    assert len(reads) == 3
    assert answers[0] == ({"title": "A", "pages": [], "warnings": []}, b"# A\n\ntext")
    assert [header["reason"] for header, _ in answers[1:]] == ["no_text", "broken"]


def test_a_reader_that_gets_no_memory_says_so():
    reply = answer("pdf", pdf([lines_of("a")]), Allowance(cast("int", _NoMemory())))
    assert b'"reason": "memory"' in reply


class _NoMemory:
    def __sub__(self, other: int) -> int:
        raise MemoryError
