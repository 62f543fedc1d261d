"""What people write in JavaScript works through the gateway: the official clients on Node, unchanged.

The scenes are in `tests/js`, one file for each client; here stands what the client has to see in each.
"""

from collections.abc import Mapping
from typing import Any, Final

import anyio
import pytest

from tests.support.fleet import COMMON, TOKENS_PER_ANSWER
from tests.support.gateway import Gateway, Key
from tests.support.node import install_clients, run_node
from tests.support.scenes import CannotRun, given, set_the_stage, told

MODELS: Final = [
    "deepseek-r1:8b",
    "duo:7b",
    "llama3.2:latest",
    "loner:1b",
    "nomic-embed-text:latest",
    "paced:1b",
    "solo:1b",
]
CITY: Final = {"city": "text"}
BROKE_OFF: Final = "the answer broke off before it was complete"


def failed(kind: str, status: int | None, said: str) -> dict[str, Any]:
    return {"kind": kind, "status": status, "said": said}


EXPECTED: Final[Mapping[str, Mapping[str, Any]]] = {
    "ollama": {
        "lists": MODELS,
        "shows": ["completion", "tools"],
        "chats": [COMMON, True, TOKENS_PER_ANSWER, True],
        "streams a chat": [TOKENS_PER_ANSWER + 1, True, TOKENS_PER_ANSWER],
        "generates": [True, TOKENS_PER_ANSWER, True],
        "streams what it generates": [TOKENS_PER_ANSWER + 1, True],
        "calls tools": [["weather", CITY]],
        "streams tool calls": [["weather", CITY]],
        "answers in a structure": CITY,
        "thinks": [True, True, None],
        "embeds": [True, True],
        "has a bad key": failed("ResponseError", 401, "API key"),
        "asks for a forbidden model": failed("ResponseError", 403, "not available to this key"),
        "is limited": failed("ResponseError", 429, "requests per minute"),
        "hears that a stream broke off": failed("Error", None, BROKE_OFF),
    },
    "openai": {
        "lists": MODELS,
        "retrieves a model": COMMON,
        "chats": [COMMON, True, TOKENS_PER_ANSWER],
        "streams a chat": ["stop", [], TOKENS_PER_ANSWER],
        "streams a chat through its helper": True,
        "calls tools": ["tool_calls", [{"name": "weather", "arguments": '{"city":"text"}'}]],
        "answers in a structure": CITY,
        "thinks": [True, None],
        "has a bad key": failed("AuthenticationError", 401, "API key"),
        "asks for a forbidden model": failed("PermissionDeniedError", 403, "not available to this key"),
        "is limited": [failed("RateLimitError", 429, "requests per minute"), True],
        "does not try again what never fits": [failed("RateLimitError", 429, "Send a shorter prompt"), 1],
        "hears that a chat broke off": failed("APIError", None, BROKE_OFF),
        "completes": True,
        "streams a completion": "stop",
        "embeds": [True, True],
        "responds": ["completed", True, TOKENS_PER_ANSWER],
        "streams a response": [TOKENS_PER_ANSWER, "response.completed"],
        "calls functions": [["function_call", "weather", '{"city":"text"}']],
        "responds in a structure": CITY,
        "thinks before it responds": ["reasoning", "message"],
        "hears that a response broke off": ["response.failed", BROKE_OFF],
    },
    "anthropic": {
        "messages": [COMMON, "end_turn", True, TOKENS_PER_ANSWER],
        "sends its key as a bearer": "end_turn",
        "streams a message": [TOKENS_PER_ANSWER, "message_stop"],
        "streams a message through its helper": [True, TOKENS_PER_ANSWER],
        "calls tools": ["tool_use", [["weather", CITY]]],
        "streams tool calls": ["tool_use", [["weather", CITY]]],
        "answers in a structure": [["place", CITY]],
        "thinks": [["thinking", "text"], ["text"]],
        "counts tokens": 3 + 4,
        "has a bad key": failed("AuthenticationError", 401, "API key"),
        "asks for a forbidden model": failed("PermissionDeniedError", 403, "not available to this key"),
        "is limited": [failed("RateLimitError", 429, "requests per minute"), True],
        "does not try again what never fits": [failed("RateLimitError", 429, "Send a shorter prompt"), 1],
        "hears that a message broke off": failed("APIError", None, BROKE_OFF),
    },
}
SCENES: Final = [(client, scene) for client, scenes in EXPECTED.items() for scene in scenes]

Seen = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
async def seen(running: Gateway, everything: Key) -> Seen:
    """Play all scenes once; return by client and scene what it saw."""
    try:
        await anyio.to_thread.run_sync(install_clients)
    except CannotRun as reason:
        pytest.skip(str(reason))
    await set_the_stage(running)
    return {
        client: told(await run_node(f"{client}.mjs", await given(running, everything))) for client in EXPECTED
    }


@pytest.mark.parametrize(("client", "scene"), SCENES, ids=lambda part: part.replace(" ", "_"))
async def test_the_client(seen: Seen, client: str, scene: str) -> None:
    assert seen[client].get(scene) == EXPECTED[client][scene]


@pytest.mark.parametrize("client", EXPECTED)
async def test_every_scene_is_looked_at(seen: Seen, client: str) -> None:
    assert list(seen[client]) == list(EXPECTED[client])
