"""`config`: all settings of both processes, checked and shown."""

import json
from pathlib import Path

from tests.app.cli.conftest import PEPPER, CommandLine

CANARY = "canary-of-a-secret"
STORES = {
    "DATABASE_URL": f"postgresql://u:{CANARY}@127.0.0.1:1/x",
    "REDIS_URL": f"redis://:{CANARY}@127.0.0.1:1/0",
    "GATEWAY_KEY_PEPPER": PEPPER,
}


async def test_usable_settings_are_said_to_be(bare: CommandLine) -> None:
    bare.set(**STORES)

    assert (await bare.good("config", "check")).out == "All settings can be used.\n"


async def test_everything_wrong_is_told_at_once_with_the_processes_that_mind(bare: CommandLine) -> None:
    bare.set(
        DATABASE_URL=f"mysql://u:{CANARY}@db/x",
        GATEWAY_PORT="eighty",
        MODEL_DISCOVERY_INTERVAL_SECONDS="0",
        GATEWAY_KEY_PEPPER_FILE="/does/not/exist",
    )

    outcome = await bare("config", "check", "--json")

    errors = {each["message"]: each["processes"] for each in json.loads(outcome.out)["errors"]}
    assert outcome.code == 2
    assert errors == {
        "DATABASE_URL must be an address like postgresql://user:password@host:5432/name.": ["app", "worker"],
        "REDIS_URL is not set; see .env.sample.": ["app", "worker"],
        "GATEWAY_PORT must be a whole number.": ["app"],
        "GATEWAY_KEY_PEPPER_FILE must name a readable text file.": ["app"],
        "MODEL_DISCOVERY_INTERVAL_SECONDS must be greater than 0.": ["worker"],
    }
    assert CANARY not in outcome.out + outcome.err


async def test_people_get_a_sentence_a_line(bare: CommandLine) -> None:
    bare.set(**STORES, GATEWAY_PORT="eighty", GATEWAY_WORKERS="0")

    outcome = await bare("config", "check")

    assert outcome.code == 2
    assert outcome.out == (
        "GATEWAY_PORT must be a whole number. (app)\nGATEWAY_WORKERS must be at least 1. (app)\n"
    )
    assert outcome.err == "2 settings cannot be used.\n"


async def test_a_misspelt_variable_is_told(bare: CommandLine) -> None:
    bare.set(**STORES, GATEWAY_PROT="80", GATEWAY_VIRTUAL_HOST="gateway.example.org")

    outcome = await bare.good("config", "check")

    assert outcome.err == "GATEWAY_PROT is no setting and changes nothing; did you mean GATEWAY_PORT?\n"


async def test_shown_are_value_source_and_reader_but_no_secret(bare: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(CANARY)
    bare.set(**STORES, GATEWAY_PORT="8080", GATEWAY_METRICS_TOKEN_FILE=str(tmp_path / "token"))

    outcome = await bare.good("config", "show", "--json")
    plain = await bare.good("config", "show")

    settings = {each["name"]: each for each in outcome.json["settings"]}
    assert CANARY not in outcome.out + plain.out
    assert settings["GATEWAY_PORT"] == {
        "name": "GATEWAY_PORT",
        "value": 8080,
        "secret": False,
        "source": "environment",
        "processes": ["app"],
    }
    assert (settings["GATEWAY_METRICS_TOKEN"]["source"], settings["GATEWAY_METRICS_TOKEN"]["value"]) == (
        "file",
        None,
    )
    assert settings["MODEL_DISCOVERY_INTERVAL_SECONDS"]["processes"] == ["worker"]
    assert settings["REDIS_URL"]["processes"] == ["app", "worker"]
    assert settings["GATEWAY_SURFACES"]["value"] == ["tenant", "admin", "docs", "ops"]
    lines = [line.split() for line in plain.out.splitlines()]
    assert ["GATEWAY_METRICS_TOKEN", "***", "file", "app"] in lines
    assert ["GATEWAY_PATH_KEYS", "false", "default", "app"] in lines


async def test_what_cannot_be_used_is_not_shown(bare: CommandLine) -> None:
    bare.set(**STORES, OLLAMA_BASE_URL=f"http://u:{CANARY}@127.0.0.1", GATEWAY_PORT="eighty")

    outcome = await bare("config", "show")

    assert outcome.code == 2
    assert "1 more" in outcome.refusal
    assert CANARY not in outcome.refusal
