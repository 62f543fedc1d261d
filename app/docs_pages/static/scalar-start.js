// Nothing is asked of another host: no fonts, no proxy, no telemetry, no assistant.
Scalar.createApiReference("#reference", {
  url: "/docs/openapi.json",
  agent: { disabled: true },
  hideClientButton: true,
  mcp: { disabled: true },
  showDeveloperTools: "never",
  telemetry: false,
  withDefaultFonts: false,
});
