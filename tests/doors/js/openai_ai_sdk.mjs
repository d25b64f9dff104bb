// Two turns through the AI SDK's provider for OpenAI, which names what was answered instead of sending it again.
const told = {};
for (const version of ["6", "7"]) {
  const { generateText, streamText } = await import(`ai${version}`);
  const { createOpenAI } = await import(`@ai-sdk/openai-${version}`);
  const provider = createOpenAI({ baseURL: `${process.env.SERVER_URL}/v1`, apiKey: "none" });
  const model = provider.responses(process.env.MODEL);
  const asked = { role: "user", content: "Where does the Danube flow?" };
  const first = streamText({ model, messages: [asked] });
  const text = await first.text;
  const [source] = await first.sources;
  const { messages } = await first.response;
  const second = await generateText({ model, messages: [asked, ...messages, { role: "user", content: "And then?" }] });
  told[version] = { text, source: source.filename, warnings: second.warnings };
}
console.log(JSON.stringify(told));
