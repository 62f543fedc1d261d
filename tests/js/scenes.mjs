// Plays scenes one after the other and prints one line of JSON for each: its name and what the client saw.

// What the test gives: the gateway's address, keys by what they are for, models by what they are for.
export const { url, keys, models } = JSON.parse(process.argv[2]);

export const HELLO = [{ role: "user", content: "How are you?" }];
export const ASK_WEATHER = [{ role: "user", content: "ask weather" }];
export const SCHEMA = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

const TOO_LONG_MS = 15_000;

const deadline = () =>
  new Promise((_, reject) => setTimeout(reject, TOO_LONG_MS, new Error("took too long")).unref());

export async function play(scenes) {
  for (const [scene, act] of Object.entries(scenes)) {
    const saw = await Promise.race([act(), deadline()]).catch((error) => ({ unexpected: String(error) }));
    console.log(JSON.stringify({ scene, saw }));
  }
  process.exit(); // what took too long may still wait
}

export async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

// How an act failed. `said` is the expected words if the client's error holds them, else all it says.
export async function failure(act, words) {
  try {
    await act();
  } catch (error) {
    const message = String(error.message);
    return {
      kind: error.constructor.name,
      status: error.status ?? error.status_code ?? null,
      said: message.includes(words) ? words : message,
    };
  }
  return "no failure";
}

// A fetch that counts, for what a client tries again by itself.
export function counting() {
  const counted = (...request) => {
    counted.calls += 1;
    return fetch(...request);
  };
  counted.calls = 0;
  return counted;
}

export const waits = (error) => Number(error.headers.get("retry-after")) > 0;
