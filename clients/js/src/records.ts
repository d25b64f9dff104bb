import type { CitationEvent, ModelOfAnswer, Source, TokenUsage } from "./events.ts";

/** What is common to a question and to asking again. */
export interface AnswerOptions {
  /** An assistant's slug or id. */
  assistant_id?: string | undefined;
  /** BCP 47, such as en-US. */
  language?: string | undefined;
  on_busy?: "reject" | "queue" | "replace" | undefined;
  /** Made up unless it is given. */
  idempotency_key?: string | undefined;
}

export interface RegenerateOptions extends AnswerOptions {
  /** A question, or an answer to it. Left out, it is the session's newest question. */
  message_id?: string | undefined;
}

export interface ResumeOptions {
  /** Left out, it is the newest of the session. */
  run_id?: string | undefined;
  /** The `seq` of the last event that is known. */
  after?: number | undefined;
}

export interface HistoryPage {
  limit?: number | undefined;
  /** `next` of the page after this one. */
  before?: string | undefined;
}

export interface SessionsPage {
  limit?: number | undefined;
  /** `next` of the page before this one. */
  cursor?: string | undefined;
}

export interface Question extends AnswerOptions {
  message: string;
  assistant_id: string;
  /** Left out, a new session begins. */
  session_id?: string | undefined;
  /** In place of the session's memory, for this question alone. */
  history?: { role: "user" | "assistant"; content: string }[] | undefined;
}

/** A claim of the answer with its mark, and what bears it out, as its event told them. */
export type Citation = Omit<CitationEvent, "type" | "seq">;

export interface Answer {
  text: string;
  /** `failed` for what had been said of an answer that failed. */
  status: "completed" | "stopped" | "failed";
  session_id: string;
  run_id: string;
  message_id: string;
  user_message_id: string;
  model: ModelOfAnswer | null;
  sources: Source[];
  citations: Citation[];
  finish_reason: string | null;
  usage: TokenUsage | null;
}

export interface Message {
  id: string;
  text: string;
  sender: "user" | "bot";
  status: string;
  created_at: string;
  sources: Source[];
  citations: Citation[];
  steps: Record<string, unknown>[];
  usage: TokenUsage | null;
  error_code: string | null;
  parent_id: string | null;
  /** The ids of the alternatives in order, itself included, if there are any. */
  siblings: string[];
}

/** Messages in time order; `next` is what to give as `before` for the page before this one. */
export interface History {
  messages: Message[];
  next: string | null;
}

export interface Session {
  id: string;
  title: string | null;
  assistant_id: string | null;
  created_at: string;
  last_active_at: string;
}

/** The most recent first; `next` is what to give as `cursor` for the page after this one. */
export interface Sessions {
  items: Session[];
  next: string | null;
}

/** `status` is the answer's: `stopped`, or what it had become before; all are null if there was nothing to stop. */
export interface Stopped {
  run_id: string | null;
  message_id: string | null;
  status: string | null;
}
