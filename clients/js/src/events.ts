// Made by scripts/events.mjs of docs/events.schema.json.

/** A claim of the answer and what bears it out: `start` to `end` is the claim with its mark, in the answer's characters.

    `quote` is the source's text from `quote_start` to `quote_end`, and its document's from `document_start` to `document_end`.
    `verified`: it has the content words and the numbers of the claim. */
export interface CitationEvent {
  type: "citation";
  /** 1, 2, 3 without a hole. */
  seq: number;
  index: number;
  source_id: string;
  start: number;
  end: number;
  quote: string;
  quote_start: number;
  quote_end: number;
  verified: boolean;
  document_id: string;
  document_start: number;
  document_end: number;
  page_label?: string | null;
}

/** Behind the answer of an assistant with a goal: whether the conversation has reached it, and whether it has ended. */
export interface ConversationEvent {
  type: "conversation";
  /** 1, 2, 3 without a hole. */
  seq: number;
  goal_reached: boolean;
  ended: boolean;
  reason: string;
}

/** The last line of a stream that ends while its answer goes on: an `error` that is no event of the run, and so has no `seq`. */
export interface CutEvent {
  type: "error";
  code: string;
  message: string;
  error: string;
  retryable: boolean;
  resume_after: number;
}

export interface DoneEvent {
  type: "done";
  /** 1, 2, 3 without a hole. */
  seq: number;
  status: "completed" | "stopped";
  message_id: string;
  finish_reason: string;
  usage: TokenUsage;
}

export interface ErrorEvent {
  type: "error";
  /** 1, 2, 3 without a hole. */
  seq: number;
  code: string;
  message: string;
  error: string;
  retryable: boolean;
}

/** The answer is still being made. As server-sent events it is a comment. */
export interface HeartbeatEvent {
  type: "heartbeat";
}

/** `notice` is what a reader must know of answers of this model, such as that it is no language model. */
export interface ModelOfAnswer {
  name: string;
  provider: string;
  notice?: string | null;
}

/** A passage that the answer was given; `id` is the n of its `[n]` mark, `content` the same as `text`. */
export interface Source {
  id: string;
  text: string;
  score: number;
  name: string;
  type: string;
  content: string;
  metadata: Record<string, unknown>;
  url?: string | null;
}

export interface SourcesEvent {
  type: "sources";
  /** 1, 2, 3 without a hole. */
  seq: number;
  data: Array<Source>;
}

/** `model` is not told of an answer that was interrupted before anything of it had been stored. */
export interface StartEvent {
  type: "start";
  /** 1, 2, 3 without a hole. */
  seq: number;
  run_id: string;
  session_id: string;
  message_id: string;
  user_message_id: string;
  protocol: number;
  model?: ModelOfAnswer | null;
}

/** What to show until the first token. */
export interface StatusEvent {
  type: "status";
  /** 1, 2, 3 without a hole. */
  seq: number;
  message: string;
}

/** `duration` is in seconds, on the closing event, which repeats what the opening one said. */
export interface StepEvent {
  type: "step";
  /** 1, 2, 3 without a hole. */
  seq: number;
  step_type: string;
  status: "completed" | "failed" | "running";
  step_id: string;
  parent_id: string | null;
  label?: string | null;
  duration?: number | null;
  payload?: Record<string, unknown> | null;
}

/** A piece of the answer's text, as the model gave it. */
export interface TokenEvent {
  type: "token";
  /** 1, 2, 3 without a hole. */
  seq: number;
  content: string;
  /** The same as `content`; only in server-sent events. */
  text?: string;
}

/** `estimated` where the model did not say what it counted. `cost` where the price of its tokens is known. */
export interface TokenUsage {
  input_tokens: number;
  output_tokens: number;
  total_tokens: number;
  estimated?: boolean;
  cost?: number | null;
}

/** One event of a streamed answer: a line of NDJSON, or the data of a server-sent event. docs/protocol.md says in which order they come. Within protocol 1 types and fields are only added: ignore those that you do not know. */
export type AnswerEvent =
  | StartEvent
  | TokenEvent
  | StepEvent
  | StatusEvent
  | SourcesEvent
  | CitationEvent
  | ConversationEvent
  | DoneEvent
  | ErrorEvent;
