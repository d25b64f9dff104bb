// `Chat` of the AI SDK, as its bindings for React and others make it, in front of the server: each conversation tells what came of it.

const { AbstractChat, DefaultChatTransport } = await import(process.env.AI_PACKAGE);
const api = `${process.env.SERVER_URL}/api/v1/chat/ui`;

class State {
  status = "ready";
  error = undefined;
  constructor(messages) {
    this.messages = messages;
  }
  pushMessage = (message) => (this.messages = this.messages.concat(message));
  popMessage = () => (this.messages = this.messages.slice(0, -1));
  replaceMessage = (index, message) => {
    this.messages = this.messages.with(index, this.snapshot(message));
    this.replaced?.(message);
  };
  snapshot = (thing) => structuredClone(thing);
}

class Chat extends AbstractChat {
  finished = [];
  constructor({ messages = [], token, assistant = "waters", fetch, ...init } = {}) {
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    super({
      id: crypto.randomUUID(),
      transport: new DefaultChatTransport({ api, headers, body: { assistant_id: assistant }, fetch }),
      onFinish: ({ isAbort, isError, finishReason }) => this.finished.push({ isAbort, isError, finishReason }),
      state: new State(messages),
      ...init,
    });
  }

  get told() {
    const { status, error, messages, finished } = this;
    return { status, error: error?.message ?? null, messages, texts: messages.map(textOf), finished };
  }

  said(text) {
    return new Promise((soon) => (this.state.replaced = (message) => textOf(message).includes(text) && soon()));
  }
}

const textOf = (message) =>
  message.parts
    .filter((part) => part.type === "text")
    .map((part) => part.text)
    .join("");
const post = (path, body) =>
  fetch(process.env.SERVER_URL + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body ?? {}),
  });
// The model holds answers to "Slowly" back until it is asked to go on.
const goOn = () => post("/api/v1/chat", { assistant_id: "waters", message: "Go on" });

const conversations = {
  async whole() {
    const chat = new Chat();
    await chat.sendMessage({ text: "Where does the Danube flow?" });
    await chat.sendMessage({ text: "Where does Lake Constance lie?" });
    return chat.told;
  },

  async regenerated() {
    const chat = new Chat();
    await chat.sendMessage({ text: "First" });
    await chat.sendMessage({ text: "Second" });
    const [first, , second, answer] = chat.messages;
    await chat.regenerate();
    await chat.regenerate({ messageId: chat.lastMessage.id });
    const again = chat.lastMessage.id !== answer.id;
    await chat.sendMessage({ text: "Second, edited", messageId: second.id });
    const { messages } = chat;
    await chat.regenerate({ messageId: first.id });
    return { again, edited: messages.map(textOf), ...chat.told };
  },

  async lost() {
    let up = false;
    const chat = new Chat({ fetch: (...request) => (up ? fetch(...request) : Promise.reject(new TypeError("fetch failed"))) });
    await chat.sendMessage({ text: "Lost" });
    const { finished } = chat;
    up = true;
    await chat.regenerate();
    return { ...chat.told, finished };
  },

  async repeated() {
    const chat = new Chat();
    await chat.sendMessage({ text: "Once" });
    const request = { chatId: chat.id, messages: chat.messages.slice(0, 1), trigger: "submit-message" };
    const ids = [];
    for await (const chunk of await chat.transport.sendMessages(request)) ids.push(chunk.messageId);
    return { first: chat.lastMessage.id, again: ids[0] };
  },

  async failed() {
    const chat = new Chat();
    await chat.sendMessage({ text: "Fail" });
    return chat.told;
  },

  async stopped() {
    const chat = new Chat();
    const asking = chat.sendMessage({ text: "Slowly" });
    await chat.said("The");
    await post(`/api/v1/chat/${chat.id}/stop`);
    await asking;
    return chat.told;
  },

  async left() {
    const chat = new Chat();
    const asking = chat.sendMessage({ text: "Slowly" });
    await chat.said("The");
    await chat.stop();
    await asking;
    await chat.sendMessage({ text: "Another" });
    return chat.told;
  },

  async resumed() {
    const chat = new Chat();
    const asking = chat.sendMessage({ text: "Slowly" });
    await chat.said("The");
    const elsewhere = new Chat({ id: chat.id, messages: chat.messages.slice(0, 1) });
    const resuming = elsewhere.resumeStream();
    await elsewhere.said("The");
    await goOn();
    await Promise.all([asking, resuming]);
    const late = new Chat({ id: chat.id });
    await late.resumeStream();
    return { first: chat.told, second: elsewhere.told, late: late.told };
  },

  async guessable() {
    const chat = new Chat({ id: undefined });
    await chat.sendMessage({ text: "Hello?" });
    return chat.told;
  },

  async ofAnother() {
    const owner = new Chat({ token: process.env.TOKEN, id: "short" });
    await owner.sendMessage({ text: "Mine" });
    const stranger = new Chat({ id: owner.id });
    await stranger.resumeStream();
    const { error } = stranger;
    const asking = new Chat({ id: owner.id, token: process.env.OTHER_TOKEN });
    await asking.sendMessage({ text: "Yours?" });
    return { owner: owner.status, told: [error.message, asking.error.message] };
  },

  async private() {
    const chat = new Chat({ assistant: "private" });
    await chat.sendMessage({ text: "Hello?" });
    return chat.told;
  },

  async withFile() {
    const chat = new Chat();
    const url = `data:text/plain;base64,${btoa("The Elbe flows into the North Sea.")}`;
    const files = [{ type: "file", mediaType: "text/plain", filename: "elbe.txt", url }];
    await chat.sendMessage({ text: "Where does the Elbe flow?", files });
    await chat.regenerate();
    return chat.told;
  },

  async withAddress() {
    const chat = new Chat();
    const files = [{ type: "file", mediaType: "text/plain", url: api }];
    await chat.sendMessage({ text: "Look", files });
    return chat.told;
  },
};

const told = {};
for (const [name, conversation] of Object.entries(conversations)) told[name] = await conversation();
console.log(JSON.stringify(told));
