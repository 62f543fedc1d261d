"""Model names: every spelling Ollama would run as one model is one model here too.

Authorisation, the model table and the ledger compare canonical names only. A spelling that Ollama could read
differently from us must not exist, so the grammar is Ollama's own, in ASCII, and anything outside it is no
name.
"""

import re
from functools import lru_cache

import msgspec

from domain.values import Rights

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

MAX_NAME_CHARS = 640
"""Host 350, three parts of 80, separators and a scheme fit; longer text is refused before it costs time."""

_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""What Go's TrimSpace removes; Python's own strip() removes four control characters more."""

_HOST = re.compile(r"[a-z0-9_][a-z0-9_.:-]{0,349}", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9_][a-z0-9_-]{0,79}", re.ASCII)
_PART = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}", re.ASCII)
_SCHEMES = ("", "http", "https")

_AT_MOST_NAMESPACE = r"(?!.*/.*/)"
_NO_NAMESPACE = r"(?!.*/)"


class CanonicalName(msgspec.Struct, frozen=True):
    """One model name, understood.

    `display` is the compare key: lower case, default host and namespace dropped, tag always present. That of a
    model in Ollama's cloud ends in `:cloud` or in `-cloud`, and no other one does (`is_cloud`).
    `forwarded` is what a backend is sent: the client's own text where only the tag may be missing, else
    `display`. `needs_echo` says that backends answer with another spelling than the client's, so replies are
    rewritten.
    """

    display: str
    forwarded: str
    needs_echo: bool


def canonical(text: str) -> CanonicalName | None:
    """Return the canonical name, or None for text that is no name.

    Names of cloud models are names: whether anybody may use one is for the model table to say, which only lists
    those of backends that allow it. The result is remembered, within bounds, for the hot path.
    """
    if len(text) > MAX_NAME_CHARS:
        return None
    return _canonical(text)


def is_cloud(text: str) -> bool:
    """Tell whether Ollama would send this name to its cloud: tag `cloud`, or a tag that ends in `-cloud`."""
    return len(text) <= MAX_NAME_CHARS and _split_source(text.strip(_SPACE))[1] == "cloud"


@lru_cache(maxsize=4096)
def _canonical(text: str) -> CanonicalName | None:
    base, source = _split_source(text.strip(_SPACE))
    if source and _split_source(base)[1]:
        return None
    display = _display(base)
    if display is None:
        return None
    if source == "cloud":
        untagged = display.removesuffix(f":{DEFAULT_TAG}")
        display = f"{display}-cloud" if untagged == display else f"{untagged}:cloud"
    plain = display in {text, f"{text}:{DEFAULT_TAG}"}
    return CanonicalName(display, text if plain else display, needs_echo=not plain)


def _split_source(text: str) -> tuple[str, str]:
    """Cut a source suffix (`:local`, `:cloud`, `-cloud` in the tag) off: the rest and which one it was."""
    base, colon, suffix = text.rpartition(":")
    suffix = suffix.strip(_SPACE).lower()
    if not colon:
        return text, ""
    if suffix in {"cloud", "local"}:
        return base, suffix
    if suffix.endswith("-cloud") and "/" not in suffix:
        return f"{base}:{suffix.removesuffix('-cloud')}", "cloud"
    return text, ""


def _display(text: str) -> str | None:
    """Return the canonical short form of a name without source suffix, None if it breaks the grammar."""
    if not text.isascii():
        return None
    text = text.lower()
    tag = DEFAULT_TAG
    if text.rfind(":") > text.rfind("/"):
        text, _, tag = text.rpartition(":")
    rest, slash, model = text.rpartition("/")
    namespace, host = DEFAULT_NAMESPACE, DEFAULT_HOST
    if slash:
        rest, slash, namespace = rest.rpartition("/")
        if slash:
            scheme, mark, host = rest.rpartition("://")
            if scheme not in _SCHEMES or (mark and not scheme):
                return None
    valid = (
        _PART.fullmatch(tag)
        and _PART.fullmatch(model)
        and _NAMESPACE.fullmatch(namespace)
        and _HOST.fullmatch(host)
    )
    if not valid:
        return None
    if host != DEFAULT_HOST:
        return f"{host}/{namespace}/{model}:{tag}"
    if namespace != DEFAULT_NAMESPACE:
        return f"{namespace}/{model}:{tag}"
    return f"{model}:{tag}"


def normal_pattern(text: str) -> str | None:
    """Return the form in which a grant's pattern is compared, None if it can never match.

    A pattern without `*` and `?` is a name and follows the canonical algorithm: `llama3` means
    `llama3:latest`. In a glob `*` stands for any run of characters (`/` and `:` included) and `?` for one; it
    is compared with the canonical display form, and, if it names no tag, also as if it ended in `:latest`. So
    `qwen*` covers every size of every model whose name starts that way, and `llama?` covers `llama3:latest`
    but not `llama3:70b`.
    """
    if len(text) > MAX_NAME_CHARS:
        return None
    text = text.strip(_SPACE).lower()
    if "*" not in text and "?" not in text:
        name = canonical(text)
        return name.display if name is not None else None
    return text if re.fullmatch(r"[a-z0-9_.:/*?-]+", text) else None


def matches(pattern: str, name: CanonicalName) -> bool:
    """Tell whether one grant pattern covers a model (see `normal_pattern` for the rules)."""
    return RightsMatcher(Rights(patterns=(pattern,))).permits(name)


class RightsMatcher:
    """One level of rights, compiled: build it once per principal; exact names then cost one look-up.

    Patterns that can never match are ignored: a damaged grant grants nothing.
    """

    __slots__ = ("_all", "_exact", "_globs")

    def __init__(self, rights: Rights) -> None:
        patterns = {normal for pattern in rights.patterns if (normal := normal_pattern(pattern)) is not None}
        globs = sorted(pattern for pattern in patterns if "*" in pattern or "?" in pattern)
        self._all = rights.allow_all_models
        self._exact = frozenset(patterns.difference(globs))
        self._globs = tuple(_compile_glob(pattern) for pattern in globs)

    def permits(self, name: CanonicalName) -> bool:
        """Tell whether this level grants the model."""
        return (
            self._all
            or name.display in self._exact
            or any(glob.fullmatch(name.display) is not None for glob in self._globs)
        )


class ModelRights:
    """What one principal may use: its key's rights, always within its tenant's.

    `key_rights` None inherits the tenant's; a key that allows all models gets all of the tenant's; a key with
    `allow_all_models` false gets what its own patterns name, so none without patterns.
    """

    __slots__ = ("_key", "_tenant")

    def __init__(self, tenant_rights: Rights, key_rights: Rights | None) -> None:
        self._tenant = RightsMatcher(tenant_rights)
        self._key = RightsMatcher(key_rights) if key_rights is not None else None

    def permit(self, name: CanonicalName) -> bool:
        """Tell whether the principal may use the model."""
        return self._tenant.permits(name) and (self._key is None or self._key.permits(name))


def _compile_glob(pattern: str) -> re.Pattern[str]:
    """Compile a glob for display forms, which lack the default host and namespace a glob may spell out."""
    within = ""
    if pattern.startswith(f"{DEFAULT_HOST}/"):
        pattern, within = pattern.removeprefix(f"{DEFAULT_HOST}/"), _AT_MOST_NAMESPACE
    if pattern.startswith(f"{DEFAULT_NAMESPACE}/"):
        pattern, within = pattern.removeprefix(f"{DEFAULT_NAMESPACE}/"), _NO_NAMESPACE
    expression = _glob_expression(pattern)
    if ":" not in pattern.rpartition("/")[2]:
        expression = f"(?:{expression}|{_glob_expression(f'{pattern}:{DEFAULT_TAG}')})"
    return re.compile(within + expression)


def _glob_expression(pattern: str) -> str:
    """Translate a glob so that matching stays linear: a run between stars keeps its first place for good."""
    head, *runs = (re.escape(run).replace(r"\?", ".") for run in re.split(r"\*+", pattern))
    if not runs:
        return head
    middle = "".join(f"(?>.*?{run})" for run in runs[:-1])
    return f"{head}{middle}.*{runs[-1]}"
