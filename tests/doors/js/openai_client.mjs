// An answer through the package `openai`, in each of its ways. `MODEL` is the assistant; prints what came.
import OpenAI from "openai";

const model = process.env.MODEL;
const input = "Where does the Danube flow?";
const client = new OpenAI({ baseURL: `${process.env.SERVER_URL}/v1`, apiKey: "none", maxRetries: 0 });

/** The final response of the package's own runner, which throws at an event that it does not know. */
async function ran(params, onEvent = () => {}) {
  const types = [];
  const runner = client.responses.stream(params);
  runner.on("event", (event) => {
    types.push(event.type);
    onEvent(event);
  });
  return { response: await runner.finalResponse(), types };
}

async function streamed(params) {
  const events = [];
  for await (const event of await client.responses.create({ model, input, stream: true, ...params })) {
    events.push(event);
  }
  return events;
}

const runner = await ran({ model, input });
const again = await ran({ response_id: runner.response.id, starting_after: 3 });
const events = await streamed({ background: true });
const resumed = [];
for await (const event of await client.responses.retrieve(events[0].response.id, { stream: true, starting_after: 4 })) {
  resumed.push(event);
}
const whole = await client.responses.create({ model, input, previous_response_id: runner.response.id });
const conversation = await client.conversations.create({ metadata: { of: "tests" } });
await client.responses.create({ model, input, conversation: conversation.id });
const items = [];
for await (const item of client.conversations.items.list(conversation.id, { order: "asc", limit: 1 })) {
  items.push(item.role);
}
const failed = await ran({ model: process.env.FAILING, input });
const cut = await ran({ model: process.env.CUT, input });
const cancelled = await ran({ model: process.env.ENDLESS, input }, (event) => {
  if (event.type === "response.created") client.responses.cancel(event.response.id);
});
const refused = await client.responses.retrieve("resp_1").catch((error) => ({ status: error.status, code: error.code }));

const completion = client.chat.completions.stream({
  model,
  messages: [{ role: "user", content: input }],
  stream_options: { include_usage: true },
});
const chat = await completion.finalChatCompletion();

console.log(
  JSON.stringify({ runner, again, events, resumed, whole, items, failed, cut, cancelled, refused, chat }),
);
