import Anthropic from "@anthropic-ai/sdk";
import {
  ASK_WEATHER, HELLO, SCHEMA, collect, counting, failure, keys, models, play, url, waits,
} from "./scenes.mjs";

const with_key = (apiKey, options) => new Anthropic({ baseURL: url, apiKey, maxRetries: 0, ...options });
const anthropic = with_key(keys.everything);
const MAX_TOKENS = 2000;
const asking = (asked) => ({ model: models.common, max_tokens: MAX_TOKENS, messages: HELLO, ...asked });
const tools = [{ name: "weather", description: "tells it", input_schema: SCHEMA }];

const ask = (asked, client = anthropic) => client.messages.create(asking(asked));
const calls = (message) =>
  message.content.filter((block) => block.type === "tool_use").map(({ name, input }) => [name, input]);

await play({
  async messages() {
    const message = await ask({ system: "Be brief." });
    return [message.model, message.stop_reason, message.content[0].text !== "", message.usage.output_tokens];
  },
  async "sends its key as a bearer"() {
    return (await ask({}, with_key(null, { authToken: keys.everything }))).stop_reason;
  },
  async "streams a message"() {
    const events = await collect(await ask({ stream: true }));
    const deltas = events.filter((event) => event.type === "content_block_delta");
    return [deltas.length, events.at(-1).type];
  },
  async "streams a message through its helper"() {
    const message = await anthropic.messages.stream(asking({})).finalMessage();
    return [message.content[0].text !== "", message.usage.output_tokens];
  },
  async "calls tools"() {
    const message = await ask({ messages: ASK_WEATHER, tools });
    return [message.stop_reason, calls(message)];
  },
  async "streams tool calls"() {
    const message = await anthropic.messages.stream(asking({ messages: ASK_WEATHER, tools })).finalMessage();
    return [message.stop_reason, calls(message)];
  },
  async "answers in a structure"() {
    const messages = [{ role: "user", content: "Where? Use the tool." }];
    const place = [{ name: "place", input_schema: SCHEMA }];
    return calls(await ask({ messages, tools: place, tool_choice: { type: "tool", name: "place" } }));
  },
  async thinks() {
    const thinking = { type: "enabled", budget_tokens: 1024 };
    const thoughtful = await ask({ model: models.thinker, thinking });
    const plain = await ask({ model: models.thinker, thinking: { type: "disabled" } });
    return [thoughtful, plain].map((message) => message.content.map((block) => block.type));
  },
  async "counts tokens"() {
    return (await anthropic.messages.countTokens({ model: models.common, messages: HELLO })).input_tokens;
  },
  async "has a bad key"() {
    return failure(() => ask({}, with_key("nng_nobody")), "API key");
  },
  async "asks for a forbidden model"() {
    return failure(() => ask({ stream: true }, with_key(keys.forbidden)), "not available to this key");
  },
  async "is limited"() {
    const limited = with_key(keys.limited);
    await ask({}, limited);
    const waited = await ask({}, limited).catch(waits);
    return [await failure(() => ask({}, limited), "requests per minute"), waited];
  },
  async "does not try again what never fits"() {
    const counted = counting();
    const patient = with_key(keys.tiny, { fetch: counted, maxRetries: 2 });
    return [await failure(() => ask({}, patient), "Send a shorter prompt"), counted.calls];
  },
  async "hears that a message broke off"() {
    const broken = { model: models.broken, stream: true };
    return failure(async () => collect(await ask(broken)), "the answer broke off before it was complete");
  },
});
