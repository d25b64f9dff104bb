import { AnswerFailed, FreshetError } from "./errors.ts";
import type { AnswerEvent, DoneEvent, ErrorEvent, Source, StartEvent } from "./events.ts";
import type { Answer, Citation } from "./records.ts";

/** The whole answer that these events make. Throws `AnswerFailed` if it ends with an `error`. */
export async function whole(events: AsyncIterable<AnswerEvent>): Promise<Answer> {
  let start: StartEvent | undefined;
  let last: DoneEvent | ErrorEvent | undefined;
  let sources: Source[] = [];
  const citations: Citation[] = [];
  let text = "";
  for await (const event of events) {
    if (event.type === "start") start = event;
    else if (event.type === "token") text += event.content;
    else if (event.type === "sources") sources = event.data;
    else if (event.type === "citation") citations.push(event);
    else if (event.type === "done" || event.type === "error") last = event;
  }
  if (!start || !last) throw new FreshetError("This is not an answer from its beginning to its end.");
  const { session_id, run_id, message_id, user_message_id, model = null } = start;
  const said = { text, session_id, run_id, message_id, user_message_id, model, sources, citations };
  if (last.type === "done") {
    return { ...said, status: last.status, finish_reason: last.finish_reason, usage: last.usage };
  }
  const answer: Answer = { ...said, status: "failed", finish_reason: null, usage: null };
  throw new AnswerFailed(last.code, last.message, last.retryable, answer);
}
