"""`python -m bench.revocation`: from the commit of a revocation to its effect in four processes under load.

Each round revokes one key and takes the time until every process has refused it, until every process has cut a
stream of it, and until the backend has been let go; and, in the same second, the floor: a bare NOTIFY, relayed to
as many subscribers through Redis by a program that does nothing else. Times count from the moment the commit was
acknowledged. Rounds by plain SQL and by the repository (what the command line uses) alternate; then come rounds with
the worker stopped and with Redis stopped, in both of which only each process's own look at Postgres is left.

It runs for two to three minutes. `--markdown` prints tables, as docs/evidence/0003-revocation.md has them.
"""

import argparse
import sys
from collections.abc import Sequence

import uvloop

from bench.report import SPREAD, spread, this_machine
from bench.revocation_rig import REQUESTS_PER_S, Rig, Rounds, Way
from bench.site import running_site

MS = 1000
NEWS_BARS_MS = {"refused": 50.0, "cut": 100.0, "let_go": 150.0}
OUTAGE_BAR_MS = 2000.0


def rows(rounds: Sequence[Rounds]) -> list[tuple[str, str, list[float], str]]:
    """Return every line of the table: under which circumstances, what, its spread in ms, its bar for p99."""
    found = []
    for each in rounds:
        bars = {
            "commit": None,
            "floor": None,
            **(dict.fromkeys(NEWS_BARS_MS, OUTAGE_BAR_MS) if each.way.is_outage else NEWS_BARS_MS),
        }
        for name, words in Rounds.WORDS.items():
            bar = bars[name]
            values = [seconds * MS for seconds in each.times[name]]
            if values:
                found.append((each.way.value, words, spread(values), "" if bar is None else f"<= {bar:,.0f}"))
    return found


def as_table(rounds: Sequence[Rounds]) -> list[str]:
    """Return the table for a terminal."""
    head = f"{'ms after the commit':<68}" + "".join(f"{name:>9}" for name in SPREAD)
    lines = [head]
    for circumstances, words, values, bar in rows(rounds):
        lines.append(
            f"{circumstances + ', ' + words:<68}" + "".join(f"{v:9.1f}" for v in values) + f"  {bar}"
        )
    return lines


def as_markdown(rounds: Sequence[Rounds]) -> list[str]:
    """Return the same as a table in Markdown."""
    lines = [
        f"| Revoked | ms after the commit | {' | '.join(SPREAD)} | bar for p99 |",
        f"| --- | --- | {' | '.join('---:' for _ in SPREAD)} | ---: |",
    ]
    for circumstances, words, values, bar in rows(rounds):
        lines.append(f"| {circumstances} | {words} | {' | '.join(f'{v:,.1f}' for v in values)} | {bar} |")
    return lines


async def measure(rig: Rig, *, number: int, outages: int) -> list[Rounds]:
    """Run all rounds under load."""
    async with rig.loaded(2 * number + 2 * outages):
        by_news = [Rounds(Way.SQL), Rounds(Way.REPOSITORY)]
        for _ in range(number):
            for rounds in by_news:
                await rig.round(rounds)
        stopped = [Rounds(Way.WITHOUT_WORKER), Rounds(Way.WITHOUT_REDIS)]
        for rounds in stopped:
            with rig.stopped(rounds.way):
                for _ in range(outages):
                    await rig.round(rounds)
    return [*by_news, *stopped]


def main() -> int:
    """Measure and print; 1 if a request of the load failed while nothing was stopped."""
    options = _options()
    machine = this_machine()
    with running_site() as site:
        rig = Rig(site)
        rounds = uvloop.run(measure(rig, number=options.rounds, outages=options.outages))
    print(file=sys.stderr)
    counts = ", ".join(f"{len(each.times['commit'])} {each.way.value}" for each in rounds)
    print(f"{machine}.\n{len(site.ports)} processes. Revocations: {counts}.")
    print(f"Beside them {rig.load:,} requests at {REQUESTS_PER_S}/s, of which {rig.load_failed} failed.\n")
    print("\n".join(as_markdown(rounds) if options.markdown else as_table(rounds)))
    return 1 if rig.load_failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.revocation", description=__doc__)
    parser.add_argument("--rounds", type=int, default=150, help="revocations by SQL, and by repository (150)")
    parser.add_argument(
        "--outages", type=int, default=20, help="revocations without worker, and without Redis (20)"
    )
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
