"""What people write against Ollama and OpenAI works through the gateway: the official clients, unchanged."""

from collections.abc import AsyncIterator
from typing import Any

import ollama as ollama_client
import openai as openai_client
import pydantic
import pytest

from tests.support.asking import MESSAGES, MODEL
from tests.support.fleet import COMMON, EMBEDDER, SOLO, THINKER, TOKENS_PER_ANSWER
from tests.support.gateway import Gateway, Key
from tests.support.limited import limited_key

Native = ollama_client.AsyncClient
OpenAi = openai_client.AsyncOpenAI

HELLO: Any = [{"role": "user", "content": "How are you?"}]
ASK_WEATHER: Any = [{"role": "user", "content": "ask weather"}]
SCHEMA: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
BROKE_OFF = "the answer broke off before it was complete"


class Place(pydantic.BaseModel):
    """What a structured answer holds."""

    city: str


def native_client(gateway: Gateway, key: str) -> Native:
    return Native(host=gateway.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False)


def openai_client_of(gateway: Gateway, key: str) -> OpenAi:
    http = openai_client.DefaultAsyncHttpxClient(trust_env=False)
    return OpenAi(base_url=f"{gateway.url}/v1", api_key=key, http_client=http, max_retries=0)


@pytest.fixture
async def native(gateway: Gateway, everything: Key) -> AsyncIterator[Native]:
    async with native_client(gateway, everything.text) as client:
        yield client


@pytest.fixture
async def openai(gateway: Gateway, everything: Key) -> AsyncIterator[OpenAi]:
    async with openai_client_of(gateway, everything.text) as client:
        yield client


async def break_off(gateway: Gateway) -> None:
    """Let the next stream of `SOLO` break off; nobody else hosts it."""
    await gateway.backends["a"].order("truncated", after=3, model=SOLO)


# ollama


async def test_ollama_lists_every_model_once(native: Native) -> None:
    names = [model.model for model in (await native.list()).models]

    assert sorted(map(str, names)) == [
        "deepseek-r1:8b",
        "duo:7b",
        "llama3.2:latest",
        "loner:1b",
        "nomic-embed-text:latest",
        "paced:1b",
        "solo:1b",
    ]


async def test_ollama_chats(native: Native) -> None:
    answer = await native.chat(MODEL, messages=MESSAGES)

    assert answer.message.content
    assert (answer.model, answer.done, answer.eval_count) == (MODEL, True, TOKENS_PER_ANSWER)


async def test_ollama_streams_chat(native: Native) -> None:
    parts = [part async for part in await native.chat(MODEL, messages=MESSAGES, stream=True)]

    assert [part.done for part in parts] == [False] * TOKENS_PER_ANSWER + [True]


async def test_ollama_generates(native: Native) -> None:
    answer = await native.generate(MODEL, "How are you?")

    assert answer.response
    assert (answer.done, answer.eval_count) == (True, TOKENS_PER_ANSWER)


async def test_ollama_streams_generate(native: Native) -> None:
    parts = [part async for part in await native.generate(MODEL, "How are you?", stream=True)]

    assert [part.done for part in parts] == [False] * TOKENS_PER_ANSWER + [True]


async def test_ollama_embeds(native: Native) -> None:
    answer = await native.embed(EMBEDDER, ["one", "two"])

    assert (len(answer.embeddings), bool(answer.prompt_eval_count)) == (2, True)


async def test_ollama_embeds_the_old_way(native: Native) -> None:
    assert (await native.embeddings(EMBEDDER, "one")).embedding


async def test_ollama_gets_its_tool_calls(native: Native) -> None:
    answer = await native.chat(MODEL, messages=ASK_WEATHER, tools=[WEATHER])
    (call,) = answer.message.tool_calls or ()

    assert (call.function.name, call.function.arguments) == ("weather", {"city": "text"})


async def test_ollama_streams_its_tool_calls(native: Native) -> None:
    stream = await native.chat(MODEL, messages=ASK_WEATHER, tools=[WEATHER], stream=True)
    calls = [call.function.name async for part in stream for call in part.message.tool_calls or ()]

    assert calls == ["weather"]


async def test_ollama_gets_a_structured_answer(native: Native) -> None:
    answer = await native.chat(MODEL, messages=MESSAGES, format=Place.model_json_schema())

    assert Place.model_validate_json(answer.message.content or "") == Place(city="text")


async def test_ollama_sees_thoughts(native: Native) -> None:
    thoughtful = await native.chat(THINKER, messages=MESSAGES, think=True)
    plain = await native.chat(THINKER, messages=MESSAGES, think=False)

    assert (bool(thoughtful.message.thinking), bool(thoughtful.message.content)) == (True, True)
    assert plain.message.thinking is None


async def test_ollama_is_told_of_a_bad_key(gateway: Gateway) -> None:
    async with native_client(gateway, "nng_nobody") as client:
        with pytest.raises(ollama_client.ResponseError, match="API key") as refused:
            await client.chat(MODEL, messages=MESSAGES)

    assert refused.value.status_code == 401


async def test_ollama_is_told_of_a_forbidden_model(gateway: Gateway) -> None:
    key = await gateway.tenant("qwen3:*")
    async with native_client(gateway, key.text) as client:
        with pytest.raises(ollama_client.ResponseError, match="not available to this key") as refused:
            await client.chat(MODEL, messages=MESSAGES, stream=False)

    assert refused.value.status_code == 403


async def test_ollama_is_told_of_a_rate_limit(gateway: Gateway) -> None:
    key = await limited_key(gateway, requests_per_minute=1)
    async with native_client(gateway, key.text) as client:
        await client.chat(MODEL, messages=MESSAGES)
        with pytest.raises(ollama_client.ResponseError, match="requests per minute") as refused:
            await client.chat(MODEL, messages=MESSAGES)

    assert refused.value.status_code == 429


