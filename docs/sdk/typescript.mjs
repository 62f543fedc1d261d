// Makes the TypeScript SDK: node typescript.mjs ADMIN_OPENAPI_JSON FOLDER
import { createClient } from "@hey-api/openapi-ts";

const [, , input, path] = process.argv;

await createClient({
  input,
  // With extensions Node runs what the compiler makes of it, without a bundler.
  output: { path, module: { extension: ".js" } },
  plugins: ["@hey-api/typescript", "@hey-api/sdk", "@hey-api/client-fetch"],
});
