import { Disconnected, RequestRefused } from "./errors.ts";
import type { AnswerEvent, CutEvent, HeartbeatEvent } from "./events.ts";
import { LineSplitter } from "./lines.ts";
import { resume, type Call } from "./requests.ts";
import { isPassing, retryAfterMs, type Patience } from "./retry.ts";

type Line = AnswerEvent | CutEvent | HeartbeatEvent;

/**
 * One answer, followed through all the connections that it takes. No I/O: a client sends what this says, and
 * tells what came.
 *
 * For each connection: `nextRequest`, then `refused`, or `opened`, `received` and in the end `broke`. Until
 * `ended`, `refused` and `broke` tell how many milliseconds to wait before the next connection.
 */
export class Following {
  sessionId: string | null;
  runId: string | null;
  lastSeq: number;
  ended = false;
  readonly #patience: Patience;
  readonly #question: Call | null;
  #lines = new LineSplitter();
  #isKnownToExist = false;

  /** With a `question`, its answer from the beginning; without, what comes after `lastSeq` of the session's run. */
  constructor(
    patience: Patience,
    question: Call | null,
    sessionId: string | null,
    runId: string | null,
    lastSeq: number,
  ) {
    this.#patience = patience;
    this.#question = question;
    this.sessionId = sessionId;
    this.runId = runId;
    this.lastSeq = lastSeq;
  }

  nextRequest(): Call {
    this.#lines = new LineSplitter();
    if (this.#question && this.runId === null) return this.#question;
    return resume(this.sessionId ?? "", this.runId, this.lastSeq);
  }

  /** The status is 200. */
  opened(headers: Headers): void {
    this.#isKnownToExist = true;
    this.#isAbout(headers.get("x-session-id"), headers.get("x-run-id"));
  }

  /** The events that are new and next. Throws if nothing after them is of use. */
  *received(bytes: Uint8Array): Generator<AnswerEvent, void, undefined> {
    for (const text of this.#lines.feed(bytes)) {
      const line = decode(text);
      if (line.type === "heartbeat") {
        this.#patience.renew();
        continue;
      }
      if (!("seq" in line)) throw new Error(line.message);
      if (line.seq > this.lastSeq + 1) throw new Error(`Event ${this.lastSeq + 1} is missing.`);
      // A run whose process was killed may end before what its readers have seen of it.
      this.ended = line.type === "done" || line.type === "error";
      if (line.seq <= this.lastSeq && !this.ended) continue;
      this.#patience.renew();
      this.lastSeq = line.seq;
      if (line.type === "start") this.#isAbout(line.session_id, line.run_id);
      yield line;
      if (this.ended) return;
    }
  }

  /** Milliseconds until the next connection. Throws `Disconnected` if it has been going on for too long. */
  broke(reason: unknown): number {
    const pauseMs = this.#patience.pauseMs();
    if (pauseMs === null) throw this.#disconnected(reason);
    return pauseMs;
  }

  /** The status is not 200. Milliseconds until the next connection; throws `RequestRefused` if none is of use. */
  refused(status: number, headers: Headers, body: string): number {
    if (status !== 204) return refused(this.#patience, status, headers, body);
    if (this.#isKnownToExist) throw this.#disconnected("The server has nothing more of this answer.");
    this.ended = true;
    return 0;
  }

  #isAbout(sessionId: string | null, runId: string | null): void {
    this.sessionId = sessionId ?? this.sessionId;
    this.runId = runId ?? this.runId;
  }

  #disconnected(reason: unknown): Disconnected {
    return new Disconnected(reason, this.sessionId, this.runId, this.lastSeq);
  }
}

/** Milliseconds until the same request may be sent again. Throws `RequestRefused` if that would be of no use. */
export function refused(patience: Patience, status: number, headers: Headers, body: string): number {
  const pauseMs = isPassing(status) ? patience.pauseMs(retryAfterMs(headers)) : null;
  if (pauseMs === null) throw refusal(status, body);
  return pauseMs;
}

function refusal(status: number, body: string): RequestRefused {
  try {
    const problem = JSON.parse(body);
    if (problem.code) return new RequestRefused(status, problem.code, problem.message, problem.detail);
  } catch {
    // It is told below.
  }
  return new RequestRefused(status, null, `The server answered with status ${status}.`);
}

function decode(text: string): Line {
  const line = JSON.parse(text);
  const isEvent = typeof line?.seq === "number" || line?.type === "heartbeat" || line?.type === "error";
  if (!isEvent) throw new Error(`This line is no event: ${text.slice(0, 200)}`);
  return line;
}
