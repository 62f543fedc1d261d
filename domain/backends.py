"""The Ollama servers behind the gateway: what the operator says of each, and what its answers mean.

Relay, discovery and the command line's probe all describe and address a backend through this module.
"""

import hashlib
import ipaddress
import re
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator

from domain.model_names import canonical, is_cloud
from domain.model_table import HostedModel, LoadedModel

DEFAULT_BACKEND_NAME = "default"
"""Name of the one backend that the `OLLAMA_BASE_URL` family describes."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_HEADER_TEXT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_RESERVED_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "expect", "host", "keep-alive"}
    | {"te", "trailer", "transfer-encoding", "upgrade", "x-request-id", "traceparent"}
)
_METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_METADATA_ADDRESSES = frozenset(
    {
        ipaddress.ip_address("100.100.100.200"),  # Alibaba
        ipaddress.ip_address("192.0.0.192"),  # Oracle
        ipaddress.ip_address("168.63.129.16"),  # Azure's wire server
        ipaddress.ip_address("fd00:ec2::254"),  # Amazon over IPv6
    }
)


def is_forbidden_address(address: str) -> bool:
    """Say whether an address must never be a backend: link-local, a metadata service, or no single host.

    Parameters
    ----------
    address
        An IPv4 or IPv6 address as text, as a resolver or a URL gives it.

    Raises
    ------
    ValueError
        `address` is not an address.
    """
    parsed: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return (
        parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified or parsed in _METADATA_ADDRESSES
    )


def check_base_url(text: str) -> str:
    """Return the address of a backend without its trailing slash.

    Raises
    ------
    ValueError
        It is not a plain http or https address, or it points where no Ollama server may be. The message
        never repeats the text, which might carry a password.
    """
    parts = _split_url(text)
    if parts.scheme not in {"http", "https"}:
        raise ValueError("must start with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user name or password; use the auth token instead")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("must not carry a query or a fragment")
    host = (parts.hostname or "").rstrip(".")
    if not host or not re.fullmatch(r"[0-9A-Za-z.:_%-]{1,253}", host):
        raise ValueError("must name a host")
    if host.lower() in _METADATA_HOSTS or _is_forbidden_literal(host):
        raise ValueError("must not point at a link-local or metadata address")
    if not re.fullmatch(r"(?:/[0-9A-Za-z._~-]+)*/?", parts.path) or "/../" in f"{parts.path}/":
        raise ValueError("must have a plain path, or none")
    return text.rstrip("/")


def _split_url(text: str) -> SplitResult:
    # urlsplit silently drops tabs and line ends; what is checked must be what is used.
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be plain ASCII without spaces")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("must be an address like http://127.0.0.1:11434") from None
    if port == 0:
        raise ValueError("must not use port 0")
    return parts


def _is_forbidden_literal(host: str) -> bool:
    try:
        return is_forbidden_address(host)
    except ValueError:
        # Some resolvers take `2852039166` or `0xa9fea9fe` for an address; no real host is named so.
        return (
            re.fullmatch(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)(?:\.(?:0[xX][0-9A-Fa-f]*|[0-9]+))*", host) is not None
        )


def check_auth_header(text: str) -> str:
    """Return the name of the header that carries a backend's token.

    Raises
    ------
    ValueError
        It is no header name, or one that the gateway itself sets.
    """
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError("must be the name of a header")
    if text.lower() in _RESERVED_HEADERS:
        raise ValueError("must not be a header that the gateway sets itself")
    return text


def check_auth_scheme(text: str) -> str:
    """Return the word before a backend's token; empty means the bare token.

    Raises
    ------
    ValueError
        It is not one word.
    """
    if text and not _HEADER_NAME.fullmatch(text):
        raise ValueError("must be one word, or empty for the bare token")
    return text


def check_auth_token(token: SecretStr) -> SecretStr:
    """Return a backend's token if it can stand in a header.

    Raises
    ------
    ValueError
        It is empty or holds anything but printable ASCII: a line end would start a header of its own.
    """
    if not _HEADER_TEXT.fullmatch(token.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces around it")
    return token


class Deadlines(BaseModel):
    """How long, in seconds, one backend may take; None leaves the gateway's own setting in force."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    connect_s: Annotated[float, Field(gt=0, le=60)] | None = None
    first_byte_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    idle_s: Annotated[float, Field(gt=0, le=3600)] | None = None


