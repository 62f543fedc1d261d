"""`python -m bench.mutation`: whether a test notices when one thing in the code changes.

mutmut changes one thing at a time in the modules that read requests, name models and say who may do what, and runs
the tests that touch it (`[tool.mutmut]` in `pyproject.toml`). A mutant that no test notices is counted as alive, also
where no change of behaviour is possible. Prints a table by module. Exit code 1 if less than 85 % of all mutants, or
less than 90 % of those of the modules that authorise, are noticed.

`python -m bench.mutation 'domain.keep_alive*'` tests those mutants again; `--table` prints what is known already.
`mutmut show NAME` shows one.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.report import this_machine

LOWEST: Final = 0.85
LOWEST_AUTHORISING: Final = 0.90
AUTHORISING: Final = frozenset(
    {
        "domain/authenticate.py",
        "domain/authorize.py",
        "domain/credentials.py",
        "domain/keys.py",
        "domain/option_rules.py",
        "domain/policies.py",
        "domain/route.py",
    }
)
_KILLED: Final = frozenset({1, 2, 3, 255})
"""Exit codes of a mutant's tests: one failed, or they could not even be collected."""
_TIMEOUT: Final = frozenset({-9, -24, 24, 36, 152})
"""They never ended, which does not pass unnoticed either."""
_NO_TESTS: Final = frozenset({5, 33})


class Module(NamedTuple):
    """How many mutants of one module had which end."""

    path: str
    ends: Counter[str]

    @property
    def noticed(self) -> int:
        """How many its tests noticed."""
        return self.ends["killed"] + self.ends["timeout"]

    @property
    def mutants(self) -> int:
        """How many there are."""
        return self.ends.total()


def share(modules: Iterable[Module]) -> float:
    """Return which part of the mutants was noticed."""
    noticed, mutants = 0, 0
    for module in modules:
        noticed += module.noticed
        mutants += module.mutants
    return noticed / mutants if mutants else 1.0


def read_module(path: str, results: Path) -> Module:
    """Return what mutmut has noted about one module."""
    codes = json.loads((results / f"{path}.meta").read_text(encoding="utf-8"))["exit_code_by_key"].values()
    return Module(path, Counter(map(_end, codes)))


def _end(code: int | None) -> str:
    if code in _KILLED:
        return "killed"
    if code in _TIMEOUT:
        return "timeout"
    if code in _NO_TESTS:
        return "no tests"
    return "survived" if code == 0 else "not tested"


def table(modules: list[Module]) -> str:
    """Return the table, in Markdown."""
    lines = [
        "| module | mutants | killed | timeout | survived | no tests | not tested | noticed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    every = Module("all", sum((module.ends for module in modules), Counter()))
    authorising = [module for module in modules if module.path in AUTHORISING]
    for path, ends in [
        *modules,
        Module("those that authorise", sum((m.ends for m in authorising), Counter())),
        every,
    ]:
        row = Module(path, ends)
        counts = [ends[end] for end in ("killed", "timeout", "survived", "no tests", "not tested")]
        lines.append(f"| {path} | {row.mutants} | {' | '.join(map(str, counts))} | {share([row]):.1%} |")
    return "\n".join(lines)


def run_mutmut(names: list[str], processes: int) -> None:
    """Test the mutants of these names, or all that have not been tested since their function changed."""
    environment = {**os.environ, "NNG_MUTATION": "1"}
    # Each mutant's process imports all of ours; without bytecode it would compile it each time.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes), *names]
    subprocess.run(command, check=True, env=environment)


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description="Does a test notice when one thing in the code changes?")
    parser.add_argument("names", nargs="*", help="patterns of mutants, for example 'domain.keep_alive*'")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print what is known already")
    arguments = parser.parse_args()
    config: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "mutmut"
    ]
    if not arguments.table:
        print(this_machine())
        began = time.monotonic()
        run_mutmut(arguments.names, arguments.processes)
        print(f"\n{time.monotonic() - began:.0f} s\n")
    modules = [read_module(path, Path("mutants")) for path in config["only_mutate"]]
    print(table(modules))
    enough = (
        share(modules) >= LOWEST and share(m for m in modules if m.path in AUTHORISING) >= LOWEST_AUTHORISING
    )
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
