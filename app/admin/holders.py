"""Whose limits, grants and policies a path is about. One handler serves tenants and keys; the path says which."""

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
from litestar.di import NamedDependency, Provide
from litestar.handlers import HTTPRouteHandler

from app.admin.key_contract import KeyInPath, reference
from app.admin.tenants import SlugInPath

ROOT: Final = "/admin/v1"

OperationId = Callable[..., str]


class Holder(msgspec.Struct, frozen=True):
    """A tenant, or one of its keys by prefix or id."""

    slug: str
    key: str | None = None

    @property
    def path(self) -> str:
        """Where it is."""
        tenant = f"{ROOT}/tenants/{self.slug}"
        return tenant if self.key is None else f"{tenant}/keys/{self.key}"


HolderInPath = NamedDependency[Holder]


def _tenant(slug: SlugInPath) -> Holder:
    return Holder(slug)


def _key(slug: SlugInPath, key: KeyInPath) -> Holder:
    return Holder(slug, reference(key))


OF_TENANT: Final = {"holder": Provide(_tenant, sync_to_thread=False)}
OF_KEY: Final = {"holder": Provide(_key, sync_to_thread=False)}
"""The dependencies of controllers below a tenant and below one of its keys."""


def scoped(scope: str, whose: str) -> dict[str, str]:
    """Return the options by which the handlers of one controller are told from the same of another.

    Parameters
    ----------
    scope
        What stands in operation ids, such as `Key`.
    whose
        What stands for `{whose}` in summaries, such as `a key`.
    """
    return {"scope": scope, "whose": whose}


def named(pattern: str) -> OperationId:
    """Return what makes a handler's operation id: the pattern with the `scope` of the controller it is served by."""

    def operation_id(handler: HTTPRouteHandler, *_: Any) -> str:
        return pattern.format(scope=cast(str, handler.opt["scope"]))

    return operation_id
