"""The measurement of revocations runs whole, if only for moments, so that it cannot rot."""

import asyncio
from pathlib import Path

from bench.revocation import as_markdown, as_table, measure
from bench.revocation_rig import Rounds, Way, site


def test_every_way_has_its_figures_and_the_load_beside_them_is_served(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with site(tmp_path) as running:
        rounds = asyncio.run(measure(running, number=1, outages=1))

    assert [each.way for each in rounds] == list(Way)
    assert [
        (each.way, name)
        for each in rounds
        for name in Rounds.WORDS
        if len(each.times[name]) != (0 if name == "floor" and each.way.is_outage else 1)
    ] == []
    assert len(as_table(rounds)) == len(as_markdown(rounds)) - 1
    assert (running.load > 0, running.load_failed) == (True, 0)
