"""The shortest request of each route, and what a backend gets of it."""

import json
from typing import Any

from domain.option_rules import checked_rule
from domain.policies import Policy
from domain.requests import ParsedRequest, parse_request, rebuild
from domain.routes import inference_routes

ROUTES = inference_routes()
NATIVE = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings")
DEFAULT_CAP = 100
PROMPTS: dict[str, dict[str, object]] = {
    "/api/generate": {"prompt": "hello"},
    "/api/chat": {"messages": [{"role": "user", "content": "hello"}]},
    "/api/embed": {"input": "hello"},
    "/api/embeddings": {"prompt": "hello"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/embeddings": {"input": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 50},
}


def parse(path: str, **fields: object) -> ParsedRequest:
    """Read the shortest request of a route, with these fields besides or instead."""
    return parse_request(ROUTES[path], json.dumps({"model": "m", **PROMPTS[path], **fields}).encode())


def ruled(**rules: dict[str, Any]) -> Policy:
    """Return a policy of these rules."""
    return Policy(
        {field: checked_rule(field, rule) for field, rule in rules.items()}, default_output_cap=DEFAULT_CAP
    )


def forwarded(request: ParsedRequest, model: str = "m") -> bytes:
    """Return what a backend gets of a request where nobody has set a policy."""
    return rebuild(request, model, ruled().apply(request))


def sent(rules: Policy, path: str, **fields: object) -> Any:
    """Return what a backend gets of a request under a policy."""
    request = parse(path, **fields)
    return json.loads(rebuild(request, "m", rules.apply(request)))
