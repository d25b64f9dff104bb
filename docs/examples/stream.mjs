const [message = "What is Freshet?", assistant_id = "freshet-docs"] = process.argv.slice(2);
const response = await fetch(`${process.env.FRESHET_URL ?? "http://127.0.0.1:8000"}/api/v1/chat/stream`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ message, assistant_id }),
});
if (!response.ok) throw new Error((await response.json()).message);
const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
for (let rest = "", read; !(read = await reader.read()).done; ) {
  const lines = (rest + read.value).split("\n");
  rest = lines.pop();
  for (const event of lines.map((line) => JSON.parse(line))) {
    if (event.type === "token") process.stdout.write(event.content);
    if (event.type === "error") throw new Error(event.message);
  }
}
