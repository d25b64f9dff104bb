import { whole } from "./answer.ts";
import { Connection, pause, type Way } from "./connection.ts";
import { Disconnected, FreshetError } from "./errors.ts";
import { Following, refused } from "./following.ts";
import type {
  Answer,
  AnswerOptions,
  History,
  HistoryPage,
  Question,
  RegenerateOptions,
  ResumeOptions,
  Sessions,
  SessionsPage,
  Stopped,
} from "./records.ts";
import * as requests from "./requests.ts";
import type { Call } from "./requests.ts";
import { Patience, RETRY, type Retry } from "./retry.ts";
import { AnswerStream } from "./stream.ts";

export interface FreshetOptions {
  /** In a browser it may be relative to the page. */
  baseUrl?: string | undefined;
  /** An access token or an API key, or what gives one that counts now. */
  token?: Way["token"];
  retry?: Partial<Retry> | undefined;
  /** A server that says nothing for so long, not even a heartbeat, is taken to be gone. */
  silenceMs?: number | undefined;
  /** In place of the global one, such as one that sends cookies. */
  fetch?: Way["fetch"] | undefined;
}

export interface CallOptions {
  /** Ends the waiting, with the signal's reason. The answer goes on all the same: `stop` stops it. */
  signal?: AbortSignal | undefined;
}

export class Freshet {
  readonly #way: Way;
  readonly #retry: Retry;

  constructor(options: FreshetOptions = {}) {
    const base = new URL(options.baseUrl ?? "http://127.0.0.1:8000", globalThis.location?.href);
    this.#way = {
      api: `${base.href.replace(/\/+$/, "")}/api/v1`,
      token: options.token,
      silenceMs: options.silenceMs ?? 45_000,
      // The one of browsers refuses to be called as a method of anything else.
      fetch: options.fetch ?? ((input, init) => globalThis.fetch(input, init)),
    };
    this.#retry = { ...RETRY, ...options.retry };
  }

  /** Ask, and wait for the whole answer. Throws `AnswerFailed` if it fails. */
  ask(question: Question, options: CallOptions = {}): Promise<Answer> {
    return whole(this.stream(question, options));
  }

  /** Ask, and follow the answer as it is made. */
  stream(question: Question, options: CallOptions = {}): AnswerStream {
    return this.#answer(() => requests.ask(question), question.session_id, options);
  }

  /** Answer a question again: the one that is named, or the newest. */
  regenerate(sessionId: string, what: RegenerateOptions = {}, options: CallOptions = {}): AnswerStream {
    return this.#answer(() => requests.regenerate(sessionId, what), sessionId, options);
  }

  /** Ask the question `messageId` in other words, and go on from there. */
  edit(
    sessionId: string,
    messageId: string,
    message: string,
    what: AnswerOptions = {},
    options: CallOptions = {},
  ): AnswerStream {
    return this.#answer(() => requests.edit(sessionId, messageId, message, what), sessionId, options);
  }

  /** The events of a run after one that is known; none if there is nothing to resume. */
  resume(sessionId: string, { run_id, after }: ResumeOptions = {}, options: CallOptions = {}): AnswerStream {
    const begin = async () =>
      new Following(new Patience(this.#retry), null, sessionId, run_id ?? null, after ?? 0);
    return new AnswerStream(begin, this.#way, options.signal);
  }

  /** Stop that answer, else whichever is being made in the session; what had been said is kept. */
  stop(sessionId: string, runId?: string, options: CallOptions = {}): Promise<Stopped> {
    return this.#call(requests.stop(sessionId, runId ?? null), options);
  }

  /** The newest messages of the session, up to `limit` of them, or those before a page. */
  history(sessionId: string, page: HistoryPage = {}, options: CallOptions = {}): Promise<History> {
    return this.#call(requests.history(sessionId, page), options);
  }

  /** Show the branch of the conversation that has this message, and go on from there. */
  async choose(sessionId: string, messageId: string, options: CallOptions = {}): Promise<void> {
    await this.#call(requests.choose(sessionId, messageId), options);
  }

  /** Begin anew: the session's history is empty from now on; with `purge` what was said is erased as well. */
  async forget(sessionId: string, { purge = false } = {}, options: CallOptions = {}): Promise<void> {
    await this.#call(requests.forget(sessionId, purge), options);
  }

  /** The user's own sessions. */
  sessions(page: SessionsPage = {}, options: CallOptions = {}): Promise<Sessions> {
    return this.#call(requests.sessions(page), options);
  }

  #answer(
    question: () => Promise<Call>,
    sessionId: string | undefined,
    { signal }: CallOptions,
  ): AnswerStream {
    const begin = async () =>
      new Following(new Patience(this.#retry), await question(), sessionId ?? null, null, 0);
    return new AnswerStream(begin, this.#way, signal);
  }

  /** Each of these calls may be made twice: what has been stopped or forgotten stays so. */
  async #call<T>(call: Call, { signal }: CallOptions): Promise<T> {
    const patience = new Patience(this.#retry);
    for (;;) {
      const connection = new Connection(this.#way, signal);
      let pauseMs: number | null;
      try {
        const response = await connection.send(call);
        const body = await connection.text(response);
        if (response.ok) return JSON.parse(body);
        pauseMs = refused(patience, response.status, response.headers, body);
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof FreshetError) throw error;
        pauseMs = patience.pauseMs();
        if (pauseMs === null) throw new Disconnected(error, null, null, 0);
      } finally {
        connection.end();
      }
      await pause(pauseMs, signal);
    }
  }
}
