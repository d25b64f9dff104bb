/** A client of Freshet whose streams reconnect by themselves. */

export { Freshet, type CallOptions, type FreshetOptions } from "./client.ts";
export { AnswerFailed, Disconnected, FreshetError, RequestRefused } from "./errors.ts";
export type * from "./events.ts";
export type * from "./records.ts";
export type { Retry } from "./retry.ts";
export type { AnswerStream } from "./stream.ts";
