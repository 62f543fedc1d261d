"""`policies`: what requests of a tenant or a key may ask of the models they share with others."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from app.cli.control import control_plane
from app.cli.failure import CommandFailed, InputRefused, sentence
from app.cli.key_lines import shown_reference
from app.cli.options import COMMON, Common
from app.cli.output import Table, say, show_json, show_table
from app.cli.people import find_tenant, key_of_tenant

if TYPE_CHECKING:
    from app.cli.control.port import ControlPlane
    from domain.tenants import Tenant
    from domain.values import OptionRule

app = App(
    name="policies",
    help="""Decide which options of a request reach shared models: context size, output length, keep_alive, ...

Example: `neuronetz-gateway policies list --tenant research`
""",
)

DAMAGED = "unreadable"

Action = Literal["allow", "strip", "reject", "clamp", "set"]


class RuleLine(msgspec.Struct, frozen=True):
    """One rule as this command prints it; `key` None means all keys of the tenant, `model` None every model.

    `action` is `unreadable` for a rule that raw SQL damaged: until it is set anew, clients may not name the field.
    """

    field: str
    key: str | None
    model: str | None
    action: str
    min: int | float | str | None
    max: int | float | str | None
    value: bool | int | float | str | None


class TenantPolicies(msgspec.Struct, frozen=True):
    """The rules of one tenant and its keys; the less specific ones first."""

    tenant: str
    rules: tuple[RuleLine, ...]


@app.command(name="set")
async def set_(
    field: str,
    action: Action,
    *,
    tenant: str,
    key: str | None = None,
    model: str | None = None,
    minimum: Annotated[str | None, Parameter(name="--min")] = None,
    maximum: Annotated[str | None, Parameter(name="--max")] = None,
    value: str | None = None,
    common: Common = COMMON,
) -> None:
    """Set the rule for one field. It holds for new requests within moments; running ones are left alone.

    Per field the most specific rule decides: of a key's grant, of the key, of the tenant's grant, of the tenant,
    and last the gateway's own (docs/policies.md lists them).

    Example: `neuronetz-gateway policies set num_predict clamp --max 2048 --value 512 --tenant research`

    Parameters
    ----------
    field
        Such as num_ctx, num_predict (the output cap of every API) or keep_alive.
    action
        allow: as the client wrote it. strip: left out. reject: the request is refused. clamp: kept within
        bounds. set: replaced by --value, also where the client named none.
    tenant
        Slug of the tenant.
    key
        Prefix of one of its keys, to which alone the rule applies.
    model
        A grant, as `models list` shows it: the rule applies to its models only.
    minimum
        Smallest value of a clamp.
    maximum
        Largest value of a clamp.
    value
        What `set` sends, and `clamp` where the client names none.
    """
    rule = _rule(field, action, {"minimum": minimum, "maximum": maximum, "value": value})
    reference = None if key is None else shown_reference(key)
    async with control_plane(common) as control:
        owner = await find_tenant(control, tenant, common)
        with _sentences(owner, reference, common):
            changed = await control.policies.set(owner, field, rule, key=reference, pattern=model)
    if common.json:
        show_json({"tenant": tenant, "changed": changed, "rule": _line(field, reference, model, rule)})
        return
    where = _where(tenant, reference, model)
    if not changed:
        print(f"{where} had this rule for {field} before; nothing changed.")
        return
    print(f"{where}: {field} is now {_told(rule)}.")


@app.command
async def clear(
    field: str,
    *,
    tenant: str,
    key: str | None = None,
    model: str | None = None,
    common: Common = COMMON,
) -> None:
    """Take a rule away, so that the next less specific one decides.

    Example: `neuronetz-gateway policies clear num_predict --tenant research`

    Parameters
    ----------
    field
        The field as `policies list` shows it.
    tenant
        Slug of the tenant.
    key
        Prefix of the key that the rule is for.
    model
        The grant that the rule is for.
    """
    reference = None if key is None else shown_reference(key)
    async with control_plane(common) as control:
        owner = await find_tenant(control, tenant, common)
        with _sentences(owner, reference, common):
            changed = await control.policies.clear(owner, field, key=reference, pattern=model)
    where = _where(tenant, reference, model)
    if not changed:
        listed = common.command(f"policies list --tenant {tenant}")
        raise CommandFailed(f"{where} has no rule for {field!r}; `{listed}` shows those there are.")
    if common.json:
        show_json({"tenant": tenant, "key": reference, "model": model, "field": field, "changed": changed})
        return
    print(f"{where} has no rule for {field} any more.")


@app.command(name="list")
async def list_(*, tenant: str | None = None, key: str | None = None, common: Common = COMMON) -> None:
    """List the rules that were set, the less specific ones first. Where none stands, safe defaults hold.

    Example: `neuronetz-gateway policies list --tenant research`

    Parameters
    ----------
    tenant
        Slug of the tenant whose rules to list, its keys' included. Default: everybody's.
    key
        Prefix of one of its keys, to list what was set for that key alone.
    """
    if key is not None and tenant is None:
        raise InputRefused("Say whose key it is with --tenant.")
    reference = None if key is None else shown_reference(key)
    async with control_plane(common) as control:
        owners = (await find_tenant(control, tenant, common),) if tenant else await control.tenants.list()
        found = []
        for owner in owners:
            with _sentences(owner, reference, common):
                found.append(await _policies_of(control, owner, reference))
    if common.json:
        show_json({"tenants": found})
        return
    rows = [_row(policies.tenant, line) for policies in found for line in policies.rules]
    if not rows:
        say("No rules are set; the safe defaults hold for everybody (docs/policies.md).")
        return
    show_table(Table(("tenant", "key", "models", "field", "rule"), rows))


def _rule(field: str, action: str, parts: dict[str, str | None]) -> "OptionRule":
    from domain.option_rules import PolicyInvalid, checked_rule

    names = {"minimum": "min", "maximum": "max", "value": "value"}
    given = {names[name]: _typed(field, text) for name, text in parts.items() if text is not None}
    try:
        return checked_rule(field, {"action": action, **given})
    except PolicyInvalid as refusal:
        raise InputRefused(sentence(refusal)) from None


def _typed(field: str, text: str) -> bool | int | float | str:
    """Return what was typed as the value it stands for; what stands for none is left to the rule's own check."""
    from domain.option_rules import FIELDS, Kind

    kind = FIELDS[field].kind if field in FIELDS else Kind.TEXT
    if kind in {Kind.FLAG, Kind.EFFORT}:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in {Kind.COUNT, Kind.OUTPUT_CAP, Kind.DURATION}:
        for number in (int, float):
            with suppress(ValueError):
                return number(text)
    return text


