"""The clients of a programme: they ask, leave, come back, and note all that they see."""

import asyncio
import signal
import socket
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from bench.chaos_journal import Follower, Journal, Question, Reading, Request, Stopping, now
from bench.chaos_plan import QUIET, Conversation, Reader, Turn, assistant_of
from bench.chaos_servers import Server

_ASKING_S = 20.0
_BETWEEN_TRIES_S = 0.15
_SOON_S = 4.0
# Longer than an answer and what is told of it take, and shorter than the limit of the heartbeat.
_ASLEEP_S = 0.45
_SLOW_S = 2.0
_SLOW_READ_BYTES = 4096

_FAILED = (aiohttp.ClientError, TimeoutError, OSError)


class Clients:
    def __init__(self, servers: Sequence[Server], give_up_at: float) -> None:
        self.journal = Journal()
        self._servers = servers
        self._give_up_at = give_up_at
        fast = aiohttp.TCPConnector(limit=0, force_close=True)
        self._fast = aiohttp.ClientSession(connector=fast, read_bufsize=2**18)
        slow = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_narrow_socket)
        self._slow = aiohttp.ClientSession(connector=slow, read_bufsize=_SLOW_READ_BYTES)

    async def close(self) -> None:
        await self._fast.close()
        await self._slow.close()

    async def ask(self, conversation: Conversation, turn: Turn, marker: str) -> None:
        question = Question(turn, marker, conversation.session_id)
        self.journal.questions.append(question)
        async with asyncio.TaskGroup() as tasks:
            for place, server in enumerate(turn.servers):
                tasks.create_task(self._ask(question, server, tasks, is_first=place == 0))

    async def _ask(
        self, question: Question, server: int, tasks: asyncio.TaskGroup, *, is_first: bool
    ) -> None:
        turn = question.turn
        for next_server in (server, *turn.then):
            life = self._servers[server].life
            request = Request(server, life.process.pid if life is not None else 0, now())
            question.requests.append(request)
            if turn.whole:
                await self._ask_at_once(question, request)
            else:
                follower = await self._ask_for_stream(question, request, tasks, is_first=is_first)
                if follower is not None:
                    await self._follow(follower, turn.then, turn.patience_s, sse=turn.sse)
                    return
            unknown = request.status is None or request.status in (502, 503, 504)
            if turn.key is None or not unknown or now() > self._give_up_at:
                return
            await asyncio.sleep(_BETWEEN_TRIES_S)
            server = next_server

    async def _ask_at_once(self, question: Question, request: Request) -> None:
        url = f"{self._servers[request.server].url}/api/v1/chat"
        timeout = aiohttp.ClientTimeout(total=_ASKING_S)
        try:
            async with self._fast.post(url, **_asked(question), timeout=timeout) as response:
                answer = await response.json(content_type=None)
                request.answer, request.code = answer, answer.get("code", "")
                request.status = response.status
        except _FAILED:
            return
        except ValueError:
            request.code = "no JSON"

    async def _ask_for_stream(
        self, question: Question, request: Request, tasks: asyncio.TaskGroup, *, is_first: bool
    ) -> Follower | None:
        turn = question.turn
        path = f"/{question.session_id}/regenerate" if turn.again else "/stream"
        url = f"{self._servers[request.server].url}/api/v1/chat{path}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=max(turn.patience_s, 6.0))
        http = self._slow if turn.manner == "slow" else self._fast
        follower: Follower | None = None
        with suppress(*_FAILED):
            async with http.post(url, **_asked(question), timeout=timeout) as response:
                request.status = response.status
                if response.status != 200:
                    request.code = (await response.json(content_type=None)).get("code", "")
                    return None
                request.run_id = response.headers["x-run-id"]
                reading = Reading(request.server, turn.sse, 0)
                follower = Follower(request.run_id, response.headers["x-session-id"], [reading])
                self.journal.followers.append(follower)
                if is_first:
                    self._begin_others(follower, turn, reading, tasks)
                await self._read(response, reading, turn)
        if follower is not None and follower.readings[0].ended == "left":
            await asyncio.sleep(turn.away_s)
        return follower

    def _begin_others(
        self, follower: Follower, turn: Turn, reading: Reading, tasks: asyncio.TaskGroup
    ) -> None:
        for reader in turn.readers:
            tasks.create_task(self._read_beside(follower, reader, turn, reading))
        if turn.stop is not None:
            tasks.create_task(self._stop(follower, *turn.stop, with_id=turn.sse))

    async def _read(self, response: aiohttp.ClientResponse, reading: Reading, turn: Turn | None) -> None:
        """To the end, or as long as the turn says. Fills `ended`."""
        slow_until = now() + _SLOW_S if turn is not None and turn.manner == "slow" else 0.0
        leaves_after = turn.leaves_after if turn is not None and turn.manner == "leaves" else None
        try:
            while data := await (
                response.content.read(_SLOW_READ_BYTES) if slow_until else response.content.readany()
            ):
                reading.feed(data)
                if leaves_after is not None and len(reading.events) >= leaves_after and not reading.is_over:
                    reading.ended = "left"
                    response.close()
                    return
                if now() > self._give_up_at:
                    reading.ended = "given up"
                    response.close()
                    return
                if now() < slow_until:
                    await asyncio.sleep(0.05)
            reading.ended = "whole"
        except TimeoutError:
            reading.ended = "impatient"
            response.close()
        except (aiohttp.ClientError, OSError):
            reading.ended = "broken"

    async def _read_beside(self, first: Follower, reader: Reader, turn: Turn, reading: Reading) -> None:
        await asyncio.sleep(reader.delay_s)
        follower = Follower(first.run_id, first.session_id, [])
        self.journal.followers.append(follower)
        after = int(reading.last_seq * reader.share) if reading.events else 0
        servers = (reader.server, *reversed(turn.then))
        await self._follow(follower, servers, turn.patience_s, sse=reader.sse, after=after)

    async def _follow(
        self, follower: Follower, servers: Sequence[int], patience_s: float, *, sse: bool, after: int = 0
    ) -> None:
        """Resumes until the end is known, or the run is gone."""
        if follower.readings:
            after = follower.readings[-1].last_seq
        for server in _again_and_again(servers):
            if follower.is_over:
                return
            if now() > self._give_up_at:
                follower.gave_up = True
                return
            reading = await self._resume(follower, server, after, patience_s, sse=sse)
            if reading is None:
                await asyncio.sleep(_BETWEEN_TRIES_S)
                continue
            after = reading.last_seq
            if reading.status != 200:
                return

    async def _resume(
        self, follower: Follower, server: int, after: int, patience_s: float, *, sse: bool
    ) -> Reading | None:
        url = f"{self._servers[server].url}/api/v1/chat/{follower.session_id}/stream"
        params = {"run_id": follower.run_id, **({} if sse else {"after": str(after)})}
        headers = {"accept": "text/event-stream", "last-event-id": str(after)} if sse else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=patience_s)
        reading: Reading | None = None
        with suppress(*_FAILED):
            async with self._fast.get(url, params=params, headers=headers, timeout=timeout) as response:
                if response.status in (502, 503, 504):
                    return None
                reading = Reading(server, sse, after, response.status)
                follower.readings.append(reading)
                if response.status == 200:
                    await self._read(response, reading, None)
                else:
                    reading.ended = "whole"
        return reading

    async def _stop(self, follower: Follower, delay_s: float, server: int, *, with_id: bool) -> None:
        await asyncio.sleep(delay_s)
        stopping = Stopping(follower.run_id if with_id else None, follower.session_id, server)
        self.journal.stops.append(stopping)
        url = f"{self._servers[server].url}/api/v1/chat/{follower.session_id}/stop"
        body = {"run_id": follower.run_id} if with_id else {}
        began = now()
        try:
            timeout = aiohttp.ClientTimeout(total=_ASKING_S)
            async with self._fast.post(url, json=body, timeout=timeout) as response:
                stopping.answer = await response.json(content_type=None)
                stopping.status = response.status
        except (*_FAILED, ValueError):
            return
        stopping.took_s = now() - began

    async def remove(self, session_id: str, server: int, *, purge: bool) -> None:
        url = f"{self._servers[server].url}/api/v1/chat/{session_id}"
        status = None
        try:
            timeout = aiohttp.ClientTimeout(total=_ASKING_S)
            params = {"purge": "true"} if purge else {}
            async with self._fast.delete(url, params=params, timeout=timeout) as response:
                status = response.status
        except _FAILED:
            pass
        self.journal.removals.append((session_id, purge, status))

    async def quiet_end(
        self, owner: int, elsewhere: Sequence[int], asleep_after_s: Sequence[float]
    ) -> list[str]:
        """An answer after which its process has nothing more to tell, and readers elsewhere whose processes are asleep when it ends:
        most have begun to read it by then. They must have all of it, soon after they have woken up."""
        self._give_up_at = now() + _ASKING_S
        body = {"message": "Briefly.", "assistant_id": assistant_of(QUIET)}
        url = f"{self._servers[owner].url}/api/v1/chat/stream"
        timeout = aiohttp.ClientTimeout(total=_ASKING_S)
        first, others = Reading(owner, sse=False, after=0), list[Follower]()
        async with asyncio.TaskGroup() as tasks, self._fast.post(url, json=body, timeout=timeout) as response:
            run_id, session_id = (response.headers[name] for name in ("x-run-id", "x-session-id"))
            for server, after_s in zip(elsewhere, asleep_after_s, strict=True):
                others.append(Follower(run_id, session_id, []))
                tasks.create_task(self._follow_briefly(others[-1], server))
                tasks.create_task(_sleep(self._servers[server], after_s))
            while data := await response.content.readany():
                first.feed(data)
        said = [event for _, event in first.events]
        return [
            f"a reader at server {server} has {follower.readings} of an answer of server {owner} that has {len(said)} events"
            for server, follower in zip(elsewhere, others, strict=True)
            if [event for one in follower.readings for _, event in one.events] != said
        ]

    async def _follow_briefly(self, follower: Follower, server: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SOON_S):
                await self._resume(follower, server, 0, _ASKING_S, sse=False)

    @asynccontextmanager
    async def get(self, server: int, path: str, **params: str) -> AsyncGenerator[aiohttp.ClientResponse]:
        """For the checks, when all is quiet."""
        url = f"{self._servers[server].url}/api/v1/chat/{path}"
        timeout = aiohttp.ClientTimeout(total=_ASKING_S)
        async with self._fast.get(url, params=params, timeout=timeout) as response:
            yield response

    async def ask_once_more(self, server: int, session_id: str) -> tuple[int, bytes]:
        """A short question, which the session must take."""
        url = f"{self._servers[server].url}/api/v1/chat/stream"
        body = {"message": "Still there?", "assistant_id": assistant_of("fake-n1"), "session_id": session_id}
        async with self._fast.post(
            url, json=body, timeout=aiohttp.ClientTimeout(total=_ASKING_S)
        ) as response:
            return response.status, await response.read()


async def _sleep(server: Server, after_s: float) -> None:
    await asyncio.sleep(after_s)
    server.send(signal.SIGSTOP)
    await asyncio.sleep(_ASLEEP_S)
    server.send(signal.SIGCONT)


def _asked(question: Question) -> dict[str, Any]:
    turn = question.turn
    body: dict[str, Any] = {"assistant_id": assistant_of(turn.behaviour), "on_busy": turn.on_busy}
    if not turn.again:
        body |= {"message": f"Speak. {question.marker}", "session_id": question.session_id}
    headers = {"idempotency-key": turn.key} if turn.key is not None else {}
    if turn.sse:
        headers["accept"] = "text/event-stream"
    return {"json": body, "headers": headers}


def _again_and_again(servers: Sequence[int]) -> Iterator[int]:
    while True:
        yield from servers


def _narrow_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_READ_BYTES)
    made.setblocking(False)
    return made
