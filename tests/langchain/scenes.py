# /// script
# requires-python = ">=3.11"
# dependencies = ["langchain-ollama>=1.1,<2"]
# [tool.uv]
# exclude-newer = "2026-11-17T00:00:00Z"
# ///
"""Plays scenes with LangChain's Ollama package and prints one line of JSON for each: its name and what it saw.

It has an environment of its own, because it wants an older `uuid-utils` than the product.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from langchain_ollama import ChatOllama, OllamaEmbeddings
from ollama import ResponseError

GIVEN: Any = json.loads(sys.argv[1])
KEYS: Any = GIVEN["keys"]
MODELS: Any = GIVEN["models"]
PLACE = {"title": "place", "type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PLACE}}
SCENES: dict[str, Callable[[], object]] = {}


def scene(act: Callable[[], object]) -> Callable[[], object]:
    """Add a scene under the function's name."""
    SCENES[act.__name__.replace("_", " ")] = act
    return act


def connection(key: str) -> dict[str, Any]:
    return {"trust_env": False, "headers": {"Authorization": f"Bearer {key}"}}


def chat(key: str = "everything", model: str = "common", **options: Any) -> Any:
    """Return a chat with the key and the model that have these names."""
    kwargs = connection(KEYS.get(key, key))
    return ChatOllama(model=MODELS[model], base_url=GIVEN["url"], client_kwargs=kwargs, **options)


def failure(act: Callable[[], object], words: str) -> list[object]:
    """Return the status of an act that has to fail, and the words if the error holds them, else all it says."""
    try:
        act()
    except ResponseError as error:
        return [error.status_code, words if words in error.error else error.error]
    return ["no failure"]


@scene
def chats() -> object:
    answer = chat().invoke("How are you?")
    return [bool(answer.content), answer.usage_metadata["output_tokens"]]


@scene
def looks_its_model_up_first() -> object:
    return bool(chat(validate_model_on_init=True).invoke("How are you?").content)


@scene
def takes_the_key_from_the_address() -> object:
    address = GIVEN["url"].replace("://", f"://me:{KEYS['everything']}@")
    there = ChatOllama(model=MODELS["common"], base_url=address, client_kwargs={"trust_env": False})
    return bool(there.invoke("How are you?").content)


@scene
def streams() -> object:
    return sum(bool(chunk.content) for chunk in chat().stream("How are you?"))


@scene
def calls_tools() -> object:
    answer = chat().bind_tools([WEATHER]).invoke("ask weather")
    return [[call["name"], call["args"]] for call in answer.tool_calls]


@scene
def answers_in_a_structure() -> object:
    return chat().with_structured_output(PLACE).invoke("Where?")


@scene
def thinks() -> object:
    return bool(
        chat(model="thinker", reasoning=True).invoke("How are you?").additional_kwargs["reasoning_content"]
    )


@scene
def embeds() -> object:
    kwargs = connection(KEYS["everything"])
    embeddings = OllamaEmbeddings(model=MODELS["embedder"], base_url=GIVEN["url"], client_kwargs=kwargs)
    return [bool(vector) for vector in embeddings.embed_documents(["one", "two"])]


@scene
def has_a_bad_key() -> object:
    return failure(lambda: chat("nng_nobody").invoke("How are you?"), "API key")


@scene
def asks_for_a_forbidden_model() -> object:
    return failure(lambda: chat("forbidden").invoke("How are you?"), "not available to this key")


@scene
def is_limited() -> object:
    limited = chat("limited")
    limited.invoke("How are you?")
    return failure(lambda: limited.invoke("How are you?"), "requests per minute")


@scene
def hears_that_a_stream_broke_off() -> object:
    stream = chat(model="broken").stream("How are you?")
    return failure(lambda: list(stream), "the answer broke off before it was complete")


for name, act in SCENES.items():
    sys.stdout.write(json.dumps({"scene": name, "saw": act()}) + "\n")