@pytest.mark.parametrize("act", ["chat", "generate"])
async def test_ollama_hears_that_a_stream_broke_off(gateway: Gateway, native: Native, act: str) -> None:
    await break_off(gateway)
    stream: Any = await (
        native.chat(SOLO, messages=MESSAGES, stream=True)
        if act == "chat"
        else native.generate(SOLO, "How are you?", stream=True)
    )

    with pytest.raises(ollama_client.ResponseError, match=BROKE_OFF):
        _ = [part async for part in stream]


# openai's chat, completions and embeddings


async def test_openai_lists_every_model_once(openai: OpenAi) -> None:
    names = [model.id async for model in openai.models.list()]

    assert len(names) == len(set(names)) == 7


async def test_openai_retrieves_one_model(openai: OpenAi) -> None:
    assert (await openai.models.retrieve(COMMON)).id == COMMON


async def test_openai_chats(openai: OpenAi) -> None:
    answer = await openai.chat.completions.create(model=MODEL, messages=HELLO)

    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == TOKENS_PER_ANSWER


async def test_openai_streams_chat(openai: OpenAi) -> None:
    stream = await openai.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]

    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_openai_streams_chat_with_usage(openai: OpenAi) -> None:
    stream = await openai.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]

    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [TOKENS_PER_ANSWER]
    assert chunks[-1].choices == []


async def test_openai_gets_its_tool_calls_and_gives_their_results(openai: OpenAi) -> None:
    first = await openai.chat.completions.create(model=MODEL, messages=ASK_WEATHER, tools=[WEATHER])
    message = first.choices[0].message
    calls: list[Any] = list(message.tool_calls or ())
    result = {"role": "tool", "tool_call_id": calls[0].id, "content": "rain"}

    history: Any = [*ASK_WEATHER, message.model_dump(exclude_none=True), result]
    second = await openai.chat.completions.create(model=MODEL, messages=history, tools=[WEATHER])

    assert first.choices[0].finish_reason == "tool_calls"
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("weather", '{"city":"text"}')
    ]
    assert second.choices[0].message.content


async def test_openai_s_stream_helper_puts_tool_calls_together(openai: OpenAi) -> None:
    async with openai.chat.completions.stream(model=MODEL, messages=ASK_WEATHER, tools=[WEATHER]) as stream:
        answer = await stream.get_final_completion()
    calls = answer.choices[0].message.tool_calls or []

    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("weather", '{"city":"text"}')
    ]


async def test_openai_parses_a_structured_answer(openai: OpenAi) -> None:
    answer = await openai.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Place)

    assert answer.choices[0].message.parsed == Place(city="text")


async def test_openai_s_chat_shows_thoughts(openai: OpenAi) -> None:
    thoughtful = await openai.chat.completions.create(model=THINKER, messages=HELLO, reasoning_effort="high")
    plain = await openai.chat.completions.create(model=THINKER, messages=HELLO, reasoning_effort="none")

    assert (thoughtful.choices[0].message.model_extra or {}).get("reasoning")
    assert not (plain.choices[0].message.model_extra or {}).get("reasoning")


async def test_openai_completes(openai: OpenAi) -> None:
    answer = await openai.completions.create(model=MODEL, prompt="How are you?")

    assert answer.choices[0].text


async def test_openai_streams_a_completion(openai: OpenAi) -> None:
    stream = await openai.completions.create(model=MODEL, prompt="How are you?", stream=True)
    chunks = [chunk async for chunk in stream]

    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_openai_embeds(openai: OpenAi) -> None:
    answer = await openai.embeddings.create(model=EMBEDDER, input=["one", "two"])

    assert [len(item.embedding) for item in answer.data] == [len(answer.data[0].embedding)] * 2


async def test_openai_is_told_of_a_bad_key(gateway: Gateway) -> None:
    async with openai_client_of(gateway, "nng_nobody") as client:
        with pytest.raises(openai_client.AuthenticationError, match="API key"):
            await client.models.list()


async def test_openai_is_told_of_a_forbidden_model(gateway: Gateway) -> None:
    key = await gateway.tenant("qwen3:*")
    async with openai_client_of(gateway, key.text) as client:
        with pytest.raises(openai_client.PermissionDeniedError, match="not available to this key"):
            await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)


async def test_openai_is_told_of_a_rate_limit(gateway: Gateway) -> None:
    key = await limited_key(gateway, requests_per_minute=1)
    async with openai_client_of(gateway, key.text) as client:
        await client.chat.completions.create(model=MODEL, messages=HELLO)
        with pytest.raises(openai_client.RateLimitError, match="requests per minute") as refused:
            await client.chat.completions.create(model=MODEL, messages=HELLO)

    assert int(refused.value.response.headers["retry-after"]) > 0


async def test_openai_does_not_try_again_what_never_fits(gateway: Gateway) -> None:
    key = await limited_key(gateway, tokens_per_minute=1)
    async with openai_client_of(gateway, key.text).with_options(max_retries=2) as client:
        with pytest.raises(openai_client.RateLimitError, match="Send a shorter prompt") as refused:
            await client.chat.completions.create(model=MODEL, messages=HELLO)

    assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"


@pytest.mark.parametrize("act", ["chat", "completion"])
async def test_openai_hears_that_a_stream_broke_off(gateway: Gateway, openai: OpenAi, act: str) -> None:
    await break_off(gateway)
    stream: Any = await (
        openai.chat.completions.create(model=SOLO, messages=HELLO, stream=True)
        if act == "chat"
        else openai.completions.create(model=SOLO, prompt="How are you?", stream=True)
    )

    with pytest.raises(openai_client.APIError, match=BROKE_OFF):
        _ = [chunk async for chunk in stream]
