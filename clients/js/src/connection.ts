import type { Call } from "./requests.ts";

/** How a server is reached. */
export interface Way {
  /** The address up to and with `/api/v1`. */
  api: string;
  token: string | (() => string | Promise<string>) | undefined;
  silenceMs: number;
  fetch: typeof globalThis.fetch;
}

/** One connection, whose every wait ends after `silenceMs`. Whoever makes it ends it. */
export class Connection {
  readonly #way: Way;
  readonly #signal: AbortSignal | undefined;
  readonly #controller = new AbortController();

  constructor(way: Way, signal: AbortSignal | undefined) {
    signal?.throwIfAborted();
    this.#way = way;
    this.#signal = signal;
    signal?.addEventListener("abort", this.end);
  }

  readonly end = (): void => {
    this.#signal?.removeEventListener("abort", this.end);
    this.#controller.abort(this.#signal?.reason);
  };

  async send(call: Call): Promise<Response> {
    const { api, token, fetch } = this.#way;
    const headers: Record<string, string> = { accept: "application/x-ndjson, application/json" };
    const bearer = typeof token === "function" ? await token() : token;
    if (bearer !== undefined) headers["authorization"] = `Bearer ${bearer}`;
    if (call.idempotencyKey !== undefined) headers["idempotency-key"] = call.idempotencyKey;
    const init: RequestInit = { method: call.method, headers, signal: this.#controller.signal };
    if (call.body !== undefined) {
      headers["content-type"] = "application/json";
      init.body = JSON.stringify(call.body);
    }
    return this.#within(fetch(api + call.path, init));
  }

  text(response: Response): Promise<string> {
    return this.#within(response.text());
  }

  async *bytes(response: Response): AsyncGenerator<Uint8Array, void, undefined> {
    const reader = response.body!.getReader();
    try {
      for (let piece; !(piece = await this.#within(reader.read())).done; ) yield piece.value;
    } finally {
      // Not every fetch lets go of its body when its signal is aborted.
      reader.cancel().catch(() => undefined);
    }
  }

  #within<T>(waiting: Promise<T>): Promise<T> {
    const { signal } = this.#controller;
    let timer: ReturnType<typeof setTimeout>;
    let ended: () => void;
    const bounded = new Promise<T>((resolve, reject) => {
      const silent = () => reject(new Error(`The server said nothing for ${this.#way.silenceMs} ms.`));
      ended = () => reject(signal.reason);
      timer = setTimeout(silent, this.#way.silenceMs);
      signal.addEventListener("abort", ended);
      if (signal.aborted) ended();
      waiting.then(resolve, reject);
    });
    return bounded.finally(() => {
      clearTimeout(timer);
      signal.removeEventListener("abort", ended);
    });
  }
}

/** Rejects with the signal's reason once that is aborted. */
export function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const aborted = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    }, ms);
    signal?.addEventListener("abort", aborted, { once: true });
  });
}
