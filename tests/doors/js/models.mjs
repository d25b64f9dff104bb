// The AI SDK's `generateText` and `streamText`, with each way in which an assistant can be its model.
const told = {};
const server = { baseURL: `${process.env.SERVER_URL}/v1`, apiKey: process.env.KEY };
const asked = { system: "Be brief.", prompt: "Where does the Danube flow?", maxRetries: 0 };
for (const version of ["6", "7"]) {
  const { generateText, streamText } = await import(`ai${version}`);
  const { createOpenAI } = await import(`@ai-sdk/openai-${version}`);
  const { createOpenAICompatible } = await import(`@ai-sdk/openai-compatible-${version}`);
  const openai = createOpenAI(server);
  const compatible = createOpenAICompatible({ name: "freshet", includeUsage: true, ...server });
  const ways = { chat: openai.chat, responses: openai.responses, compatible: compatible.chatModel };
  for (const [way, of] of Object.entries(ways)) {
    const whole = await generateText({ model: of(process.env.MODEL), ...asked });
    const stream = streamText({ model: of(process.env.MODEL), ...asked });
    const streamed = [];
    for await (const piece of stream.textStream) streamed.push(piece);
    const failure = await generateText({ model: of("nobody"), ...asked }).catch((error) => error.statusCode);
    const tokens = [whole.usage.totalTokens, (await stream.usage).totalTokens];
    const reasons = [whole.finishReason, await stream.finishReason];
    told[`${version} ${way}`] = { whole: whole.text, streamed, tokens, reasons, failure };
  }
}
console.log(JSON.stringify(told));
