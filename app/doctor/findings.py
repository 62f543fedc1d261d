"""What an examination can find, why it matters, and what to do about it."""

from enum import StrEnum
from typing import Final, NamedTuple

import msgspec


class Level(StrEnum):
    """How bad a finding is. error: something does not work, or is open to others. note: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class FindingKind(StrEnum):
    """The names stay: scripts read them."""

    SETTINGS_INVALID = "settings-invalid"
    PEPPER_WEAK = "pepper-weak"
    STORE_GUESSABLE = "store-guessable"
    UNENCRYPTED = "unencrypted"
    PROXIES_TOO_WIDE = "proxies-too-wide"
    PROXY_UNRESOLVED = "proxy-unresolved"
    ORIGIN_UNENCRYPTED = "origin-unencrypted"
    PATH_KEYS_ON = "path-keys-on"
    METRICS_CLOSED = "metrics-closed"
    METRICS_GUESSABLE = "metrics-guessable"
    ADMIN_EXPOSED = "admin-exposed"
    DATABASE_UNUSABLE = "database-unusable"
    DATABASE_REVISION = "database-revision"
    REDIS_UNUSABLE = "redis-unusable"
    REDIS_EVICTS = "redis-evicts"
    CLOCK_SKEW = "clock-skew"
    TABLE_MISSING = "table-missing"
    TABLE_OLD = "table-old"
    BACKENDS_DIFFER = "backends-differ"
    BACKEND_DOWN = "backend-down"
    BACKEND_DRAINED = "backend-drained"
    BACKEND_OUTDATED = "backend-outdated"
    BACKEND_VERSION_UNKNOWN = "backend-version-unknown"
    DIGEST_SKEW = "digest-skew"
    MODEL_MISSING = "model-missing"
    CLOUD_MODEL_MISSING = "cloud-model-missing"
    COLD_LOADS = "cold-loads"


class Explanation(NamedTuple):
    """Sentences for an operator: why a finding matters, and what to do."""

    why: str
    remedy: str


EXPLANATIONS: Final = {
    FindingKind.SETTINGS_INVALID: Explanation(
        "`serve` refuses to start with this setting.",
        "Correct it; .env.sample documents every variable, and `neuronetz-gateway config check` repeats this check.",
    ),
    FindingKind.PEPPER_WEAK: Explanation(
        "Key digests are only as hard to search as the pepper is to guess.",
        "Put a random pepper in front of this one (`id:base64,id:base64`): keys move to it as they are used."
        " `openssl rand -base64 32` makes one.",
    ),
    FindingKind.STORE_GUESSABLE: Explanation(
        "Whoever reaches the store can guess its password, and then owns every tenant.",
        "Change the password in the store and in the address.",
    ),
    FindingKind.UNENCRYPTED: Explanation(
        "Whoever sees the traffic in between reads passwords, tokens, prompts and answers.",
        "Use https:// for backends, rediss:// for Redis and ?sslmode=verify-full for Postgres, or a network that"
        " nobody else is on.",
    ),
    FindingKind.PROXIES_TOO_WIDE: Explanation(
        "Any client can forge its address with X-Forwarded-For, and so pass the networks that keys are bound to.",
        "Name in GATEWAY_TRUSTED_PROXIES only the proxies themselves.",
    ),
    FindingKind.PROXY_UNRESOLVED: Explanation(
        "A proxy without an address is not trusted: all its clients then seem to come from the proxy's own address.",
        "Correct the name in GATEWAY_TRUSTED_PROXIES or the resolver; run this where the gateway runs, names of"
        " containers mean nothing elsewhere.",
    ),
    FindingKind.ORIGIN_UNENCRYPTED: Explanation(
        "Whoever sits between a browser and that page can put a script into it, which then calls with the user's key.",
        "Serve the page by https and name that origin in GATEWAY_CORS_ORIGINS.",
    ),
    FindingKind.PATH_KEYS_ON: Explanation(
        "Keys in paths stay in the logs of proxies and the histories of browsers.",
        "Set GATEWAY_PATH_KEYS=false once no client needs it (docs/clients.md).",
    ),
    FindingKind.METRICS_CLOSED: Explanation(
        "Without a token /metrics answers nobody, so nobody is told when something breaks.",
        "Set GATEWAY_METRICS_TOKEN and give it to Prometheus, or leave `ops` out of GATEWAY_SURFACES.",
    ),
    FindingKind.METRICS_GUESSABLE: Explanation(
        "A short token can be guessed; metrics name tenants' models and backends.",
        "Use 32 random characters; `neuronetz-gateway init` makes such a token.",
    ),
    FindingKind.ADMIN_EXPOSED: Explanation(
        "Whoever may call as a tenant may also try admin keys.",
        "Leave `admin` out of GATEWAY_SURFACES here, and serve it by a process that only operators can reach.",
    ),
    FindingKind.DATABASE_UNUSABLE: Explanation(
        "Without Postgres no new key can be proven, nothing can be changed, and usage waits in journals.",
        "Start it, or correct DATABASE_URL.",
    ),
    FindingKind.DATABASE_REVISION: Explanation(
        "The tables are not those of this release.", "Run `neuronetz-gateway migrate`."
    ),
    FindingKind.REDIS_UNUSABLE: Explanation(
        "Without Redis limits are only estimated, models are not found after a restart, and jobs stand still.",
        "Start it, or correct REDIS_URL.",
    ),
    FindingKind.REDIS_EVICTS: Explanation(
        "A full Redis would throw away counters of limits, usage on its way to the ledger, and jobs, in silence.",
        "Set `maxmemory-policy noeviction` in Redis, and a maxmemory that it never reaches.",
    ),
    FindingKind.CLOCK_SKEW: Explanation(
        "Keys expire, quotas begin and usage is dated by clocks that have to agree.",
        "Let every machine follow the same time servers (chrony, systemd-timesyncd).",
    ),
    FindingKind.TABLE_MISSING: Explanation(
        "Without a model table every request for a model gets a 503.",
        "Start the worker; it writes the table within seconds. Its log says what keeps it.",
    ),
    FindingKind.TABLE_OLD: Explanation(
        "No worker polls the backends: new models are not found, and usage does not reach the ledger.",
        "Start the worker. If MODEL_DISCOVERY_INTERVAL_SECONDS is longer than this, all is well.",
    ),
    FindingKind.BACKENDS_DIFFER: Explanation(
        "App and worker have to know the same backends: one that only one of them knows serves nothing.",
        "Give both the same OLLAMA_BACKENDS and restart them.",
    ),
    FindingKind.BACKEND_DOWN: Explanation(
        "Its models are served by other backends, or not at all.",
        "`neuronetz-gateway probe-ollama` asks it now and says what goes wrong.",
    ),
    FindingKind.BACKEND_DRAINED: Explanation(
        "It gets no new requests until somebody lets it back in.",
        "`backends list` says who drained it and why; `backends undrain` lets it back in.",
    ),
    FindingKind.BACKEND_OUTDATED: Explanation(
        "Releases below the floor have known holes that requests or models can reach, up to reading its memory.",
        "Update Ollama on that machine.",
    ),
    FindingKind.BACKEND_VERSION_UNKNOWN: Explanation(
        "It cannot be told whether it has the fixes of known holes; WebP images are refused for its models.",
        "Run a release of Ollama rather than a build from source.",
    ),
    FindingKind.DIGEST_SKEW: Explanation(
        "Answers depend on which backend serves; embeddings are served by those with the first backend's digest alone.",
        "`ollama pull` it on the backends that are behind, or give the versions different names.",
    ),
    FindingKind.MODEL_MISSING: Explanation(
        "Requests for it get the same 403 as a model that was never granted.",
        "Pull the model on a backend, or take the grant back with `models disallow`.",
    ),
    FindingKind.CLOUD_MODEL_MISSING: Explanation(
        "Requests for it get the same 403 as a model that was never granted; prompts to such a model would leave"
        " your machines.",
        "Set allow_cloud for a backend that lists the model (OLLAMA_BACKENDS), or take the grant back with"
        " `models disallow`.",
    ),
    FindingKind.COLD_LOADS: Explanation(
        "The backend spends its time loading the model again and again, and clients wait for it.",
        "Let fewer models share that backend (OLLAMA_MAX_LOADED_MODELS, a backend of its own), keep the model loaded"
        " longer (`policies set keep_alive`), and pin num_ctx: each change of it loads anew (docs/policies.md).",
    ),
}


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong, or worth knowing.

    Attributes
    ----------
    where
        A variable, a store, a backend, a model.
    what
        A sentence; it never holds a secret.
    """

    kind: FindingKind
    level: Level
    where: str
    what: str

    @property
    def explanation(self) -> Explanation:
        """Why it matters and what to do."""
        return EXPLANATIONS[self.kind]
