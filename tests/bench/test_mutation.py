"""How mutants are counted, and that what they are tested with is there."""

import json
import tomllib
from collections import Counter
from pathlib import Path

from bench.mutation import AUTHORISING, Module, read_module, share, table
from tests.support.repository import ROOT, text_of

CONFIG = tomllib.loads(text_of("pyproject.toml"))["tool"]["mutmut"]


def test_a_mutant_is_noticed_if_its_tests_fail_or_never_end(tmp_path: Path) -> None:
    codes = {"a": 1, "b": -24, "c": 0, "d": 33, "e": None}
    (tmp_path / "domain").mkdir()
    (tmp_path / "domain/x.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))

    module = read_module("domain/x.py", tmp_path)

    assert module.ends == Counter(killed=1, timeout=1, survived=1, **{"no tests": 1, "not tested": 1})
    assert (module.noticed, module.mutants) == (2, 5)
    assert table([module]).splitlines()[2] == "| domain/x.py | 5 | 1 | 1 | 1 | 1 | 1 | 40.0% |"


def test_modules_count_by_their_mutants() -> None:
    large, small = Module("a", Counter(killed=90, survived=9)), Module("b", Counter(survived=1))

    assert share([large, small]) == 0.9


def test_every_module_and_every_test_that_is_named_is_there() -> None:
    named = {*CONFIG["only_mutate"], *CONFIG["pytest_add_cli_args_test_selection"]}

    assert {path for path in named if not (ROOT / path).is_file()} == set()
    assert set(CONFIG["only_mutate"]) > AUTHORISING
