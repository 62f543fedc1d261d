"""`probe-ollama` against simulated servers that answer, refuse, hang and talk nonsense."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.app.cli.conftest import BACKEND_TOKEN, CommandLine
from tests.support.ollama import SimulatedOllama, simulated_ollama
from tests.support.scripted_backend import answer, scripted_backend

MODELS = "a:1,b:1,c:1,d:1,e:1,f:1,g:1"


@pytest.fixture(scope="module")
async def open_one() -> AsyncIterator[SimulatedOllama]:
    async with simulated_ollama(name="open", models=MODELS) as server:
        yield server


@pytest.fixture(scope="module")
async def closed_one() -> AsyncIterator[SimulatedOllama]:
    async with simulated_ollama(name="closed", auth_token=BACKEND_TOKEN) as server:
        yield server


def backends(*specs: dict[str, str]) -> str:
    return json.dumps(specs)


async def test_all_answering_backends_are_ok_in_the_operator_s_order(
    bare: CommandLine, open_one: SimulatedOllama, closed_one: SimulatedOllama
) -> None:
    bare.set(
        OLLAMA_BACKENDS=backends(
            {"name": "z", "base_url": closed_one.url, "auth_token": BACKEND_TOKEN},
            {"name": "a", "base_url": open_one.url},
        )
    )

    report = (await bare.good("probe-ollama", "--json")).json

    assert report["ok"] is True
    assert [(each["name"], each["ok"], each["token_attached"]) for each in report["backends"]] == [
        ("z", True, True),
        ("a", True, False),
    ]


async def test_the_first_few_models_are_shown_and_the_rest_counted(
    bare: CommandLine, open_one: SimulatedOllama
) -> None:
    bare.set(OLLAMA_BASE_URL=open_one.url)

    plain = (await bare.good("probe-ollama")).out
    (default,) = (await bare.good("probe-ollama", "--json")).json["backends"]

    assert "and 2 more" in plain
    assert (default["name"], len(default["models"]), default["model_count"]) == ("default", 5, 7)


async def test_a_wrong_token_is_an_http_status_and_exits_with_1(
    bare: CommandLine, open_one: SimulatedOllama, closed_one: SimulatedOllama
) -> None:
    bare.set(
        OLLAMA_BACKENDS=backends(
            {"name": "good", "base_url": open_one.url},
            {"name": "bad", "base_url": closed_one.url, "auth_token": f"not-{BACKEND_TOKEN}"},
        )
    )

    outcome = await bare("probe-ollama")

    good, bad = outcome.out.splitlines()[1:]
    assert outcome.code == 1
    assert "ok" in good
    assert "attached" in bad
    assert "HTTP 401" in bad
    assert "1 of 2 backends failed." in outcome.err


@pytest.mark.parametrize(
    ("url", "error"),
    [("http://127.0.0.1:1", "connect_refused"), ("https://127.0.0.1:{port}", "tls")],
)
async def test_a_transport_error_is_told_as_such(
    bare: CommandLine, open_one: SimulatedOllama, url: str, error: str
) -> None:
    bare.set(OLLAMA_BASE_URL=url.format(port=open_one.port))

    outcome = await bare("probe-ollama", "--json")

    (default,) = json.loads(outcome.out)["backends"]
    assert outcome.code == 1
    assert [(answer["result"], answer["error"]) for answer in default["answers"]] == [
        ("transport_error", error)
    ] * 2


async def test_a_silent_backend_is_given_up_after_the_timeout(
    bare: CommandLine, open_one: SimulatedOllama
) -> None:
    bare.set(OLLAMA_BASE_URL=open_one.url)
    await open_one.order("hang", path="/api/tags")

    outcome = await bare("probe-ollama", "--timeout", "0.2")

    await open_one.withdraw()
    assert outcome.code == 1
    assert "transport error: timeout" in outcome.out


async def test_a_bad_setting_exits_with_2(bare: CommandLine) -> None:
    bare.set(OLLAMA_BACKENDS='[{"name": "a"}]')

    outcome = await bare("probe-ollama")

    assert (outcome.code, outcome.refusal) == (2, "OLLAMA_BACKENDS[0].base_url is missing.")


async def test_what_talks_no_ollama_is_told_as_such(bare: CommandLine) -> None:
    async with scripted_backend() as server:
        server.scripts |= {"/api/version": answer({}), "/api/tags": answer(b"<html>")}
        bare.set(OLLAMA_BASE_URL=server.url)
        outcome = await bare("probe-ollama")

    assert outcome.code == 1
    assert outcome.out.count("not an answer of Ollama") == 2
