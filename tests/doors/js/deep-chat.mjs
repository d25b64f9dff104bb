// Deep Chat in a browser, as the page of the documentation that stands in `PAGE` uses it, talking to another origin.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

import { openedPage } from "./browser.mjs";

const bundle = await readFile(new URL(import.meta.resolve("deep-chat/dist/deepChat.bundle.js")));
let html = process.env.PAGE;
const pages = createServer((request, response) => {
  const isScript = request.url.endsWith(".js");
  response.setHeader("content-type", isScript ? "text/javascript" : "text/html; charset=utf-8");
  response.end(isScript ? bundle : html);
});
await new Promise((listening) => pages.listen(process.env.PAGE_PORT, "127.0.0.1", listening));

const page = await openedPage();
const open = async () => {
  await page.goto(`http://127.0.0.1:${process.env.PAGE_PORT}/`);
  await page.waitForFunction(() => document.getElementById("chat").submitUserMessage);
  await page.evaluate(() => {
    window.answers = 0;
    const count = ({ detail }) => (window.answers += detail.message.role === "ai" ? 1 : 0);
    document.getElementById("chat").addEventListener("new-message", count);
  });
};
const ask = (text) => page.evaluate((text) => document.getElementById("chat").submitUserMessage({ text }), text);
const shown = (text) =>
  page.waitForFunction((text) => document.getElementById("chat").shadowRoot.textContent.includes(text), {}, text);
// It takes no question before it has read the last answer to its end.
const answered = (count) => page.waitForFunction((count) => window.answers === count, {}, count);

await open();
await ask("Where does the Danube flow?");
await answered(1);
await ask("Slowly");
await shown("The");
await fetch(`${process.env.SERVER_URL}/api/v1/chat`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ assistant_id: "waters", message: "Go on" }),
});
await answered(2);
await ask("Fail");
await shown("It broke off.");
const messages = await page.evaluate(() => document.getElementById("chat").getMessages());

html = html.replace("waters", "nobody");
await open();
await ask("Is anybody there?");
await shown("There is no assistant nobody.");
await page.browser().close();
pages.close();
console.log(JSON.stringify(messages));
