"""Whatever the document allows, and much that it forbids, is answered as the document says, and never by a fault."""

import asyncio
import math
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from app.openapi import document
from tests.support.admin import API, Desk
from tests.support.admin_world import World
from tests.support.counts import count, tell_cases
from tests.support.described import readable
from tests.support.gateway import Gateway

CASES: Final = count(2_000, 20_000)
CHECKS: Final = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
TRIES: Final = 5
"""A machine that has other things to do makes Postgres late, and an answer 503; what stays 503 is a fault."""
REFUSALS: Final = ["400", "403", "404", "409", "412", "413", "422"]
"""What may answer a request that cannot be. One whose body is far too large is told that, whatever else is wrong."""
ENDS: Final = ("delete", "revoke", "rotate", "clear")


@pytest.fixture
async def world(desk: Desk) -> World:
    return await World.made_by(desk)


def operations(described: dict[str, Any]) -> list[Any]:
    """Return the operations of the admin API; those that end something come last."""
    schema = schemathesis.openapi.from_dict(described)
    # The right key is sent with each; wrong ones are another test's, and would have to wait.
    schema.config.generation.update(with_security_parameters=False)
    schema.config.checks.negative_data_rejection.expected_statuses = REFUSALS
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    return sorted(
        (each for each in found if each.path.startswith(API)),
        key=lambda each: (str(each.definition.raw["operationId"]).startswith(ENDS), each.path, each.method),
    )


def cases(operation: Any, world: World) -> st.SearchStrategy[Case[Any]]:
    """Return requests for one operation: mostly about what there is, some about anything, some that cannot be."""
    there = world.parameters(operation.path)
    about = {name: value for name, value in there.items() if f"{{{name}}}" in operation.path}
    wrong = {"path_parameters": about} if operation.body or operation.query else {}
    return st.one_of(
        operation.as_strategy(path_parameters=about),
        operation.as_strategy(path_parameters=about),
        operation.as_strategy(),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE, **wrong),
    )


@pytest.mark.timeout(count(900, 3_600))
async def test_every_answer_is_one_the_document_knows(
    gateway: Gateway, desk: Desk, world: World, request: pytest.FixtureRequest
) -> None:
    found = operations(readable(document()))
    headers = {"Authorization": f"Bearer {desk.key}", "X-Forwarded-For": desk.address}

    sent = 0
    for number, each in enumerate(found):
        # There are few requests for what takes no parameter; those behind it make up for them.
        share = math.ceil((CASES - sent) / (len(found) - number))
        sent += await asyncio.to_thread(try_out, each, share, gateway, headers, world)

    tell_cases(request.node, "requests for admin routes drawn by schemathesis", sent)
    assert sent >= CASES


def try_out(operation: Any, how_often: int, gateway: Gateway, headers: dict[str, str], world: World) -> int:
    """Send requests for one operation, look at each answer, and return how many were sent."""
    sent = 0
    with requests.Session() as session:
        session.headers.update(headers)

        @settings(
            max_examples=how_often, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=cases(operation, world))
        def answered(case: Case[Any]) -> None:
            nonlocal sent
            sent += 1
            reply = case.call(base_url=gateway.url, session=session)
            for _ in range(TRIES):
                if reply.status_code == requests.codes.unavailable:
                    reply = case.call(base_url=gateway.url, session=session)
            case.validate_response(reply, checks=CHECKS)

        try:
            answered()
        except ExceptionGroup as failures:
            # Inside an async test a group would end the event loop of all tests behind it.
            raise AssertionError(str(failures)) from None
    return sent
