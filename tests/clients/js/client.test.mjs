// The JavaScript client on connections that are made up: `connections` are what each fetch gets, in order.

import assert from "node:assert/strict";
import { test } from "node:test";

import { AnswerFailed, Disconnected, Freshet, RequestRefused } from "../../../clients/js/src/index.ts";

const START = {
  ...{ type: "start", seq: 1, run_id: "run", session_id: "a session", message_id: "m", user_message_id: "u" },
  ...{ protocol: 1, model: { name: "n", provider: "p" } },
};
const DONE = {
  ...{ type: "done", seq: 4, status: "completed", message_id: "m", finish_reason: "stop" },
  usage: { input_tokens: 1, output_tokens: 1, total_tokens: 2 },
};
const ANSWER = [START, token(2, "Grüße "), token(3, "日本"), DONE];
const HEAD = { "x-session-id": "a session", "x-run-id": "run" };
const QUESTION = { message: "Hello?", assistant_id: "a" };

function token(seq, content) {
  return { type: "token", seq, content };
}

function failed(seq) {
  return { type: "error", seq, code: "interrupted", message: "It stopped.", error: "It stopped.", retryable: true };
}

function inBytes(...events) {
  return new TextEncoder().encode(events.map((event) => `${JSON.stringify(event)}\n`).join(""));
}

/** A connection that brings these pieces, and then ends, breaks, or stays open. */
function stream(pieces, then = "end", headers = HEAD) {
  return () => {
    const left = [...pieces];
    const body = new ReadableStream({
      pull(controller) {
        if (left.length) controller.enqueue(left.shift());
        else if (then === "end") controller.close();
        else if (then === "break") controller.error(new TypeError("The connection was reset."));
        else return new Promise(() => {});
      },
    });
    return new Response(body, { headers });
  };
}

function refusal(status, problem, headers = {}) {
  return () => new Response(status === 204 ? null : JSON.stringify(problem), { status, headers });
}

function lost() {
  throw new TypeError("fetch failed");
}

/** A client of these connections, and the requests that it makes. */
function client(connections, options = {}) {
  const asked = [];
  const fetch = async (url, init) => {
    asked.push({ ...init, url: url.replace("http://server/api/v1", "") });
    return (connections.shift() ?? lost)();
  };
  const retry = { firstDelayMs: 0, giveUpAfterMs: 5_000, ...options.retry };
  return [new Freshet({ baseUrl: "http://server/", fetch, ...options, retry }), asked];
}

async function all(events) {
  return await Array.fromAsync(events);
}

test("every event comes once and in order wherever the connection is cut", async () => {
  const sent = inBytes(...ANSWER);
  const cuts = Array.from({ length: sent.length + 1 }, (_, cut) => cut);
  const follow = async (cut, then) => {
    const seen = new TextDecoder().decode(sent.slice(0, cut)).split("\n").length - 1;
    const rest = inBytes(...ANSWER.slice(seen));
    const [freshet] = client([stream([sent.slice(0, cut)], then), stream([rest])]);
    assert.deepEqual(await all(freshet.stream(QUESTION)), ANSWER);
  };

  await Promise.all(cuts.flatMap((cut) => [follow(cut, "end"), follow(cut, "break")]));
});

test("an answer comes whole if each of its bytes comes alone", async () => {
  const bytes = Array.from(inBytes(...ANSWER), (byte) => Uint8Array.of(byte));
  const [freshet] = client([stream(bytes)]);

  assert.deepEqual(await all(freshet.stream(QUESTION)), ANSWER);
});

