"""Every table, as the migrations leave it. Rows stay inside `db`; what leaves is a value of `domain`.

Constraint names are complete here (the convention adds table and kind), so that a violation names its rule.
Triggers and functions are SQL in the migrations: they must hold for writers that never load this module.
"""

from datetime import date, datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, ClassVar, Final
from uuid import UUID

from advanced_alchemy.base import CommonTableAttributes, convention
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, INET, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7

from domain.tenants import KeyStatus, TenantStatus
from domain.usage import UsageOutcome

CHANNEL: Final = "key_revoked"
"""The NOTIFY channel; its payload is the newest revocation seq in decimal."""

ROLES: Final = "role IN ('inference', 'admin')"
SLUG: Final = "slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'"

_Time = DateTime(timezone=True)


def _pg_enum(values: type[StrEnum], name: str) -> Enum:
    return Enum(values, name=name, values_callable=lambda members: [member.value for member in members])


class Base(CommonTableAttributes, DeclarativeBase):
    """Common ground of the tables: our own metadata and plain PostgreSQL types.

    Not the library's AdvancedDeclarativeBase: its registry cannot be replaced, and its JSON type does not
    work on SQLAlchemy 2.1.
    """

    metadata = MetaData(naming_convention=convention)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        UUID: Uuid(),
        str: Text(),
        bytes: LargeBinary(),
        datetime: _Time,
        dict[str, Any]: JSONB(),
        list[str]: ARRAY(Text),
    }


class _Identified(Base):
    """A row with an id of its own: time-ordered when we mint it, random when raw SQL leaves it out."""

    __abstract__ = True
    id: Mapped[UUID] = mapped_column(
        primary_key=True, default=uuid7, server_default=text("gen_random_uuid()"), sort_order=-1
    )


class _Dated(Base):
    __abstract__ = True
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=90)
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.now(), sort_order=91
    )


class TenantTable(_Identified, _Dated):
    """Owner of keys, grants, limits and usage."""

    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint(SLUG, "slug_format"),
        CheckConstraint("name <> ''", "name_present"),
        CheckConstraint("time_zone <> ''", "time_zone_present"),
    )
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    status: Mapped[TenantStatus] = mapped_column(
        _pg_enum(TenantStatus, "tenant_status"), server_default=TenantStatus.ACTIVE.value
    )
    time_zone: Mapped[str] = mapped_column(server_default="UTC")


def _limit_checks() -> tuple[CheckConstraint, ...]:
    columns = ("rpm", "tpm", "concurrency", "tokens_per_day", "tokens_per_month")
    return (
        *(CheckConstraint(f"{column} > 0", f"{column}_positive") for column in columns),
        CheckConstraint("jsonb_typeof(option_policy) = 'object'", "option_policy_object"),
    )


class _Limits(_Dated):
    """Ceilings; NULL sets none at this level."""

    __abstract__ = True
    rpm: Mapped[int | None] = mapped_column(Integer, sort_order=10)
    tpm: Mapped[int | None] = mapped_column(Integer, sort_order=11)
    concurrency: Mapped[int | None] = mapped_column(Integer, sort_order=12)
    tokens_per_day: Mapped[int | None] = mapped_column(BigInteger, sort_order=13)
    tokens_per_month: Mapped[int | None] = mapped_column(BigInteger, sort_order=14)
    option_policy: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"), sort_order=16)


class TenantLimitsTable(_Limits):
    """A tenant's ceilings, and whether every model is open to it."""

    __tablename__ = "tenant_limits"
    __table_args__ = _limit_checks()
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    allow_all_models: Mapped[bool] = mapped_column(server_default=text("false"), sort_order=15)


