"""`python -m bench.race`: many requests at once for the last of a limit, at four app processes, over HTTP.

Each round makes a tenant with one limit that has room for a certain number of requests, connects all callers, dealt out
evenly over the processes, and lets them ask in the same moment. Whoever is let in holds what it has until everybody has
an answer. It counts how many were let in beyond the room there was (overshoot: what a limiter that reads first and
writes later gives away), how many answers a second all processes together gave, and how long callers waited for the
head of their answer, refusals included. Exit code 1 if any round let in more than there was room for.
"""

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import uvloop

from bench.crowd import Answer, crowd
from bench.report import spread, this_machine
from bench.site import SLOW, Site, running_site
from bench.tenants import tenants_of
from bench.wire import OK, post
from domain.limits import LimitKind
from domain.requests import parse_request
from domain.reservations import reserve
from domain.routes import inference_routes

CALLERS = (20, 1000)
ROUNDS = 10
PATH = "/api/chat"
OUTPUT_CAP = 100_000
"""More than the simulated model says in the time of any race: nobody finishes, and nothing comes back early."""
BODY = json.dumps(
    {
        "model": SLOW,
        "messages": [{"role": "user", "content": "Hi"}],
        "options": {"num_predict": OUTPUT_CAP},
    }
).encode()
TOO_MANY = 429


class Race(NamedTuple):
    """What is raced for: a limit that has room for so many requests."""

    name: str
    kind: LimitKind
    room: int

    @property
    def limit(self) -> int:
        """The limit in its own unit."""
        counts_tokens = self.kind not in {LimitKind.REQUESTS_PER_MINUTE, LimitKind.CONCURRENCY}
        return self.room * (reservation() if counts_tokens else 1)


RACES = (
    Race("last request of the minute", LimitKind.REQUESTS_PER_MINUTE, 1),
    Race("last token of the minute", LimitKind.TOKENS_PER_MINUTE, 1),
    Race("last place", LimitKind.CONCURRENCY, 1),
    Race("last token of the day", LimitKind.TOKENS_PER_DAY, 1),
    Race("last token of the month", LimitKind.TOKENS_PER_MONTH, 1),
    Race("ten of the day", LimitKind.TOKENS_PER_DAY, 10),
)


def reservation() -> int:
    """Return the tokens that one of the requests here reserves."""
    asked = parse_request(inference_routes()[PATH], BODY)
    return reserve(
        asked.prompt, output_cap=OUTPUT_CAP, context_length=None, image_tokens=0, smallest_token_limit=None
    ).tokens


class Outcome:
    """The rounds of one race with one number of callers."""

    def __init__(self, race: Race, callers: int) -> None:
        self.race = race
        self.callers = callers
        self.rounds = 0
        self.statuses: Counter[int] = Counter()
        self.overshoot = 0
        self.waited_s: list[float] = []
        self.per_s: list[float] = []

    def add(self, answers: Sequence[Answer], *, took_s: float) -> None:
        """Add one round."""
        statuses = Counter(answer.status for answer in answers)
        self.rounds += 1
        self.statuses += statuses
        self.overshoot += max(0, statuses[OK] - self.race.room)
        self.waited_s += [answer.after_s for answer in answers]
        self.per_s.append(len(answers) / took_s)

    def row(self) -> str:
        """Return its line of the table."""
        let_in, refused = self.statuses[OK], self.statuses[TOO_MANY]
        cells = (
            *(self.callers, self.rounds, self.rounds * self.race.room, let_in, self.overshoot, refused),
            *(self.statuses.total() - let_in - refused, round(spread(self.per_s)[0])),
        )
        waits = (f"{seconds * 1000:.0f}" for seconds in spread(self.waited_s))
        return f"| {self.race.name} | " + " | ".join((*map(str, cells), *waits)) + " |"


def table(outcomes: Sequence[Outcome]) -> str:
    """Return everything as a Markdown table; times in milliseconds until the head of an answer."""
    columns = (
        *("race for the", "callers", "rounds", "room", "let in", "overshoot", "refused", "other"),
        *("answers/s", "p50 ms", "p90", "p99", "max"),
    )
    head = "| " + " | ".join(columns) + " |"
    return "\n".join((head, "| --- |" + " ---: |" * (len(columns) - 1), *(each.row() for each in outcomes)))


async def measure(site: Site, *, rounds: int, callers: Sequence[int]) -> list[Outcome]:
    """Run every race with every number of callers."""
    await site.ready()
    outcomes = [Outcome(race, number) for number in callers for race in RACES]
    async with tenants_of(site.environ) as tenants:
        for number, outcome in itertools.product(range(rounds), outcomes):
            slug = f"race-{number}-{outcomes.index(outcome)}"
            (key,) = await tenants.add(slug, limits={outcome.race.kind: outcome.race.limit})
            await _run(outcome, site.ports, key.text)
            print(".", end="", file=sys.stderr, flush=True)
    return outcomes


async def _run(outcome: Outcome, ports: Sequence[int], key: str) -> None:
    async with crowd(ports, outcome.callers) as waiting:
        began = time.perf_counter()
        answers = await waiting.ask(post(PATH, BODY, key))
        outcome.add(answers, took_s=time.perf_counter() - began)


def main() -> int:
    """Measure and print; 1 if a limit was overshot."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.race", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each race ({ROUNDS})")
    parser.add_argument(
        "--redis-timeout-ms", metavar="MS", help="instead of the default, which a starved machine exceeds"
    )
    options = parser.parse_args()
    timeout_ms, rounds = options.redis_timeout_ms, options.rounds
    settings = {} if timeout_ms is None else {"GATEWAY_REDIS_TIMEOUT_MS": timeout_ms}
    machine = this_machine()
    with running_site(settings) as site:
        outcomes = uvloop.run(measure(site, rounds=rounds, callers=CALLERS))
    print(file=sys.stderr)
    print(f"{machine}.\n{len(site.ports)} processes.\n")
    print(table(outcomes))
    return 1 if any(outcome.overshoot for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
