"""The scripts that count limits, and where they find a tenant's counters."""

from functools import lru_cache
from pathlib import Path
from typing import Final

from db.redis.multiplex import RedisScript
from domain.values import KeyId, TenantId

TENANT_SCOPE: Final = b"t"

_FOLDER: Final = Path(__file__).parent


def limit_script(name: str, *, charges: bool = False) -> RedisScript:
    """Return one of the scripts of this folder, behind what all share, and what those share that charge."""
    names = ("limits_common.lua", *(("limit_charges.lua",) if charges else ()), name)
    return RedisScript("\n".join((_FOLDER / each).read_text(encoding="utf-8") for each in names))


@lru_cache(maxsize=4096)
def tenant_prefix(tenant_id: TenantId) -> str:
    """Return what every key of a tenant's counters begins with; its hash tag keeps them on one node."""
    return f"nng:{{t:{tenant_id}}}"


def scope_of(key_id: KeyId | None) -> bytes:
    """Return what a tenant (None) or one of its keys is called among the counters."""
    return TENANT_SCOPE if key_id is None else key_id.bytes
