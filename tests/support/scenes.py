"""Clients that play their scenes in an environment of their own: what they are given, what they tell."""

import json
from typing import Any

from tests.support.fleet import COMMON, EMBEDDER, SOLO, THINKER
from tests.support.gateway import Gateway, Key
from tests.support.limited import limited_key


class CannotRun(Exception):  # noqa: N818 - reads as what happened
    """The machine does not let a client run; the text says why."""


async def given(gateway: Gateway, everything: Key) -> str:
    """Return what the scenes of one client need, as JSON; its limited keys are of no use to another."""
    return json.dumps(
        {
            "url": gateway.url,
            "keys": {
                "everything": everything.text,
                "forbidden": (await gateway.tenant("qwen3:*")).text,
                "limited": (await limited_key(gateway, requests_per_minute=1)).text,
                "tiny": (await limited_key(gateway, tokens_per_minute=1)).text,
            },
            "models": {"common": COMMON, "thinker": THINKER, "embedder": EMBEDDER, "broken": SOLO},
        }
    )


async def set_the_stage(gateway: Gateway) -> None:
    """Start the backends afresh, and let every stream of `SOLO` break off for good: nobody else hosts it."""
    for backend in gateway.backends.values():
        await backend.reset()
    await gateway.backends["a"].order("truncated", after=3, model=SOLO, count=None)


def told(lines: str) -> dict[str, Any]:
    """Return by the names of the scenes what was seen in them."""
    return {each["scene"]: each["saw"] for each in map(json.loads, lines.splitlines())}
