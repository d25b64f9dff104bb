// Asks the questions that are given, a few at a time, and prints the events of each answer as a line of JSON.

import { Freshet } from "../../../clients/js/src/index.ts";

const [baseUrl, ...questions] = process.argv.slice(2);
const retry = { firstDelayMs: 1, longestDelayMs: 10 };
const freshet = new Freshet({ baseUrl, retry });

async function askInTurn() {
  for (let message; (message = questions.pop()); ) {
    const events = [];
    for await (const event of freshet.stream({ message, assistant_id: "public" })) events.push(event);
    console.log(JSON.stringify(events));
  }
}

await Promise.all(Array.from({ length: 4 }, askInTurn));
