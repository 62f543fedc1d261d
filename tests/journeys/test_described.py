"""What the OpenAPI document says is what the gateway does, whatever it is sent: schemathesis draws the requests.

No backend is told to fail here, so no answer may be a 5xx.
"""

import sys
from collections import Counter
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi import checks

from app.openapi import document
from tests.support.counts import chosen_seed, count, tell_cases
from tests.support.described import EVENTS, LINES, readable
from tests.support.fleet import COMMON, EMBEDDER, LONER, THINKER
from tests.support.gateway import Gateway, Key

CHECKS: Final[list[CheckFunction]] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
MODELS: Final = (COMMON, LONER, THINKER, EMBEDDER, "absent:1b")
SLOW: Final = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
"""Schemathesis is choosy about what it draws, and each case is a request."""


def tenant_routes() -> BaseSchema:
    """Return the document without the admin API."""
    whole = document()
    whole["paths"] = {path: found for path, found in whole["paths"].items() if not path.startswith("/admin/")}
    # It would draw keys, and nearly every answer would be a 401.
    drawn = ProjectConfig(generation=GenerationConfig(with_security_parameters=False))
    config = SchemathesisConfig(projects=ProjectsConfig(default=drawn))
    return schemathesis.openapi.from_dict(readable(whole), config=config)


def steered(case: Case[Any], fields: dict[str, Any]) -> None:
    """Have a request ask for what there is, or for a stream: by chance it hardly ever would."""
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body.update(fields)


@pytest.mark.timeout(count(600, 3 * 3600))
@pytest.mark.usefixtures("anyio_backend")
def test_t19_every_answer_is_a_described_one(
    request: pytest.FixtureRequest, gateway: Gateway, everything: Key
) -> None:
    routes, number, seen = tenant_routes(), chosen_seed(), Counter[str]()
    drawn = st.one_of([routes.as_strategy(mode) for mode in GenerationMode])
    keyed = st.sampled_from([everything.headers] * 7 + [None])
    fields = st.fixed_dictionaries(
        {}, optional={"model": st.sampled_from(MODELS), "stream": st.just(value=True)}
    )

    with requests.Session() as session:
        session.trust_env = False

        @seed(number)
        @given(drawn, fields, keyed)
        @settings(
            max_examples=count(2_000, 20_000),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=SLOW,
        )
        def is_described(case: Case[Any], fields: dict[str, Any], headers: dict[str, str] | None) -> None:
            steered(case, fields)
            response = case.call(gateway.url, session, headers=headers)
            seen[f"{response.status_code} {response.headers['content-type'][0].partition(';')[0]}"] += 1
            case.validate_response(response, checks=CHECKS)

        is_described()

    sys.stdout.write(f"NNG_SEED={number}: {dict(seen.most_common())}\n")
    tell_cases(request.node, "requests drawn by schemathesis", seen.total())
    assert {f"200 {LINES}", f"200 {EVENTS}", "200 application/json", "400 application/json"} <= seen.keys()
