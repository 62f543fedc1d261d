"""A model that is not there and one that is forbidden: the same bytes and, in the soak, the same time.

A key may use one model. It asks for one that others may use and for one that nobody hosts, in random order on one
connection, and no delay is added anywhere. Were the answers to differ, the ranks of their times would: the area under
the curve (AUC) is how often an answer about the one takes longer than an answer about the other, 0.5 if time tells
nothing.
"""

import json
import re
import socket
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Final

import pytest

from app.gateway.token_count import PATH as COUNT_TOKENS
from tests.support.asking import ANTHROPIC_WHOLE, NATIVE_WHOLE, OPENAI_STREAM, RESPONSES_STREAM
from tests.support.counts import chosen_seed, count, tell_cases
from tests.support.fleet import COMMON, EMBEDDER, SOLO
from tests.support.gateway import Gateway, Key

FORBIDDEN: Final = SOLO
ABSENT: Final = ("polo:1b", "sola:1b", "solo:2b", "zolo:1b", "gone:1b")
"""One for each run, as long as the other."""
RUNS: Final = len(ABSENT)
RUNS_WITHIN: Final = 3
LOW, HIGH = 0.48, 0.52
WARM_UP: Final = 50

_PROMPT: Final = {"input": "x", "prompt": "x"}
BODIES: Final = {
    NATIVE_WHOLE.path: NATIVE_WHOLE.body(),
    OPENAI_STREAM.path: OPENAI_STREAM.body(),
    RESPONSES_STREAM.path: RESPONSES_STREAM.body(),
    ANTHROPIC_WHOLE.path: ANTHROPIC_WHOLE.body(),
    COUNT_TOKENS: ANTHROPIC_WHOLE.body(),
    **dict.fromkeys(("/api/generate", "/api/embed", "/api/embeddings"), _PROMPT),
    **dict.fromkeys(("/v1/completions", "/v1/embeddings"), _PROMPT),
    "/api/show": {},
    "/v1/models/": None,
}
TIMED: Final = (NATIVE_WHOLE.path, ANTHROPIC_WHOLE.path, "/api/embed", "/api/show", "/v1/models/")
_OF_ONE_ANSWER: Final = re.compile(
    rb"(?i)(?<=\r\nx-request-id: )\S+|(?<=\r\ndate: )[^\r]+|(?<=\"request_id\":\")[^\"]+"
)


class Wire:
    """One connection that asks and waits, with as little in between as there can be."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def ask(self, request: bytes) -> bytes:
        """Return the whole answer."""
        self._connection.sendall(request)
        got = self._connection.recv(65_536)
        while (missing := _missing(got)) != 0:
            got += self._connection.recv(65_536)
            assert missing > 0 or b"\r\n\r\n" in got or len(got) < 65_536
        return got


def _missing(got: bytes) -> int:
    """Return how many bytes of an answer are still to come, -1 as long as nobody knows."""
    head, end, body = got.partition(b"\r\n\r\n")
    if not end:
        return -1
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    assert length is not None, head
    return int(length[1]) - len(body)


@contextmanager
def wire(gateway: Gateway) -> Iterator[Wire]:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Wire(connection)


def asking_for(model: str, path: str, key: Key) -> bytes:
    fields = BODIES[path]
    head = f"Host: x\r\nAuthorization: Bearer {key.text}\r\n"
    if fields is None:
        return f"GET {path}{model} HTTP/1.1\r\n{head}\r\n".encode()
    body = json.dumps({**fields, "model": model})
    return f"POST {path} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def auc(ones: Sequence[int], others: Sequence[int]) -> float:
    """Return how often one of the first is larger than one of the second; a tie is half."""
    ranked = sorted(others)
    below = sum(bisect_left(ranked, one) + bisect_right(ranked, one) for one in ones)
    return below / (2 * len(ones) * len(others))


def times(connection: Wire, requests: Sequence[bytes], *, samples: int, random: Random) -> list[list[int]]:
    """Return the nanoseconds that each of two requests took, both asked as often as the other and in no order."""
    taken: list[list[int]] = [[], []]
    for _ in range(samples // 2):
        for which in random.sample((0, 1), 2):
            began = time.perf_counter_ns()
            connection.ask(requests[which])
            taken[which].append(time.perf_counter_ns() - began)
    return taken


@pytest.fixture(scope="module")
async def key(running: Gateway) -> Key:
    return await running.tenant(COMMON, EMBEDDER)


@pytest.mark.usefixtures("anyio_backend")
@pytest.mark.parametrize("path", BODIES)
def test_t05_absent_and_forbidden_are_the_same_bytes(running: Gateway, key: Key, path: str) -> None:
    with wire(running) as connection:
        answers = [
            connection.ask(asking_for(model, path, key)) for _ in range(5) for model in (FORBIDDEN, *ABSENT)
        ]

    assert answers[0].startswith(b"HTTP/1.1 403 ")
    assert len({_OF_ONE_ANSWER.sub(b"", answer) for answer in answers}) == 1


@pytest.mark.skipif(count(1, 0) == 1, reason="times need large numbers: just soak")
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("anyio_backend")
@pytest.mark.parametrize("path", TIMED)
def test_t05_absent_and_forbidden_take_the_same_time(
    request: pytest.FixtureRequest, running: Gateway, key: Key, path: str
) -> None:
    seed, samples, found = chosen_seed(), 20_000, list[float]()
    with wire(running) as connection:
        for run, absent in enumerate(ABSENT):
            asked = [asking_for(model, path, key) for model in (FORBIDDEN, absent)]
            random = Random(seed + run)
            times(connection, asked, samples=WARM_UP, random=random)
            found.append(auc(*times(connection, asked, samples=samples, random=random)))

    sys.stdout.write(f"NNG_SEED={seed}: {path}: AUC {' '.join(f'{each:.4f}' for each in found)}\n")
    tell_cases(request.node, "times of refusals", samples * RUNS)
    assert sum(LOW <= each <= HIGH for each in found) >= RUNS_WITHIN, found


def test_a_difference_that_hardly_shows_moves_the_auc() -> None:
    random = Random(1)
    ones, others = ([random.gauss(100_000 + more, 20_000) for _ in range(10_000)] for more in (0, 2_000))

    assert auc([*map(int, ones)], [*map(int, ones)]) == 0.5
    assert auc([*map(int, ones)], [*map(int, others)]) < LOW
    assert auc([*map(int, others)], [*map(int, ones)]) > HIGH
