"""What people write with LangChain works through the gateway: its Ollama package, unchanged.

The scenes are in `tests/langchain`; here stands what the client has to see in each.
"""

from collections.abc import Mapping
from typing import Any, Final

import anyio
import pytest

from tests.support.fleet import TOKENS_PER_ANSWER
from tests.support.gateway import Gateway, Key
from tests.support.langchain import SCRIPT, install_langchain
from tests.support.scenes import CannotRun, given, set_the_stage, told

PLAYED_WITHIN_S: Final = 60.0
EXPECTED: Final[Mapping[str, Any]] = {
    "chats": [True, TOKENS_PER_ANSWER],
    "looks its model up first": True,
    "takes the key from the address": True,
    "streams": TOKENS_PER_ANSWER,
    "calls tools": [["weather", {"city": "text"}]],
    "answers in a structure": {"city": "text"},
    "thinks": True,
    "embeds": [True, True],
    "has a bad key": [401, "API key"],
    "asks for a forbidden model": [403, "not available to this key"],
    "is limited": [429, "requests per minute"],
    "hears that a stream broke off": [-1, "the answer broke off before it was complete"],
}


@pytest.fixture(scope="module")
async def seen(running: Gateway, everything: Key) -> Mapping[str, Any]:
    """Play all scenes once; return by scene what was seen."""
    try:
        interpreter = await anyio.to_thread.run_sync(install_langchain)
    except CannotRun as reason:
        pytest.skip(str(reason))
    await set_the_stage(running)
    with anyio.fail_after(PLAYED_WITHIN_S):
        finished = await anyio.run_process(
            [interpreter, SCRIPT, await given(running, everything)], check=False
        )
    assert finished.returncode == 0, finished.stderr.decode()
    return told(finished.stdout.decode())


@pytest.mark.parametrize("scene", EXPECTED, ids=lambda scene: scene.replace(" ", "_"))
async def test_langchain(seen: Mapping[str, Any], scene: str) -> None:
    assert seen.get(scene) == EXPECTED[scene]


async def test_every_scene_is_looked_at(seen: Mapping[str, Any]) -> None:
    assert list(seen) == list(EXPECTED)
