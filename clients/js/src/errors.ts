import type { Answer } from "./records.ts";

/** The root of what can go wrong. A signal that is aborted throws its own reason instead. */
export class FreshetError extends Error {
  override name = "FreshetError";
}

/** The server said no: a status that is an error, and that waiting does not change. */
export class RequestRefused extends FreshetError {
  override name = "RequestRefused";
  readonly status: number;
  /** One of docs/protocol.md; null where the answer was not Freshet's own, such as a proxy's. */
  readonly code: string | null;
  readonly detail: unknown;

  constructor(status: number, code: string | null, message: string, detail: unknown = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.detail = detail;
  }
}

/**
 * The server could not be reached, or not again, within the time that is allowed. The answer may well go on: once
 * `sessionId` is known, `resume` takes it up.
 */
export class Disconnected extends FreshetError {
  override name = "Disconnected";
  readonly sessionId: string | null;
  readonly runId: string | null;
  readonly lastSeq: number;

  constructor(cause: unknown, sessionId: string | null, runId: string | null, lastSeq: number) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.sessionId = sessionId;
    this.runId = runId;
    this.lastSeq = lastSeq;
  }
}

/** The answer ended with an `error` event; thrown where a whole answer is asked for. */
export class AnswerFailed extends FreshetError {
  override name = "AnswerFailed";
  readonly code: string;
  /** Whether asking again may help. */
  readonly retryable: boolean;
  /** What had been said. */
  readonly answer: Answer;

  constructor(code: string, message: string, retryable: boolean, answer: Answer) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.answer = answer;
  }
}
