// Leads a conversation, and prints what came of it as JSON.

import { Freshet, RequestRefused } from "../../../clients/js/src/index.ts";

const [baseUrl] = process.argv.slice(2);
const freshet = new Freshet({ baseUrl });

async function text(events) {
  let said = "";
  for await (const event of events) said += event.type === "token" ? event.content : "";
  return said;
}

const first = await freshet.ask({ message: "One?", assistant_id: "public" });
const session = first.session_id;
const second = await text(freshet.stream({ message: "Two?", assistant_id: "public", session_id: session }));
const third = await text(freshet.regenerate(session));
const asked = (await freshet.history(session, { limit: 2 })).messages;
const fourth = await text(freshet.edit(session, asked[0].id, "Three?"));
const edited = await freshet.history(session);
await freshet.choose(session, asked[0].id);
const chosen = await freshet.history(session);
const again = await text(freshet.resume(session));
const stopped = await freshet.stop(session);
await freshet.forget(session, { purge: true });
const forgotten = await freshet.history(session);
const refused = await freshet.ask({ message: "One?", assistant_id: "nobody" }).catch((error) => error);

console.log(
  JSON.stringify({
    said: [first.text, second, third, fourth, again],
    edited: edited.messages.map((message) => message.text),
    chosen: chosen.messages.map((message) => message.text),
    stopped: stopped.status,
    forgotten: forgotten.messages,
    refused: [refused instanceof RequestRefused, refused.status, refused.code],
  }),
);
