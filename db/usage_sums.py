"""What is summed over usage, and how: the fragments of SQL that roll-ups and reports share."""

from typing import Final

KEYS: Final = ("tenant_id", "key_id", "model", "backend", "outcome")
"""What sums are kept apart by."""

_OF_ROWS: Final = {
    "requests": "count(*)",
    "estimated_requests": "count(*) FILTER (WHERE u.estimated)",
} | {
    name: f"COALESCE(sum(u.{name}), 0)::bigint"
    for name in ("tokens_in", "tokens_out", "tokens_cached", "load_us", "prompt_us", "eval_us", "total_us")
}

SUMS: Final = tuple(_OF_ROWS)
"""The columns that hold sums."""

KEYS_OF_ROWS: Final = "u.tenant_id, u.key_id, u.model, COALESCE(u.backend, '') AS backend, u.outcome"
"""The keys, read from rows of the ledger `u`."""

SUMS_OF_ROWS: Final = ", ".join(f"{how} AS {name}" for name, how in _OF_ROWS.items())
"""The sums over rows of the ledger `u`."""

SUMS_OF_SUMS: Final = ", ".join(f"COALESCE(sum(s.{name}), 0)::bigint AS {name}" for name in SUMS)
"""The sums over rows of sums `s`."""
