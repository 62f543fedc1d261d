"""Reading the model table that the worker keeps in Redis."""

from typing import TYPE_CHECKING, Final

from app.cli.failure import CommandFailed
from app.cli.place import redis_troubles, store_address

if TYPE_CHECKING:
    from db.settings import RedisSettings
    from domain.model_table import ModelTable

_TIMEOUT_MS: Final = 2000


async def read_model_table(settings: "RedisSettings") -> "tuple[ModelTable | None, int]":
    """Return the table, None if no worker has written one, and how many bytes it takes in Redis.

    Raises
    ------
    CommandFailed
        Redis is out of reach, or what is there is no model table.
    """
    import msgspec

    from db.redis.connection import connect_hot
    from db.redis.model_table_read import ModelTableReader

    async with connect_hot(settings.redis_url, timeout_ms=_TIMEOUT_MS) as redis:
        with redis_troubles(settings.redis_url):
            reader = ModelTableReader(redis)
            try:
                return await reader.read_table(), await reader.size_bytes()
            except msgspec.MsgspecError:
                where = store_address(settings.redis_url.get_secret_value())
                raise CommandFailed(
                    f"The model table in Redis at {where} was written by another release or program."
                ) from None
