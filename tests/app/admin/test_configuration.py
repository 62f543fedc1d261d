"""The settings in force, over HTTP: all of them, where they come from, and no secret."""

from pathlib import Path
from typing import Any

from app.admin.configuration import configuration_of
from app.settings import AppSettings, load_app_settings
from db.settings import documented_variables
from domain.keys import mint_pepper
from tests.support.admin import Desk
from tests.support.gateway import METRICS_TOKEN, Gateway


async def settings_of(desk: Desk) -> dict[str, dict[str, Any]]:
    found = (await desk.get("/configuration")).json()["settings"]
    return {setting["name"]: setting for setting in found}


async def test_every_setting_is_told_with_its_source(desk: Desk) -> None:
    found = await settings_of(desk)

    assert list(found) == sorted(name for name, _ in documented_variables(AppSettings))
    assert found["GATEWAY_DRAIN_SECONDS"] == {
        "name": "GATEWAY_DRAIN_SECONDS",
        "value": 2.0,
        "secret": False,
        "source": "environment",
    }
    assert (found["GATEWAY_HOST"]["value"], found["GATEWAY_HOST"]["source"]) == ("127.0.0.1", "default")


async def test_no_secret_is_told(desk: Desk, gateway: Gateway) -> None:
    reply = await desk.get("/configuration")

    for secret in (METRICS_TOKEN, gateway.database_url, gateway.redis_url):
        assert secret not in reply.text
    hidden = {each["name"] for each in reply.json()["settings"] if each["secret"]}
    assert hidden >= {"DATABASE_URL", "REDIS_URL", "GATEWAY_KEY_PEPPER", "OLLAMA_BACKENDS"}
    assert {each["value"] for each in reply.json()["settings"] if each["secret"]} == {None}


def test_a_file_and_a_default_of_the_machine_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "pepper"
    file.write_text(mint_pepper("p1"))
    settings = load_app_settings(
        {
            "DATABASE_URL": "postgresql://u:canary@h/d",
            "REDIS_URL": "redis://h",
            "GATEWAY_KEY_PEPPER_FILE": str(file),
            "HOME": str(tmp_path),
        }
    )

    told = {setting.name: setting.source for setting in configuration_of(settings).settings}

    assert (told["GATEWAY_KEY_PEPPER"], told["GATEWAY_JOURNAL_DIR"], told["REDIS_URL"]) == (
        "file",
        "default",
        "environment",
    )
