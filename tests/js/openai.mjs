import OpenAI from "openai";
import {
  ASK_WEATHER, HELLO, SCHEMA, collect, counting, failure, keys, models, play, url, waits,
} from "./scenes.mjs";

const with_key = (apiKey, options) => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, ...options });
const openai = with_key(keys.everything);
const model = models.common;
const parameters = SCHEMA;
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const functions = [{ type: "function", name: "weather", parameters, strict: false }];
const BROKE_OFF = "the answer broke off before it was complete";

const chat = (asked, client = openai) => client.chat.completions.create({ model, messages: HELLO, ...asked });
const respond = (asked, client = openai) => client.responses.create({ model, input: HELLO, ...asked });

await play({
  async lists() {
    return (await collect(openai.models.list())).map((each) => each.id).sort();
  },
  async "retrieves a model"() {
    return (await openai.models.retrieve(model)).id;
  },

  // chat completions
  async chats() {
    const answer = await chat({});
    return [answer.model, answer.choices[0].message.content !== "", answer.usage.completion_tokens];
  },
  async "streams a chat"() {
    const chunks = await collect(await chat({ stream: true, stream_options: { include_usage: true } }));
    return [chunks.at(-2).choices[0].finish_reason, chunks.at(-1).choices, chunks.at(-1).usage.completion_tokens];
  },
  async "streams a chat through its helper"() {
    const runner = openai.chat.completions.stream({ model, messages: HELLO });
    return (await runner.finalContent()) !== "";
  },
  async "calls tools"() {
    const [choice] = (await chat({ messages: ASK_WEATHER, tools })).choices;
    return [choice.finish_reason, choice.message.tool_calls.map((call) => call.function)];
  },
  async "answers in a structure"() {
    const response_format = { type: "json_schema", json_schema: { name: "place", schema: SCHEMA } };
    return (await openai.chat.completions.parse({ model, messages: HELLO, response_format })).choices[0].message.parsed;
  },
  async thinks() {
    const [thoughtful] = (await chat({ model: models.thinker, reasoning_effort: "high" })).choices;
    const [plain] = (await chat({ model: models.thinker, reasoning_effort: "none" })).choices;
    return [thoughtful.message.reasoning !== "", plain.message.reasoning ?? null];
  },
  async "has a bad key"() {
    return failure(() => chat({}, with_key("nng_nobody")), "API key");
  },
  async "asks for a forbidden model"() {
    return failure(() => chat({ stream: true }, with_key(keys.forbidden)), "not available to this key");
  },
  async "is limited"() {
    const limited = with_key(keys.limited);
    await chat({}, limited);
    const waited = await chat({}, limited).catch(waits);
    return [await failure(() => chat({}, limited), "requests per minute"), waited];
  },
  async "does not try again what never fits"() {
    const counted = counting();
    const patient = with_key(keys.tiny, { fetch: counted, maxRetries: 2 });
    return [await failure(() => chat({}, patient), "Send a shorter prompt"), counted.calls];
  },
  async "hears that a chat broke off"() {
    return failure(async () => collect(await chat({ model: models.broken, stream: true })), BROKE_OFF);
  },

  // completions and embeddings
  async completes() {
    return (await openai.completions.create({ model, prompt: "How are you?" })).choices[0].text !== "";
  },
  async "streams a completion"() {
    const chunks = await collect(await openai.completions.create({ model, prompt: "How are you?", stream: true }));
    return chunks.at(-1).choices[0].finish_reason;
  },
  async embeds() {
    const answer = await openai.embeddings.create({ model: models.embedder, input: ["one", "two"] });
    return answer.data.map((item) => item.embedding.length > 0 && item.embedding.every(Number.isFinite));
  },

  // responses
  async responds() {
    const response = await respond({});
    return [response.status, response.output_text !== "", response.usage.output_tokens];
  },
  async "streams a response"() {
    const events = await collect(await respond({ stream: true }));
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    return [deltas.length, events.at(-1).type];
  },
  async "calls functions"() {
    const { output } = await respond({ input: ASK_WEATHER, tools: functions });
    return output.map((item) => [item.type, item.name, item.arguments]);
  },
  async "responds in a structure"() {
    const text = { format: { type: "json_schema", name: "place", schema: SCHEMA } };
    return (await openai.responses.parse({ model, input: HELLO, text })).output_parsed;
  },
  async "thinks before it responds"() {
    const { output } = await respond({ model: models.thinker, reasoning: { effort: "high" } });
    return output.map((item) => item.type);
  },
  async "hears that a response broke off"() {
    const events = await collect(await respond({ model: models.broken, stream: true }));
    return [events.at(-1).type, events.at(-1).response.error.message];
  },
});
