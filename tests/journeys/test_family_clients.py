"""What people write against the Responses API and against Anthropic works: the official clients, unchanged."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic as anthropic_client
import openai as openai_client
import pytest

from tests.journeys.test_clients import ASK_WEATHER, HELLO, SCHEMA, OpenAi, Place, openai_client_of
from tests.support.asking import MODEL
from tests.support.fleet import COMMON, SOLO, THINKER, TOKENS_PER_ANSWER, Fleet
from tests.support.gateway import Gateway, Key
from tests.support.limited import limited_key

Anthropic = anthropic_client.AsyncAnthropic


def anthropic_client_of(gateway: Gateway, key: str, **options: Any) -> Anthropic:
    http = anthropic_client.DefaultAsyncHttpxClient(trust_env=False)
    return Anthropic(base_url=gateway.url, api_key=key, http_client=http, max_retries=0, **options)


@pytest.fixture
async def openai(gateway: Gateway, everything: Key) -> AsyncIterator[OpenAi]:
    async with openai_client_of(gateway, everything.text) as client:
        yield client


@pytest.fixture
async def anthropic(gateway: Gateway, everything: Key) -> AsyncIterator[Anthropic]:
    async with anthropic_client_of(gateway, everything.text) as client:
        yield client


# openai's responses


async def test_openai_gets_a_response(openai: OpenAi) -> None:
    response = await openai.responses.create(model=MODEL, input="How are you?", instructions="Be brief.")

    assert (response.status, response.model, bool(response.output_text)) == ("completed", MODEL, True)
    assert response.usage is not None
    assert response.usage.output_tokens == TOKENS_PER_ANSWER


async def test_openai_streams_a_response(openai: OpenAi) -> None:
    stream = await openai.responses.create(model=MODEL, input=HELLO, stream=True)
    events = [event async for event in stream]

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert sum(event.type == "response.output_text.delta" for event in events) == TOKENS_PER_ANSWER
    assert events[-1].type == "response.completed"


async def test_openai_s_stream_helper_puts_a_response_together(openai: OpenAi) -> None:
    async with openai.responses.stream(model=MODEL, input="How are you?") as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        response = await stream.get_final_response()

    assert response.output_text == "".join(deltas) != ""


async def test_openai_gets_its_function_calls_and_gives_their_results(openai: OpenAi) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
    first = await openai.responses.create(model=MODEL, input=ASK_WEATHER, tools=[tool])
    (call,) = first.output
    assert call.type == "function_call"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}

    history: Any = [*ASK_WEATHER, call.model_dump(exclude_none=True), result]
    second = await openai.responses.create(model=MODEL, input=history, tools=[tool])

    assert (call.name, call.arguments) == ("weather", '{"city":"text"}')
    assert second.output_text


async def test_openai_parses_a_structured_response(openai: OpenAi) -> None:
    response = await openai.responses.parse(model=MODEL, input="Where?", text_format=Place)

    assert response.output_parsed == Place(city="text")


async def test_openai_sees_thoughts(openai: OpenAi) -> None:
    stream = await openai.responses.create(model=THINKER, input=HELLO, stream=True)
    events = [event async for event in stream]
    last = events[-1]

    assert last.type == "response.completed"
    assert [item.type for item in last.response.output] == ["reasoning", "message"]
    assert any(event.type == "response.reasoning_summary_text.delta" for event in events)


async def test_openai_is_told_that_nothing_is_kept(openai: OpenAi) -> None:
    with pytest.raises(openai_client.BadRequestError, match="send the whole conversation"):
        await openai.responses.create(model=MODEL, input="And now?", previous_response_id="resp_1")


async def test_openai_is_told_of_a_forbidden_model_for_a_response(gateway: Gateway) -> None:
    key = await gateway.tenant("qwen3:*")
    async with openai_client_of(gateway, key.text) as client:
        with pytest.raises(openai_client.PermissionDeniedError, match="not available to this key"):
            await client.responses.create(model=MODEL, input="hello", stream=True)


async def test_openai_is_told_of_a_rate_limit_for_a_response(gateway: Gateway) -> None:
    key = await limited_key(gateway, requests_per_minute=1)
    async with openai_client_of(gateway, key.text) as client:
        await client.responses.create(model=MODEL, input="hello")
        with pytest.raises(openai_client.RateLimitError, match="requests per minute") as refused:
            await client.responses.create(model=MODEL, input="hello")

    assert int(refused.value.response.headers["retry-after"]) > 0


async def test_openai_hears_of_a_response_that_broke_off(fleet: Fleet, openai: OpenAi) -> None:
    await fleet.even_out()
    await fleet.a.order("truncated", after=3)
    stream = await openai.responses.create(model=COMMON, input="hello", stream=True)
    last = [event async for event in stream][-1]

    assert last.type == "response.failed"
    assert last.response.error is not None
    assert (last.response.model, last.response.error.message) == (
        COMMON,
        "the answer broke off before it was complete",
    )


# anthropic


async def test_anthropic_gets_a_message(anthropic: Anthropic) -> None:
    message = await anthropic.messages.create(model=MODEL, max_tokens=100, messages=HELLO, system="Be brief.")

    assert (message.model, message.stop_reason, message.content[0].type) == (MODEL, "end_turn", "text")
    assert message.usage.output_tokens == TOKENS_PER_ANSWER


async def test_anthropic_may_send_its_key_as_a_bearer(gateway: Gateway, everything: Key) -> None:
    http = anthropic_client.DefaultAsyncHttpxClient(trust_env=False)
    async with Anthropic(
        base_url=gateway.url, auth_token=everything.text, http_client=http, max_retries=0
    ) as client:
        assert (await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)).content


async def test_anthropic_may_ask_for_betas(anthropic: Anthropic) -> None:
    message = await anthropic.beta.messages.create(
        model=MODEL, max_tokens=100, messages=HELLO, betas=["interleaved-thinking-2025-05-14"]
    )

    assert message.content


async def test_anthropic_streams_a_message(anthropic: Anthropic) -> None:
    stream = await anthropic.messages.create(model=MODEL, max_tokens=100, messages=HELLO, stream=True)
    events = [event async for event in stream]

    assert sum(event.type == "content_block_delta" for event in events) == TOKENS_PER_ANSWER
    assert [event.type for event in events[-2:]] == ["message_delta", "message_stop"]


async def test_anthropic_s_stream_helper_puts_a_message_together(anthropic: Anthropic) -> None:
    async with anthropic.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
        said = [text async for text in stream.text_stream]
        message = await stream.get_final_message()

    assert message.content[0].type == "text"
    assert message.content[0].text == "".join(said) != ""
    assert message.usage.output_tokens == TOKENS_PER_ANSWER


@pytest.mark.parametrize("streamed", [True, False])
async def test_anthropic_gets_its_tool_calls_and_gives_their_results(
    anthropic: Anthropic, *, streamed: bool
) -> None:
    asked: Any = {
        "model": MODEL,
        "max_tokens": 100,
        "tools": [{"name": "weather", "description": "tells it", "input_schema": SCHEMA}],
    }
    if streamed:
        async with anthropic.messages.stream(messages=ASK_WEATHER, **asked) as stream:
            first = await stream.get_final_message()
    else:
        first = await anthropic.messages.create(messages=ASK_WEATHER, **asked)
    (call,) = first.content
    assert call.type == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}

    history: Any = [
        *ASK_WEATHER,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = await anthropic.messages.create(messages=history, **asked)

    assert (first.stop_reason, call.name, call.input) == ("tool_use", "weather", {"city": "text"})
    assert second.stop_reason == "end_turn"


async def test_anthropic_gets_structure_from_a_tool(anthropic: Anthropic) -> None:
    """Ollama takes no schema on this route; the way that works everywhere is a tool whose input is the answer."""
    tool: Any = {"name": "place", "input_schema": Place.model_json_schema()}
    message = await anthropic.messages.create(
        model=MODEL,
        max_tokens=100,
        messages=[{"role": "user", "content": "Where? Use the tool."}],
        tools=[tool],
        tool_choice={"type": "tool", "name": "place"},
    )
    (block,) = message.content

    assert block.type == "tool_use"
    assert Place.model_validate(block.input) == Place(city="text")


async def test_anthropic_sees_thoughts(anthropic: Anthropic) -> None:
    asked: Any = {"model": THINKER, "max_tokens": 2000, "messages": HELLO}
    async with anthropic.messages.stream(
        **asked, thinking={"type": "enabled", "budget_tokens": 1024}
    ) as stream:
        thoughtful = await stream.get_final_message()
    plain = await anthropic.messages.create(**asked, thinking={"type": "disabled"})

    assert [block.type for block in thoughtful.content] == ["thinking", "text"]
    assert [block.type for block in plain.content] == ["text"]


async def test_anthropic_counts_tokens(anthropic: Anthropic) -> None:
    short = await anthropic.messages.count_tokens(model=MODEL, messages=HELLO)
    long = await anthropic.messages.count_tokens(model=MODEL, messages=HELLO, system="x" * 4000)

    assert (short.input_tokens, long.input_tokens) == (3 + 4, 1003 + 8)


async def test_anthropic_is_told_of_a_bad_key(gateway: Gateway) -> None:
    async with anthropic_client_of(gateway, "nng_nobody") as client:
        with pytest.raises(anthropic_client.AuthenticationError, match="API key"):
            await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)


async def test_anthropic_is_told_of_a_forbidden_model(gateway: Gateway) -> None:
    key = await gateway.tenant("qwen3:*")
    async with anthropic_client_of(gateway, key.text) as client:
        with pytest.raises(anthropic_client.PermissionDeniedError, match="not available to this key"):
            await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO, stream=True)


async def test_anthropic_is_told_of_a_tool_that_would_search_the_web(anthropic: Anthropic) -> None:
    with pytest.raises(anthropic_client.BadRequestError, match="leave them out of"):
        await anthropic.messages.create(
            model=SOLO,
            max_tokens=9,
            messages=HELLO,
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        )


async def test_anthropic_is_told_of_a_rate_limit(gateway: Gateway) -> None:
    key = await limited_key(gateway, requests_per_minute=1)
    async with anthropic_client_of(gateway, key.text) as client:
        await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
        with pytest.raises(anthropic_client.RateLimitError, match="requests per minute") as refused:
            await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)

    assert int(refused.value.response.headers["retry-after"]) > 0


async def test_anthropic_does_not_try_again_what_never_fits(gateway: Gateway) -> None:
    key = await limited_key(gateway, tokens_per_minute=1)
    async with anthropic_client_of(gateway, key.text).with_options(max_retries=2) as client:
        with pytest.raises(anthropic_client.RateLimitError, match="Send a shorter prompt") as refused:
            await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)

    assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"


async def test_anthropic_hears_of_a_message_that_broke_off(fleet: Fleet, anthropic: Anthropic) -> None:
    await fleet.even_out()
    await fleet.a.order("truncated", after=3)
    stream = await anthropic.messages.create(model=COMMON, max_tokens=99, messages=HELLO, stream=True)

    with pytest.raises(anthropic_client.APIStatusError, match="broke off before it was complete"):
        async for _ in stream:
            pass
