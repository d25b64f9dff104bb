import { Connection, pause, type Way } from "./connection.ts";
import { FreshetError } from "./errors.ts";
import type { AnswerEvent } from "./events.ts";
import type { Following } from "./following.ts";

/** The events of one answer, each once and in order, to its `done` or `error`. Nothing is sent before the first is asked for. */
export class AnswerStream implements AsyncIterable<AnswerEvent> {
  readonly #events: AsyncGenerator<AnswerEvent, void, undefined>;
  #following: Following | null = null;

  constructor(begin: () => Promise<Following>, way: Way, signal: AbortSignal | undefined) {
    this.#events = this.#follow(begin, way, signal);
  }

  /** With these three, known once the first event has come, `resume` takes the answer up elsewhere. */
  get sessionId(): string | null {
    return this.#following?.sessionId ?? null;
  }

  get runId(): string | null {
    return this.#following?.runId ?? null;
  }

  get lastSeq(): number {
    return this.#following?.lastSeq ?? 0;
  }

  [Symbol.asyncIterator](): AsyncGenerator<AnswerEvent, void, undefined> {
    return this.#events;
  }

  async *#follow(
    begin: () => Promise<Following>,
    way: Way,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<AnswerEvent, void, undefined> {
    const following = (this.#following = await begin());
    while (!following.ended) {
      const connection = new Connection(way, signal);
      let pauseMs: number;
      try {
        const response = await connection.send(following.nextRequest());
        if (response.status === 200) {
          following.opened(response.headers);
          for await (const bytes of connection.bytes(response)) {
            yield* following.received(bytes);
            if (following.ended) return;
          }
          pauseMs = following.broke("The stream broke off.");
        } else {
          const body = await connection.text(response);
          pauseMs = following.refused(response.status, response.headers, body);
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof FreshetError) throw error;
        pauseMs = following.broke(error);
      } finally {
        connection.end();
      }
      await pause(pauseMs, signal);
    }
  }
}
