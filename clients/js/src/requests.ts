import type { AnswerOptions, HistoryPage, Question, RegenerateOptions, SessionsPage } from "./records.ts";

/** A call of docs/protocol.md; `path` begins behind `/api/v1`. */
export interface Call {
  method: "GET" | "POST" | "PATCH" | "DELETE";
  path: string;
  body?: unknown;
  idempotencyKey?: string;
}

export async function ask(question: Question): Promise<Call> {
  return asking("POST", "/chat/stream", question);
}

export async function regenerate(sessionId: string, options: RegenerateOptions): Promise<Call> {
  return asking("POST", of(sessionId, "regenerate"), options);
}

export async function edit(
  sessionId: string,
  messageId: string,
  message: string,
  options: AnswerOptions,
): Promise<Call> {
  return asking("PATCH", of(sessionId, "messages", messageId), { message, ...options });
}

export function resume(sessionId: string, runId: string | null, after: number): Call {
  return { method: "GET", path: of(sessionId, "stream") + query({ run_id: runId, after }) };
}

export function stop(sessionId: string, runId: string | null): Call {
  return { method: "POST", path: of(sessionId, "stop"), body: runId === null ? {} : { run_id: runId } };
}

export function history(sessionId: string, page: HistoryPage): Call {
  return { method: "GET", path: of(sessionId, "history") + query({ limit: page.limit, before: page.before }) };
}

export function choose(sessionId: string, messageId: string): Call {
  return { method: "POST", path: of(sessionId, "messages", messageId, "choose") };
}

export function forget(sessionId: string, purge: boolean): Call {
  return { method: "DELETE", path: of(sessionId) + query({ purge: purge || null }) };
}

export function sessions(page: SessionsPage): Call {
  return { method: "GET", path: "/sessions" + query({ limit: page.limit, cursor: page.cursor }) };
}

/** Under a key, so that it may be sent again without being asked again. */
async function asking(
  method: "POST" | "PATCH",
  path: string,
  { idempotency_key, ...body }: AnswerOptions & { message?: string | undefined },
): Promise<Call> {
  return { method, path, body, idempotencyKey: idempotency_key ?? (await unguessable()) };
}

/** 32 hexadecimal digits. A page without TLS has no `randomUUID`, and Node 18 no global `crypto`. */
async function unguessable(): Promise<string> {
  const ofNode = "node:crypto";
  const source: Crypto =
    globalThis.crypto ?? (await import(/* webpackIgnore: true */ /* @vite-ignore */ ofNode)).webcrypto;
  const bytes = source.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function of(sessionId: string, ...parts: string[]): string {
  return ["/chat", ...[sessionId, ...parts].map(encodeURIComponent)].join("/");
}

function query(fields: Record<string, string | number | boolean | null | undefined>): string {
  const given = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}` : "";
}