test("a question whose answer was lost is asked again under the same key, and resumed once its run is known", async () => {
  const connections = [lost, refusal(503), stream([], "break"), stream([inBytes(...ANSWER)])];
  const [freshet, asked] = client(connections);

  assert.deepEqual(await all(freshet.stream(QUESTION)), ANSWER);
  assert.deepEqual(
    asked.map(({ method, url }) => `${method} ${url}`),
    [
      ...Array(3).fill("POST /chat/stream"),
      "GET /chat/a%20session/stream?run_id=run&after=0",
    ],
  );
  assert.deepEqual(asked.slice(0, 3).map(({ body }) => JSON.parse(body)), Array(3).fill(QUESTION));
  const keys = new Set(asked.slice(0, 3).map(({ headers }) => headers["idempotency-key"]));
  assert.equal(keys.size, 1);
  assert.match([...keys][0], /^[0-9a-f]{32}$/);
});

test("each question has a key of its own, or the one that is given", async () => {
  const [freshet, asked] = client(Array(3).fill(stream([inBytes(...ANSWER)])));

  await all(freshet.stream(QUESTION));
  await all(freshet.stream(QUESTION));
  await all(freshet.stream({ ...QUESTION, idempotency_key: "mine" }));

  const keys = asked.map(({ headers }) => headers["idempotency-key"]);
  assert.notEqual(keys[0], keys[1]);
  assert.equal(keys[2], "mine");
  assert.deepEqual(JSON.parse(asked[2].body), QUESTION);
});

test("a server that is silent for too long is asked again", async () => {
  const connections = [stream([inBytes(START)], "stay open"), stream([inBytes(...ANSWER.slice(1))])];
  const [freshet, asked] = client(connections, { silenceMs: 20 });

  assert.deepEqual(await all(freshet.stream(QUESTION)), ANSWER);
  assert.ok(asked[0].signal.aborted);
});

test("a line that is not the next of the answer ends the connection alone", async () => {
  const cut = { type: "error", code: "reader_too_slow", message: "m", error: "m", retryable: true, resume_after: 1 };
  const strange = [cut, token(3, "日本"), [], { type: "token" }, null].map((line) => inBytes(line));
  for (const line of [...strange, new TextEncoder().encode("<html>\n")]) {
    const [freshet] = client([stream([inBytes(START), line]), stream([inBytes(...ANSWER.slice(1))])]);

    assert.deepEqual(await all(freshet.stream(QUESTION)), ANSWER);
  }
});

test("heartbeats are not handed on, events that are not known are", async () => {
  const events = [START, { type: "citation", seq: 2, index: 1 }, token(3, "x"), DONE];
  const [freshet] = client([stream([inBytes({ type: "heartbeat" }, ...events, { type: "heartbeat" })])]);

  assert.deepEqual(await all(freshet.stream(QUESTION)), events);
});

test("nothing is handed on twice, nor after the last event", async () => {
  const [freshet] = client([stream([inBytes(START, START, ...ANSWER.slice(1), token(5, "x"))])]);

  assert.deepEqual(await all(freshet.stream(QUESTION)), ANSWER);
});

for (const seq of [2, 3]) {
  test(`a last event ends the answer though its place, ${seq} of 3, has been taken`, async () => {
    const [freshet] = client([stream([inBytes(...ANSWER.slice(0, 3))]), stream([inBytes(failed(seq))])]);

    assert.deepEqual(await all(freshet.stream(QUESTION)), [...ANSWER.slice(0, 3), failed(seq)]);
  });
}

test("an answer that nobody knows any more is no answer without an end", async () => {
  const [freshet] = client([stream([inBytes(START)]), refusal(204)]);

  await assert.rejects(all(freshet.stream(QUESTION)), Disconnected);
});

test("a session that is resumed stays with the run that it began with", async () => {
  const [freshet, asked] = client([stream([inBytes(ANSWER[1])]), stream([inBytes(...ANSWER.slice(2))])]);
  const events = freshet.resume("a session", { after: 1 });

  assert.deepEqual(await all(events), ANSWER.slice(1));
  assert.deepEqual(
    asked.map(({ url }) => url.split("?")[1]),
    ["after=1", "run_id=run&after=2"],
  );
  assert.deepEqual([events.sessionId, events.runId, events.lastSeq], ["a session", "run", 4]);
});

