"""What was created for requests that may be sent again: remembered in the transaction of the creation itself."""

import msgspec
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from db.tables import RememberedCreationTable
from domain.values import KeyId


class Creation(msgspec.Struct, frozen=True):
    """What an earlier request made. `fingerprint` is of what it asked for.

    `location` is where the new thing is; `answer` the JSON that was answered, None where it held a secret.
    """

    fingerprint: bytes
    location: str
    answer: str | None


class Creations:
    """Creations by the admin key that asked for them and the idempotency key it sent along."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def claim(self, asker: KeyId, idempotency_key: str, fingerprint: bytes) -> Creation | None:
        """Return what was made under this idempotency key before; None if nothing was.

        Then it is claimed: until this transaction ends everybody else waits here, and afterwards finds what `complete`
        noted. If it is rolled back, the claim never was.
        """
        table = RememberedCreationTable
        claimed = await self._session.execute(
            insert(table)
            .values(asker=asker, idempotency_key=idempotency_key, fingerprint=fingerprint)
            .on_conflict_do_nothing()
            .returning(table.asker)
        )
        if claimed.first() is not None:
            return None
        found = await self._session.execute(
            select(table.fingerprint, table.location, table.answer).filter_by(
                asker=asker, idempotency_key=idempotency_key
            )
        )
        row = found.one()
        return Creation(row.fingerprint, row.location, row.answer)

    async def complete(
        self, asker: KeyId, idempotency_key: str, *, location: str, answer: str | None
    ) -> None:
        """Note what was made. No secret may be in `answer`."""
        await self._session.execute(
            update(RememberedCreationTable)
            .filter_by(asker=asker, idempotency_key=idempotency_key)
            .values(location=location, answer=answer)
            .execution_options(synchronize_session=False)
        )
