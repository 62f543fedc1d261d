"""`/admin/v1/me`: which key a caller has proven, and from where."""

from typing import Annotated

from litestar import Controller, get
from msgspec import Meta

from app.admin.contract import Answered
from app.admin.handed import Admin, By
from app.admin.key_contract import Key, key_of


class AdminMe(Answered):
    """Who calls."""

    key: Key
    address: Annotated[
        str | None,
        Meta(description="The caller's address as far as trusted proxies tell; the audit log will name it."),
    ]


class MeController(Controller):
    """The caller."""

    path = "/me"
    tags = ("me",)

    @get(operation_id="getMe", summary="Tell which key this is and where it comes from")
    async def get_me(self, admin: Admin, caller: By) -> AdminMe:
        """Answer the caller's own key."""
        async with admin.database.unit_of_work(caller.actor) as work:
            key = await work.keys(None).get(str(caller.principal.key_id))
        return AdminMe(key=key_of(key), address=caller.actor.address)
