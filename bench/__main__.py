"""`python -m bench`: what a request costs here, for the gateway and for what it can be compared with.

Each target in turn has a core to itself; the load, the simulated Ollama and the databases share the others.
Takes about three minutes (`--quick`: half a minute) and stops by itself. Not a gate: read it.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import uvloop

from bench import targets
from bench.measure import QUICK, SECTIONS, Backends, Bench, Scale
from bench.processes import REPOSITORY, Cores, split_cores
from bench.report import BEFORE, LIMITED, SUBJECT, Results, as_json, as_table, this_machine


async def measure(
    compared: Sequence[targets.Target],
    *,
    backend: targets.Target,
    sections: Sequence[str],
    scale: Scale,
    results: Results,
) -> None:
    """Run these sections over running targets."""
    simulated = [backend, *(target for target in compared if target.name == "direct")]
    async with httpx.AsyncClient(trust_env=False) as client:
        bench = Bench(
            compared, backend=backend, backends=Backends(client, simulated), scale=scale, results=results
        )
        for name in sections:
            for section in SECTIONS[name]:
                print(".", end="", file=sys.stderr, flush=True)
                await section(bench)
    print(file=sys.stderr)


def start(
    running: ExitStack, cores: Cores, wanted: Sequence[str], against: Path | None
) -> tuple[targets.Target, list[targets.Target]]:
    """Start the wanted targets; return the simulated backend behind them, and them."""
    backend = running.enter_context(targets.simulator("backend", cores.others))
    found = []
    if "direct" in wanted:
        found.append(running.enter_context(targets.simulator("direct", cores.target)))
    program = targets.nginx_program()
    if "nginx" in wanted and program is not None:
        found.append(running.enter_context(targets.nginx(program, backend, cores)))
    if "granian" in wanted:
        found.append(running.enter_context(targets.floor(cores)))
    if against is not None:
        found += running.enter_context(targets.gateway(BEFORE, against.resolve(), backend, cores))
    if SUBJECT in wanted:
        limited = LIMITED if LIMITED in wanted else None
        found += running.enter_context(targets.gateway(SUBJECT, REPOSITORY, backend, cores, limited=limited))
    return backend, found


def main() -> int:
    """Measure and report; 1 if any answer was not as it should be."""
    options = _options()
    results = Results(this_machine())
    cores = split_cores()
    if not cores.apart:
        print("only one core: the load competes with what it measures", file=sys.stderr)
    with ExitStack() as running:
        backend, compared = start(running, cores, options.targets, options.against)
        os.sched_setaffinity(0, cores.others)
        scale = QUICK if options.quick else Scale()
        uvloop.run(
            measure(compared, backend=backend, sections=options.sections, scale=scale, results=results)
        )
    names = [target.name for target in compared]
    print(as_table(results, names))
    if options.json is not None:
        options.json.write_bytes(as_json(results, names))
    return 1 if results.failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: few rounds, short ones")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file as well")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="also measure the gateway of another checkout"
    )
    names = ("direct", "nginx", "granian", SUBJECT, LIMITED)
    parser.add_argument("--targets", type=Words(names), default=names, help=f"some of {','.join(names)}")
    sections = tuple(SECTIONS)
    parser.add_argument(
        "--sections", type=Words(sections), default=sections, help=f"some of {','.join(sections)}"
    )
    return parser.parse_args()


class Words:
    """An argument that lists some of the known words, separated by commas."""

    def __init__(self, known: Sequence[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> tuple[str, ...]:
        """Return the words in their known order."""
        asked = set(text.split(","))
        if not asked <= set(self._known):
            raise argparse.ArgumentTypeError(f"choose from {','.join(self._known)}")
        return tuple(word for word in self._known if word in asked)


if __name__ == "__main__":
    sys.exit(main())
