"""What people write against Ollama and OpenAI works through the gateway: the official clients, unchanged."""

from collections.abc import AsyncIterator

import ollama as ollama_client
import openai as openai_client
import pytest

from tests.support.asking import MESSAGES, MODEL
from tests.support.fleet import COMMON, EMBEDDER, TOKENS_PER_ANSWER
from tests.support.gateway import Gateway, Key

Native = ollama_client.AsyncClient
OpenAi = openai_client.AsyncOpenAI


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
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    answer = await native.chat(MODEL, messages=[{"role": "user", "content": "ask weather"}], tools=[tool])

    assert [call.function.name for call in answer.message.tool_calls or ()] == ["weather"]


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


async def test_openai_lists_every_model_once(openai: OpenAi) -> None:
    names = [model.id async for model in openai.models.list()]

    assert len(names) == len(set(names)) == 7


async def test_openai_retrieves_one_model(openai: OpenAi) -> None:
    assert (await openai.models.retrieve(COMMON)).id == COMMON


async def test_openai_chats(openai: OpenAi) -> None:
    answer = await openai.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "How are you?"}]
    )

    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == TOKENS_PER_ANSWER


async def test_openai_streams_chat(openai: OpenAi) -> None:
    stream = await openai.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "How are you?"}], stream=True
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_openai_streams_chat_with_usage(openai: OpenAi) -> None:
    stream = await openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "How are you?"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]

    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [TOKENS_PER_ANSWER]
    assert chunks[-1].choices == []


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
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hello"}], stream=True
            )
