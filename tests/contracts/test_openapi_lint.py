"""The OpenAPI documents pass a linter, and the linter finds what it is there to find."""

import copy
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from app.openapi import document, render_document
from tests.support.node import SDK, install_sdk_tools
from tests.support.scenes import CannotRun

_LINTED_WITHIN_S: Final = 60.0
TENANTS: Final = "/admin/v1/tenants"

Described = dict[str, Any]
FAULTS: Final[dict[str, Callable[[Described], object]]] = {
    "operation-operationId": lambda found: found["paths"][TENANTS]["get"].pop("operationId"),
    "operation-operationId-unique": lambda found: found["paths"][TENANTS]["get"].update(
        operationId="createTenant"
    ),
    "operation-summary": lambda found: found["paths"][TENANTS]["get"].pop("summary"),
    "operation-4xx-response": lambda found: found["paths"]["/admin/v1/me"]["get"].update(
        responses={"200": {"description": "The answer."}}
    ),
    "response-contains-header": lambda found: found["components"]["responses"]["AdminNotFound"].pop(
        "headers"
    ),
    "parameter-description": lambda found: found["paths"][TENANTS]["get"]["parameters"][0].pop("description"),
    "security-defined": lambda found: found["components"]["securitySchemes"].pop("adminBearer"),
    "no-unused-components": lambda found: found["components"]["schemas"].update(Forgotten={"type": "string"}),
    "no-unresolved-refs": lambda found: found["components"]["schemas"].pop("Tenant"),
    "no-ambiguous-paths": lambda found: found["paths"].update(
        {"/admin/v1/{noun}/research": found["paths"]["/admin/v1/tenants/{slug}"]}
    ),
    "no-invalid-media-type-examples": lambda found: found["paths"][TENANTS]["post"]["requestBody"]["content"][
        "application/json"
    ].update(example={"slug": 7}),
    "paths-kebab-case": lambda found: found["paths"].update(
        {"/admin/v1/a_b": found["paths"]["/admin/v1/me"]}
    ),
    "path-http-verbs-order": lambda found: found["paths"][TENANTS].update(
        get=found["paths"][TENANTS].pop("get")
    ),
}
"""How to plant a fault, by the rule that finds it."""


def linted(*documents: Path) -> tuple[int, str]:
    """Return how the linter ended and what it printed."""
    try:
        install_sdk_tools()
    except CannotRun as reason:
        pytest.skip(str(reason))
    finished = subprocess.run(
        ("node", "lint.mjs", *documents),
        cwd=SDK,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LINTED_WITHIN_S,
    )
    assert finished.stderr == ""
    return finished.returncode, finished.stdout


def test_both_documents_pass_the_linter(tmp_path: Path) -> None:
    written = []
    for admin_only in (False, True):
        written.append(tmp_path / f"{admin_only=}.json")
        written[-1].write_text(render_document(admin_only=admin_only))

    assert linted(*written) == (0, "")


def test_the_linter_finds_every_fault_that_is_planted(tmp_path: Path) -> None:
    sound = document(admin_only=True)
    planted = {}
    for rule, plant in FAULTS.items():
        faulty = copy.deepcopy(sound)
        plant(faulty)
        planted[rule] = tmp_path / f"{rule}.json"
        planted[rule].write_bytes(msgspec.json.encode(faulty))

    code, told = linted(*planted.values())

    assert code == 1
    found = set(re.findall(r"^\S*/([\w-]+)\.json: ([\w-]+): ", told, re.MULTILINE))
    assert {(rule, rule) for rule in FAULTS} - found == set()
