/**
 * When to try again, and when to give up. The pause before each attempt is twice that before the last, less up
 * to a half by chance.
 */
export interface Retry {
  /** Counts from the first failure after the last sign of life: an event, or a heartbeat. */
  giveUpAfterMs: number;
  firstDelayMs: number;
  longestDelayMs: number;
}

export const RETRY: Retry = { giveUpAfterMs: 60_000, firstDelayMs: 200, longestDelayMs: 10_000 };

/** How long one answer, or one call, has been failing. */
export class Patience {
  readonly #retry: Retry;
  #failures = 0;
  #failingSince = 0;

  constructor(retry: Retry) {
    this.#retry = retry;
  }

  renew(): void {
    this.#failures = 0;
  }

  /** Milliseconds before the next attempt; null if it would come too late. */
  pauseMs(atLeastMs = 0): number | null {
    const now = performance.now();
    if (this.#failures === 0) this.#failingSince = now;
    const doubledMs = Math.min(this.#retry.firstDelayMs * 2 ** this.#failures, this.#retry.longestDelayMs);
    this.#failures += 1;
    const pauseMs = atLeastMs + doubledMs * (0.5 + Math.random() / 2);
    return now + pauseMs - this.#failingSince > this.#retry.giveUpAfterMs ? null : pauseMs;
  }
}

/** Whether the same request may be answered a little later: a server says this of itself, not of the request. */
export function isPassing(status: number): boolean {
  return status === 502 || status === 503 || status === 504;
}

/** Milliseconds that `Retry-After` asks for, in seconds or as a date; 0 if it is absent or cannot be read. */
export function retryAfterMs(headers: Headers): number {
  const value = headers.get("retry-after") ?? "";
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  return Math.max(Date.parse(value) - Date.now(), 0) || 0;
}
