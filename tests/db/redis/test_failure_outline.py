"""What is kept of a failed job: enough to find the fault, none of the words that an exception may have put together."""

import pytest

from db.redis.queue import outline


def fail() -> None:
    try:
        raise ConnectionError("postgresql://gateway:canary@db/gateway")  # noqa: TRY301 - what it is about
    except ConnectionError as cause:
        raise LookupError("canary", {"key": "canary"}) from cause


def test_types_and_places_are_kept_and_words_are_not() -> None:
    with pytest.raises(LookupError) as failed:
        fail()

    kept = outline(failed.value)

    assert [line for line in kept.splitlines() if not line.startswith("  ")] == [
        "builtins.LookupError",
        "builtins.ConnectionError",
    ]
    assert " in fail" in kept
    assert "canary" not in kept
