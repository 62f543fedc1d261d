"""The benchmark of large bodies runs, if only for a moment, so that it cannot rot."""

import pytest

from bench.large_bodies import WAYS, rounds_of, row, sink


@pytest.mark.parametrize("way", WAYS)
def test_every_way_takes_a_body_to_the_backend(way: str) -> None:
    name = "1 image of 256 KiB"
    with sink() as port:
        rounds = rounds_of(port, name, way, 1)

    assert rounds[0].stop_s > 0
    assert row(name, way, rounds).count("|") == 7
