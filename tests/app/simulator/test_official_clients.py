"""The official clients find nothing strange."""

from collections.abc import AsyncIterator

import ollama as ollama_client
import openai as openai_client
import pytest

from tests.support.ollama import SimulatedOllama

MESSAGES = [{"role": "user", "content": "How are you?"}]


@pytest.fixture
async def native(ollama: SimulatedOllama) -> AsyncIterator[ollama_client.AsyncClient]:
    async with ollama_client.AsyncClient(host=ollama.url, trust_env=False) as client:
        yield client


@pytest.fixture
async def openai(ollama: SimulatedOllama) -> AsyncIterator[openai_client.AsyncOpenAI]:
    http = openai_client.DefaultAsyncHttpxClient(trust_env=False)
    async with openai_client.AsyncOpenAI(
        base_url=f"{ollama.url}/v1", api_key="x", http_client=http
    ) as client:
        yield client


async def test_ollama_lists(native: ollama_client.AsyncClient) -> None:
    assert next(model.model for model in (await native.list()).models) == "llama3.2:latest"


async def test_ollama_chats(native: ollama_client.AsyncClient) -> None:
    answer = await native.chat("llama3.2", messages=MESSAGES)

    assert answer.message.content is not None
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "stop", 12)


async def test_ollama_streams_chat(native: ollama_client.AsyncClient) -> None:
    parts = [part async for part in await native.chat("llama3.2", messages=MESSAGES, stream=True)]

    assert (len(parts), parts[-1].done) == (13, True)


async def test_ollama_generates(native: ollama_client.AsyncClient) -> None:
    answer = await native.generate("llama3.2", "How are you?")

    assert str(answer.response).startswith("a is a simulated answer")
    assert answer.context is not None


async def test_ollama_streams_generate(native: ollama_client.AsyncClient) -> None:
    parts = [part async for part in await native.generate("llama3.2", "How are you?", stream=True)]

    assert "".join(str(part.response) for part in parts).startswith("a is a simulated answer")


async def test_ollama_embeds(native: ollama_client.AsyncClient) -> None:
    answer = await native.embed("nomic-embed-text", ["a", "b"])

    assert (len(answer.embeddings), answer.prompt_eval_count) == (2, 2)


async def test_ollama_shows_and_lists_processes(native: ollama_client.AsyncClient) -> None:
    await native.generate("llama3.2", "x")

    assert (await native.show("llama3.2")).capabilities == ["completion", "tools"]
    assert [model.model for model in (await native.ps()).models] == ["llama3.2:latest"]


async def test_ollama_sees_an_inband_error(
    ollama: SimulatedOllama, native: ollama_client.AsyncClient
) -> None:
    await ollama.order("inband_error", after=1, body="it broke")

    with pytest.raises(ollama_client.ResponseError, match="it broke"):
        _ = [part async for part in await native.chat("llama3.2", messages=MESSAGES, stream=True)]


async def test_openai_lists(openai: openai_client.AsyncOpenAI) -> None:
    assert (await openai.models.list()).data[0].id == "llama3.2:latest"


async def test_openai_chats(openai: openai_client.AsyncOpenAI) -> None:
    answer = await openai.chat.completions.create(
        model="llama3.2", messages=[{"role": "user", "content": "x"}]
    )

    assert answer.usage is not None
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", 12)


async def test_openai_streams_chat_with_usage(openai: openai_client.AsyncOpenAI) -> None:
    stream = await openai.chat.completions.create(
        model="llama3.2",
        messages=[{"role": "user", "content": "x"}],
        stream=True,
        stream_options={"include_usage": True},
    )

    *parts, last = [part async for part in stream]
    assert last.usage is not None
    assert (last.choices, last.usage.completion_tokens) == ([], 12)
    assert parts[-1].choices[0].finish_reason == "stop"


async def test_openai_completes(openai: openai_client.AsyncOpenAI) -> None:
    answer = await openai.completions.create(model="llama3.2", prompt="x", max_tokens=2)

    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("a is", "length")


async def test_openai_streams_completion(openai: openai_client.AsyncOpenAI) -> None:
    parts = [
        part async for part in await openai.completions.create(model="llama3.2", prompt="x", stream=True)
    ]

    assert (len(parts), parts[-1].choices[0].finish_reason) == (13, "stop")


async def test_openai_embeds_in_base64_by_default(
    ollama: SimulatedOllama, openai: openai_client.AsyncOpenAI
) -> None:
    answer = await openai.embeddings.create(model="nomic-embed-text", input=["a", "b"])

    (seen,) = await ollama.requests(ended=1)
    assert seen.body is not None
    assert seen.body["encoding_format"] == "base64"
    assert [len(item.embedding) for item in answer.data] == [64, 64]


async def test_openai_names_a_missing_model(openai: openai_client.AsyncOpenAI) -> None:
    with pytest.raises(openai_client.NotFoundError, match="model 'none' not found"):
        await openai.chat.completions.create(model="none", messages=[{"role": "user", "content": "x"}])
