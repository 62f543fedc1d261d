// Holds OpenAPI documents to every rule of Redocly's linter, but for the ones below: node lint.mjs DOCUMENT...
// Each finding is a line; exits with 1 if there are any.
import { createConfig, lint } from "@redocly/openapi-core";

const told = ["X-Request-ID"];
const config = await createConfig({
  extends: ["all"],
  rules: {
    "response-contains-header": { severity: "error", names: { "2xx": told, "4xx": told, "5xx": told } },
    "response-mime-type": {
      severity: "error",
      allowedValues: [
        ...["application/json", "application/problem+json", "application/x-ndjson"],
        ...["text/csv", "text/event-stream", "text/plain"],
      ],
    },
    // Whoever runs a gateway is whom to ask about it, and the document does not know them.
    "info-contact": "off",
    // A summary says what an operation does; what holds for all of them is in docs/admin-api.md.
    "operation-description": "off",
    // Bodies have whole examples, which a test demands; single fields need none beside them.
    "scalar-property-missing-example": "off",
    // Requests say what they bound. Most texts are in answers, where an empty one from a backend is passed on.
    "required-string-property-missing-min-length": "off",
    // Tenants are refused in the shapes of the APIs that they speak; of operators' refusals a test of ours demands it.
    "operation-4xx-problem-details-rfc7807": "off",
    // Tags stand in the order in which somebody new wants to read of them.
    "tags-alphabetical": "off",
    // Matters of taste: /audit and /me are words, and `wait=true` reads as well as `isWaiting=true`.
    "path-segment-plural": "off",
    "boolean-parameter-prefixes": "off",
  },
});

// Named by others.
const excused = new Set(["paths-kebab-case #/paths/~1v1~1messages~1count_tokens"]);

let found = 0;
for (const ref of process.argv.slice(2)) {
  for (const { ruleId, message, location } of await lint({ ref, config })) {
    const place = location[0]?.pointer ?? "#/";
    if (excused.has(`${ruleId} ${place}`)) continue;
    console.log(`${ref}: ${ruleId}: ${message.split("\n")[0]} (${place})`);
    found += 1;
  }
}
process.exitCode = found ? 1 : 0;
