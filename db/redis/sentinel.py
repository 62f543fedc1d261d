"""Redis behind Sentinels: which server is the primary is asked anew for every connection.

An address is written `redis+sentinel://:password@s1:26379,s2:26379,s3:26379/mymaster/0`: the Sentinels, the name they
watch the servers under, and the number of the database; user and password are the servers'. A failover closes all
connections to the server that was the primary, so whoever connects again finds the new one.
"""

import asyncio
from typing import Final, NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import hiredis

SCHEMES: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_DEFAULT_PORT: Final = 26379
_OPTION: Final = "sentinel_password"
_READ_BYTES: Final = 4096

Place = tuple[str, int]


class SentinelAddress(NamedTuple):
    """Who is asked for which primary, and the address that is left for whoever connects to it.

    `plain` is a `redis://` or `rediss://` address whose host stands for the primary and is to be replaced.
    """

    sentinels: tuple[Place, ...]
    service: str
    password: str | None
    plain: str


def sentinel_address(url: str) -> SentinelAddress | None:
    """Take an address apart; None if it names no Sentinels.

    Raises
    ------
    ValueError
        It does, but not as it should. The text repeats nothing of it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        return None
    parts = urlsplit(f"//{rest}")
    credentials, at, places = parts.netloc.rpartition("@")
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not service or not (database or "0").isdigit():
        raise ValueError("names no service")
    options = dict(parse_qsl(parts.query))
    password = options.pop(_OPTION, None)
    query = f"?{urlencode(options)}" if options else ""
    return SentinelAddress(
        sentinels=tuple(_place(place) for place in places.split(",")),
        service=unquote(service),
        password=password,
        plain=f"{SCHEMES[scheme]}://{credentials}{at}primary/{database or 0}{query}",
    )


def _place(text: str) -> Place:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port == 0:
        raise ValueError("names no host")
    return parts.hostname, parts.port or _DEFAULT_PORT


async def find_primary(address: SentinelAddress, *, timeout_s: float) -> Place:
    """Return where the primary is, by the first Sentinel that knows.

    Raises
    ------
    OSError
        None of them does, or none answers in time.
    """
    asked = [asyncio.create_task(_ask(place, address)) for place in address.sentinels]
    try:
        async with asyncio.timeout(timeout_s):
            for answered in asyncio.as_completed(asked):
                try:
                    return await answered
                except (OSError, hiredis.ProtocolError):
                    continue
    except TimeoutError:
        raise ConnectionError("no Sentinel answered in time") from None
    finally:
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    raise ConnectionError("no Sentinel knows the primary")


async def _ask(place: Place, address: SentinelAddress) -> Place:
    reader, writer = await asyncio.open_connection(*place)
    try:
        answers = hiredis.Reader()
        if address.password is not None:
            writer.write(_packed("AUTH", address.password))
            await _answer(reader, answers)
        writer.write(_packed("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service))
        found = await _answer(reader, answers)
        if not isinstance(found, list):
            raise ConnectionError("the Sentinel watches no such service")
        host, port = found
        return host.decode(), int(port)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, answers: hiredis.Reader) -> object:
    while (answer := answers.gets()) is False:
        data = await reader.read(_READ_BYTES)
        if not data:
            raise ConnectionError("the Sentinel closed the connection")
        answers.feed(data)
    if isinstance(answer, hiredis.ReplyError):
        raise ConnectionError("the Sentinel refused the question")
    return answer


def _packed(*command: str) -> bytes:
    # Its stub speaks of a tuple of one.
    return cast("bytes", hiredis.pack_command(cast("tuple[str]", command)))


def is_primary(role: object) -> bool:
    """Tell whether a server's answer to ROLE is that of a primary; if not, the Sentinel that named it is behind."""
    return isinstance(role, list) and role[0] == b"master"
