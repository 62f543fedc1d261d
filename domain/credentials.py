"""Where a caller may put its key, and what counts as presenting one."""

import binascii
from base64 import b64decode

from domain.errors import Unauthenticated

_BEARER = b"bearer "
_BASIC = b"basic "
MAX_CARRIER_BYTES = 512


def presented_key(authorization: list[bytes], x_api_key: list[bytes], path_key: bytes | None = None) -> bytes:
    """Return the one key that the carriers agree on.

    Carriers are `Authorization: Bearer <key>`, the password of `Authorization: Basic`, `x-api-key`, and the path.
    The same key in several carriers is fine.

    Raises
    ------
    Unauthenticated
        No carrier holds a key, one is malformed, or two hold different keys.
    """
    found = {_from_authorization(value) for value in authorization}
    if x_api_key:
        found.update(value.strip() for value in x_api_key)
    if path_key is not None:
        found.add(path_key)
    if len(found) != 1:
        raise Unauthenticated
    key = found.pop()
    if not key or len(key) > MAX_CARRIER_BYTES:
        raise Unauthenticated
    return key


def _from_authorization(value: bytes) -> bytes:
    if len(value) > MAX_CARRIER_BYTES:
        raise Unauthenticated
    scheme = value[:7].lower()
    if scheme == _BEARER:
        return value[7:].strip()
    if scheme[:6] == _BASIC:
        return _basic_password(value[6:].strip())
    raise Unauthenticated


def _basic_password(encoded: bytes) -> bytes:
    try:
        _user, colon, password = b64decode(encoded, validate=True).partition(b":")
    except (binascii.Error, ValueError) as exc:
        raise Unauthenticated from exc
    if not colon:
        raise Unauthenticated
    return password