class BackendSpec(BaseModel):
    """One Ollama server as the operator describes it. The token never shows in repr, logs or errors.

    `auth_scheme` empty means that the header carries the bare token. `max_in_flight` bounds the requests it
    serves at once for each model, over all processes; None means no limit of ours. `allow_cloud` lets models
    and built-in tools through that leave the machine for ollama.com.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str
    base_url: Annotated[str, AfterValidator(check_base_url)]
    auth_token: Annotated[SecretStr, AfterValidator(check_auth_token)] | None = None
    auth_header: Annotated[str, AfterValidator(check_auth_header)] = "Authorization"
    auth_scheme: Annotated[str, AfterValidator(check_auth_scheme)] = "Bearer"
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    allow_cloud: bool = False
    deadlines: Deadlines = Deadlines()

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("must be letters, digits, dots, dashes or underscores, at most 64")
        return name


def check_unique_names(backends: tuple[BackendSpec, ...]) -> tuple[BackendSpec, ...]:
    """Return the backends if no two share a name.

    Raises
    ------
    ValueError
        Two backends have the same name.
    """
    names = [backend.name for backend in backends]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"must give every backend a name of its own, {name!r} is used twice")
    return backends


def effective_backends(
    backends: tuple[BackendSpec, ...],
    *,
    base_url: str,
    auth_token: SecretStr | None = None,
    auth_header: str = "Authorization",
    auth_scheme: str | None = None,
) -> tuple[BackendSpec, ...]:
    """Return the backends in force: the list, or the single one named `default` when the list is empty.

    Parameters
    ----------
    backends
        The operator's list, `OLLAMA_BACKENDS`. The other parameters are ignored unless it is empty.
    auth_scheme
        The word before the token. None: `Bearer` in the Authorization header, the bare token in any other,
        since an environment cannot tell an empty variable from an unset one.
    """
    if backends:
        return backends
    if auth_scheme is None:
        auth_scheme = "Bearer" if auth_header.lower() == "authorization" else ""
    return (
        BackendSpec(
            name=DEFAULT_BACKEND_NAME,
            base_url=base_url,
            auth_token=auth_token,
            auth_header=auth_header,
            auth_scheme=auth_scheme,
        ),
    )


def build_backend_headers(backend: BackendSpec) -> dict[str, str]:
    """Return the headers that prove the gateway to one backend: none without a token.

    Raises
    ------
    ValueError
        The header or token could smuggle a line end (the spec was built without validation).
    """
    if backend.auth_token is None:
        return {}
    token = check_auth_token(backend.auth_token).get_secret_value()
    scheme = check_auth_scheme(backend.auth_scheme)
    return {check_auth_header(backend.auth_header): f"{scheme} {token}" if scheme else token}


def config_digest(backend: BackendSpec) -> str:
    """Return a fingerprint of a backend's name and address: do two processes mean the same one.

    Whether it may use the cloud is part of it: what was read while they did is forgotten once they do not.
    The token has no part in it: nothing about a secret can be worked out from what is stored.
    """
    facts = f"{backend.name}\n{backend.base_url}" + ("\ncloud" if backend.allow_cloud else "")
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


MAX_MODELS = 4096
"""Models of one backend that are looked at; no real server has a tenth of that."""

_MAX_INT64 = 2**63 - 1
_MAX_LIST = 64
_ZERO_TIME = "0001-01-01T00:00:00Z"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)")

_ShortText = Annotated[str, msgspec.Meta(max_length=256)]
_Detail = (
    _ShortText | int | float | bool | None | Annotated[list[_ShortText], msgspec.Meta(max_length=_MAX_LIST)]
)


class BadAnswer(ValueError):  # noqa: N818 - reads as what happened
    """A backend answered 200 with something that is not what Ollama says there."""


class _Version(msgspec.Struct):
    version: str


class _Models(msgspec.Struct):
    models: list[msgspec.Raw] | None


class _Tag(msgspec.Struct):
    name: str
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{0,64}$")] = ""
    size: Annotated[int, msgspec.Meta(ge=0, le=_MAX_INT64)] = 0
    modified_at: str = _ZERO_TIME
    details: msgspec.Raw = msgspec.Raw(b"null")
    capabilities: msgspec.Raw = msgspec.Raw(b"null")
    remote_host: str | None = None
    remote_model: str | None = None


_decode_version = msgspec.json.Decoder(_Version).decode
_decode_models = msgspec.json.Decoder(_Models).decode
_decode_tag = msgspec.json.Decoder(_Tag).decode
_decode_loaded = msgspec.json.Decoder(LoadedModel).decode
_decode_details = msgspec.json.Decoder(
    Annotated[dict[_ShortText, _Detail], msgspec.Meta(max_length=_MAX_LIST)]
).decode
_decode_capabilities = msgspec.json.Decoder(
    Annotated[list[_ShortText], msgspec.Meta(max_length=_MAX_LIST)]
).decode


def parse_version(body: bytes) -> str | None:
    """Return what `/api/version` says, None if it says nothing usable."""
    try:
        version = _decode_version(body).version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return version if _VERSION.fullmatch(version) else None


def parse_tags(body: bytes, *, allow_cloud: bool) -> tuple[HostedModel, ...]:
    """Return the models of `/api/tags` under their canonical names, each once, in the backend's order.

    An entry that cannot be understood is left out, and so is one that would leave the machine, by its name or as a
    stub, unless `allow_cloud`: one odd model does not cost the operator a backend.

    Raises
    ------
    BadAnswer
        The answer as a whole is not a list of models.
    """
    found: dict[str, HostedModel] = {}
    for raw in _entries(body):
        try:
            tag = _decode_tag(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        name = canonical(tag.name)
        if name is None or name.display in found:
            continue
        leaves = bool(tag.remote_host or tag.remote_model) or is_cloud(name.display)
        if leaves and not allow_cloud:
            continue
        found[name.display] = HostedModel(
            name=name.display,
            digest=tag.digest,
            size=tag.size,
            modified_at=tag.modified_at if _TIME.fullmatch(tag.modified_at) else _ZERO_TIME,
            details=_details(tag.details),
            capabilities=_capabilities(tag.capabilities),
        )
    return tuple(found.values())


def parse_loaded(body: bytes) -> tuple[LoadedModel, ...]:
    """Return the models that `/api/ps` says are in memory, under their canonical names, each once.

    Raises
    ------
    BadAnswer
        The answer as a whole is not a list of models.
    """
    found: dict[str, LoadedModel] = {}
    for raw in _entries(body):
        try:
            loaded = _decode_loaded(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        name = canonical(loaded.name)
        if name is not None and name.display not in found:
            expires_at = loaded.expires_at if _TIME.fullmatch(loaded.expires_at) else _ZERO_TIME
            found[name.display] = msgspec.structs.replace(loaded, name=name.display, expires_at=expires_at)
    return tuple(found.values())


def _entries(body: bytes) -> list[msgspec.Raw]:
    try:
        # An empty list is `null` in some releases.
        models = _decode_models(body).models or []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadAnswer from None
    return models[:MAX_MODELS]


def _details(raw: msgspec.Raw) -> dict[str, object]:
    try:
        return dict(_decode_details(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _capabilities(raw: msgspec.Raw) -> tuple[str, ...]:
    try:
        return tuple(_decode_capabilities(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()