@contextmanager
def _sentences(owner: "Tenant", reference: str | None, common: Common) -> Iterator[None]:
    """Turn what the block may be refused for into a sentence for whoever typed the command."""
    from domain.tenants import GrantUnknown, PatternInvalid

    try:
        with key_of_tenant(owner, reference, common):
            yield
    except PatternInvalid as refusal:
        raise InputRefused(sentence(refusal)) from None
    except GrantUnknown as refusal:
        listed = common.command(f"models list --tenant {owner.slug}")
        holder = _where(owner.slug, reference, None)
        raise CommandFailed(
            f"{holder} has no grant {refusal.pattern!r}, so no rule can stand there; `{listed}` shows its grants."
        ) from None


async def _policies_of(control: "ControlPlane", owner: "Tenant", reference: str | None) -> TenantPolicies:
    rules = await control.policies.list(owner, reference)
    prefixes = {key.id: key.prefix for key in await control.keys.list(owner)}
    return TenantPolicies(
        owner.slug,
        tuple(
            _line(
                found.field,
                None if found.key_id is None else prefixes[found.key_id],
                found.pattern,
                found.rule,
            )
            for found in rules
        ),
    )


def _line(field: str, key: str | None, model: str | None, rule: "OptionRule | None") -> RuleLine:
    if rule is None:
        return RuleLine(field, key, model, DAMAGED, None, None, None)
    return RuleLine(field, key, model, rule.action.value, rule.minimum, rule.maximum, rule.value)


def _row(tenant: str, line: RuleLine) -> tuple[str, ...]:
    rule = _parts(line.action, line.min, line.max, line.value)
    return tenant, line.key or "(all keys)", line.model or "(all models)", line.field, rule


def _told(rule: "OptionRule") -> str:
    return _parts(rule.action.value, rule.minimum, rule.maximum, rule.value)


def _parts(action: str, *parts: bool | float | str | None) -> str:
    given = [
        f"{name} {str(part).lower() if isinstance(part, bool) else part}"
        for name, part in zip(("min", "max", "value"), parts, strict=True)
        if part is not None
    ]
    return ", ".join([action, *given])


def _where(tenant: str, reference: str | None, model: str | None) -> str:
    holder = f"Tenant {tenant}" if reference is None else f"Key {reference} of tenant {tenant}"
    return holder if model is None else f"{holder} with {model}"
