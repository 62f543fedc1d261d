import { Ollama } from "ollama";
import { ASK_WEATHER, HELLO, SCHEMA, collect, failure, keys, models, play, url } from "./scenes.mjs";

const with_key = (key) => new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });
const ollama = with_key(keys.everything);
const model = models.common;
const tools = [{ type: "function", function: { name: "weather", description: "tells it", parameters: SCHEMA } }];

const calls = (message) => message.tool_calls.map((call) => [call.function.name, call.function.arguments]);
const chat = (asked) => ollama.chat({ model, messages: HELLO, ...asked });

await play({
  async lists() {
    return (await ollama.list()).models.map((each) => each.model).sort();
  },
  async shows() {
    return (await ollama.show({ model })).capabilities;
  },
  async chats() {
    const answer = await chat({});
    return [answer.model, answer.done, answer.eval_count, answer.message.content !== ""];
  },
  async "streams a chat"() {
    const parts = await collect(await chat({ stream: true }));
    return [parts.length, parts.at(-1).done, parts.at(-1).eval_count];
  },
  async generates() {
    const answer = await ollama.generate({ model, prompt: "How are you?" });
    return [answer.done, answer.eval_count, answer.response !== ""];
  },
  async "streams what it generates"() {
    const parts = await collect(await ollama.generate({ model, prompt: "How are you?", stream: true }));
    return [parts.length, parts.at(-1).done];
  },
  async "calls tools"() {
    return calls((await chat({ messages: ASK_WEATHER, tools })).message);
  },
  async "streams tool calls"() {
    const parts = await collect(await chat({ messages: ASK_WEATHER, tools, stream: true }));
    return parts.flatMap(({ message }) => (message.tool_calls ? calls(message) : []));
  },
  async "answers in a structure"() {
    return JSON.parse((await chat({ format: SCHEMA })).message.content);
  },
  async thinks() {
    const thoughtful = await chat({ model: models.thinker, think: true });
    const plain = await chat({ model: models.thinker, think: false });
    return [thoughtful.message.thinking !== "", thoughtful.message.content !== "", plain.message.thinking ?? null];
  },
  async embeds() {
    const answer = await ollama.embed({ model: models.embedder, input: ["one", "two"] });
    return answer.embeddings.map((vector) => vector.length > 0);
  },
  async "has a bad key"() {
    return failure(() => with_key("nng_nobody").chat({ model, messages: HELLO }), "API key");
  },
  async "asks for a forbidden model"() {
    const asked = { model, messages: HELLO, stream: true };
    return failure(() => with_key(keys.forbidden).chat(asked), "not available to this key");
  },
  async "is limited"() {
    await with_key(keys.limited).chat({ model, messages: HELLO });
    return failure(() => with_key(keys.limited).chat({ model, messages: HELLO }), "requests per minute");
  },
  async "hears that a stream broke off"() {
    const asked = { model: models.broken, stream: true };
    return failure(async () => collect(await chat(asked)), "the answer broke off before it was complete");
  },
});