class ApiKeyTable(_Identified, _Dated):
    """A key as its digest. `tenant_id` is NULL for admin keys."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint(ROLES, "role_known"),
        CheckConstraint("(role = 'admin') = (tenant_id IS NULL)", "tenant_matches_role"),
        CheckConstraint("name <> ''", "name_present"),
        CheckConstraint("prefix ~ '^nnga?_[0-9A-Za-z]{8}$'", "prefix_format"),
        CheckConstraint("octet_length(digest) = 32", "digest_length"),
        CheckConstraint("pepper_id <> ''", "pepper_id_present"),
    )
    tenant_id: Mapped[UUID | None] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    role: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    pepper_id: Mapped[str]
    status: Mapped[KeyStatus] = mapped_column(
        _pg_enum(KeyStatus, "key_status"), server_default=KeyStatus.ACTIVE.value
    )
    expires_at: Mapped[datetime | None]
    allowed_networks: Mapped[list[IPv4Network | IPv6Network]] = mapped_column(
        ARRAY(CIDR), server_default=text("'{}'::cidr[]")
    )
    path_allowed: Mapped[bool] = mapped_column(server_default=text("false"))
    last_used_at: Mapped[datetime | None]
    announced_expiry: Mapped[datetime | None]  # the expiry that caches were told of, once it had come
    rotated_from: Mapped[UUID | None] = mapped_column(
        ForeignKey("api_keys.id", ondelete="SET NULL"), index=True
    )


class KeyLimitsTable(_Limits):
    """A key's own ceilings and rights; NULL inherits the tenant's."""

    __tablename__ = "key_limits"
    __table_args__ = _limit_checks()
    key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True)
    allow_all_models: Mapped[bool | None] = mapped_column(sort_order=15)


class ModelGrantTable(_Identified):
    """A tenant's or a key's right to the models a pattern names."""

    __tablename__ = "model_grants"
    __table_args__ = (
        CheckConstraint("num_nonnulls(tenant_id, key_id) = 1", "one_holder"),
        CheckConstraint("pattern <> ''", "pattern_present"),
        CheckConstraint("jsonb_typeof(option_policy) = 'object'", "option_policy_object"),
        UniqueConstraint("tenant_id", "pattern"),
        UniqueConstraint("key_id", "pattern"),
    )
    tenant_id: Mapped[UUID | None] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    key_id: Mapped[UUID | None] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    pattern: Mapped[str]
    option_policy: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UsageRecordTable(Base):
    """The ledger, one row per admitted request, one partition per month.

    No foreign keys: a row outlives its tenant and its key.
    """

    __tablename__ = "usage_records"
    __table_args__ = (
        CheckConstraint("EXTRACT(day FROM period) = 1", "period_is_a_month"),
        CheckConstraint("tokens_in >= 0 AND tokens_out >= 0 AND tokens_cached >= 0", "tokens_not_negative"),
        CheckConstraint("attempts >= 0", "attempts_not_negative"),
        Index("ix_usage_records_tenant_id_started_at", "tenant_id", "started_at"),
        Index(
            "ix_usage_records_started_at",
            "started_at",
            postgresql_using="brin",
            postgresql_with={"autosummarize": "on"},
        ),
        {"postgresql_partition_by": "RANGE (period)"},
    )
    period: Mapped[date] = mapped_column(primary_key=True)
    request_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    key_id: Mapped[UUID]
    model: Mapped[str]
    model_digest: Mapped[str]
    api_family: Mapped[str]
    route: Mapped[str]
    backend: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(SmallInteger)
    attempted_backends: Mapped[list[str]]
    outcome: Mapped[UsageOutcome] = mapped_column(_pg_enum(UsageOutcome, "usage_outcome"))
    tokens_in: Mapped[int] = mapped_column(BigInteger)
    tokens_out: Mapped[int] = mapped_column(BigInteger)
    tokens_cached: Mapped[int | None] = mapped_column(BigInteger)
    estimated: Mapped[bool]
    queue_us: Mapped[int | None] = mapped_column(BigInteger)
    load_us: Mapped[int | None] = mapped_column(BigInteger)
    prompt_us: Mapped[int | None] = mapped_column(BigInteger)
    eval_us: Mapped[int | None] = mapped_column(BigInteger)
    first_token_us: Mapped[int | None] = mapped_column(BigInteger)
    total_us: Mapped[int | None] = mapped_column(BigInteger)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    client_request_id: Mapped[str | None]


class _UsageSums(Base):
    """Sums of the ledger's rows: derived, and made again from the rows as long as these are there.

    `backend` is empty where none was tried. Spans are microseconds; what nobody measured counts as none.
    """

    __abstract__ = True
    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=1)
    key_id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=2)
    model: Mapped[str] = mapped_column(primary_key=True, sort_order=3)
    backend: Mapped[str] = mapped_column(primary_key=True, sort_order=4)
    outcome: Mapped[UsageOutcome] = mapped_column(
        _pg_enum(UsageOutcome, "usage_outcome"), primary_key=True, sort_order=5
    )
    requests: Mapped[int] = mapped_column(BigInteger, sort_order=10)
    estimated_requests: Mapped[int] = mapped_column(BigInteger, sort_order=11)
    tokens_in: Mapped[int] = mapped_column(BigInteger, sort_order=12)
    tokens_out: Mapped[int] = mapped_column(BigInteger, sort_order=13)
    tokens_cached: Mapped[int] = mapped_column(BigInteger, sort_order=14)
    load_us: Mapped[int] = mapped_column(BigInteger, sort_order=15)
    prompt_us: Mapped[int] = mapped_column(BigInteger, sort_order=16)
    eval_us: Mapped[int] = mapped_column(BigInteger, sort_order=17)
    total_us: Mapped[int] = mapped_column(BigInteger, sort_order=18)


class UsageHourlyTable(_UsageSums):
    """Sums over the requests admitted within an hour."""

    __tablename__ = "usage_hourly"
    hour: Mapped[datetime] = mapped_column(primary_key=True, sort_order=0)


class UsageDailyTable(_UsageSums):
    """Sums over the requests admitted on a day in UTC."""

    __tablename__ = "usage_daily"
    day: Mapped[date] = mapped_column(primary_key=True, sort_order=0)


class UsageTouchedHourTable(Base):
    """Marks left by a trigger: an hour whose rows changed since its sums were made. One hour has many."""

    __tablename__ = "usage_touched_hours"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    hour: Mapped[datetime] = mapped_column(index=True)


class UsagePrunedMonthTable(Base):
    """A month whose rows were dropped: its sums are all that is left, and must not be made anew."""

    __tablename__ = "usage_pruned_months"
    __table_args__ = (CheckConstraint("EXTRACT(day FROM period) = 1", "period_is_a_month"),)
    period: Mapped[date] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class BackendStateTable(Base):
    """What an operator last decided about a backend, by its name in the settings. A trigger tells the worker."""

    __tablename__ = "backend_states"
    __table_args__ = (
        CheckConstraint("name <> ''", "name_present"),
        CheckConstraint("NOT drained OR reason <> ''", "reason_present"),
        CheckConstraint("changed_by <> ''", "changed_by_present"),
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    drained: Mapped[bool]
    reason: Mapped[str]
    changed_by: Mapped[str]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AuditEventTable(_Identified):
    """Who changed what. The database refuses to change or remove a row."""

    __tablename__ = "audit_events"
    __table_args__ = (
        CheckConstraint("actor <> ''", "actor_present"),
        CheckConstraint("action <> ''", "action_present"),
        Index("ix_audit_events_subject_at", "subject", "at"),
    )
    at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    before: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    request_id: Mapped[UUID | None]
    address: Mapped[IPv4Address | IPv6Address | None] = mapped_column(INET)


class RevocationTable(Base):
    """What caches must forget, in the order of commit. Written by triggers only."""

    __tablename__ = "revocations"
    __table_args__ = (CheckConstraint("scope IN ('key', 'tenant')", "scope_known"),)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    scope: Mapped[str]
    id: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class RememberedCreationTable(Base):
    """What a request with an idempotency key created. `asker` is an admin key, which need not be there any more."""

    __tablename__ = "remembered_creations"
    __table_args__ = (CheckConstraint("octet_length(fingerprint) = 32", "fingerprint_length"),)
    asker: Mapped[UUID] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    location: Mapped[str] = mapped_column(server_default="")
    answer: Mapped[str | None]
    at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