test("there may be nothing to resume", async () => {
  const [freshet] = client([refusal(204)]);

  assert.deepEqual(await all(freshet.resume("a session", { after: 4 })), []);
});

test("a server that does not come back is given up, with what it takes to resume", async () => {
  const [freshet] = client([stream([inBytes(START)])], { retry: { giveUpAfterMs: 20, firstDelayMs: 5 } });

  await assert.rejects(all(freshet.stream(QUESTION)), (error) => {
    assert.ok(error instanceof Disconnected);
    assert.deepEqual([error.sessionId, error.runId, error.lastSeq], ["a session", "run", 1]);
    return error.message === "fetch failed";
  });
});

test("a server that says when to come again is not asked before, and not at all if that is too late", async () => {
  const [freshet, asked] = client([refusal(503, { code: "at_capacity", message: "m" }, { "retry-after": "6" })]);

  await assert.rejects(all(freshet.stream(QUESTION)), RequestRefused);
  assert.equal(asked.length, 1);
});

test("a refusal is thrown in the words of the server, or without a code where they are not its own", async () => {
  const problem = { code: "session_busy", message: "It is busy.", detail: [1] };
  const [freshet] = client([refusal(409, problem), refusal(409, null), refusal(404, problem)]);

  await assert.rejects(all(freshet.stream(QUESTION)), { ...problem, name: "RequestRefused", status: 409 });
  await assert.rejects(all(freshet.stream(QUESTION)), { code: null });
  await assert.rejects(freshet.history("a session"), { status: 404 });
});

test("a signal that is aborted ends the connection, with its reason", async () => {
  const controller = new AbortController();
  const [freshet, asked] = client([stream([inBytes(START)], "stay open")]);
  const reading = (async () => {
    for await (const event of freshet.stream(QUESTION, { signal: controller.signal })) {
      assert.equal(event.type, "start");
      controller.abort(new Error("The reader has left."));
    }
  })();

  await assert.rejects(reading, { message: "The reader has left." });
  assert.ok(asked[0].signal.aborted);
  assert.equal(asked.length, 1);
});

test("a signal that is aborted ends the pause before the next attempt", async () => {
  const retry = { firstDelayMs: 60_000, longestDelayMs: 60_000, giveUpAfterMs: 120_000 };
  const [freshet] = client([], { retry });

  await assert.rejects(freshet.ask(QUESTION, { signal: AbortSignal.timeout(20) }), { name: "TimeoutError" });
});

test("who leaves the loop closes the connection", async () => {
  const [freshet, asked] = client([stream([inBytes(...ANSWER)], "stay open")]);

  for await (const event of freshet.stream(QUESTION)) {
    assert.equal(event.type, "start");
    break;
  }

  assert.ok(asked[0].signal.aborted);
});

test("a whole answer has its text and what is known of it", async () => {
  const [freshet] = client([stream([inBytes(...ANSWER)])]);

  const answer = await freshet.ask(QUESTION);

  assert.equal(answer.text, "Grüße 日本");
  assert.deepEqual([answer.session_id, answer.status, answer.usage.total_tokens], ["a session", "completed", 2]);
});

test("a whole answer that failed is thrown, with what had been said", async () => {
  const [freshet] = client([stream([inBytes(...ANSWER.slice(0, 3), failed(4))])]);

  await assert.rejects(freshet.ask(QUESTION), (error) => {
    assert.ok(error instanceof AnswerFailed);
    assert.deepEqual([error.code, error.retryable, error.answer.text], ["interrupted", true, "Grüße 日本"]);
    return true;
  });
});

test("a token that is made anew is asked for at each connection", async () => {
  const tokens = ["first", "second"];
  const [freshet, asked] = client([lost, stream([inBytes(...ANSWER)])], { token: async () => tokens.shift() });

  await freshet.ask(QUESTION);

  assert.deepEqual(
    asked.map(({ headers }) => headers.authorization),
    ["Bearer first", "Bearer second"],
  );
});
