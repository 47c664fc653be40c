"""What the arguments of a command mean. Each mistake is a `ConfigError` that names the argument."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from policyd.config.problems import Mistake, Position, did_you_mean, one_of
from policyd.config.values import DURATION_EXPECTED, parse_duration, usd_nanos, whole_number
from policyd.config.yaml_tree import Kind, Scalar
from policyd.core.attributes import REQUEST_ATTRIBUTES, check_value
from policyd.core.errors import AttributeInvalid, ConfigError
from policyd.core.grouping import MODEL_GROUP, TIER
from policyd.core.policy import Limit, Metric, Policy
from policyd.core.scopes import EVERYTHING, is_pattern, parse_scope, pattern_name, scope_name
from policyd.core.times import parse_instant

_ATTRIBUTE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def limits_named(policy: Policy, name: str) -> Sequence[Limit]:
    """The limit, or its variants for several tiers."""
    found = [limit for limit in policy.limits if limit.name == name]
    if not found:
        names = list(dict.fromkeys(limit.name for limit in policy.limits))
        known = f"expected {one_of(names)}" if names else "it has none"
        raise ConfigError(f'--limit: the policy has no limit "{name}"; {known}{did_you_mean(name, names)}')
    return found


def amount(written: str, metric: Metric) -> int:
    """An amount as the policy file takes it: USD for cost, in nano-USD; whole units for all else."""
    parse = usd_nanos if metric is Metric.COST else whole_number(0)
    try:
        return parse(Scalar(Position(1, 1), written, Kind.NUMBER))
    except Mistake as mistake:
        raise ConfigError(f"AMOUNT: {mistake.message}") from mistake


def scope_of(limit: Limit, written: str) -> str:
    """The scope, which has to name the attributes that the limit counts per, with one value each."""
    values = _values(written)
    if values.keys() != set(limit.per):
        wanted = ",".join(f"{name}=..." for name in limit.per) or EVERYTHING
        hints = (did_you_mean(name, limit.per) for name in values.keys() - set(limit.per))
        raise ConfigError(
            f'SCOPE: found "{written}", and the limit {limit.name} counts per {wanted}{next(filter(None, hints), "")}'
        )
    return scope_name({name: values[name] for name in limit.per})


def scope(written: str) -> str:
    """A scope that no limit of the policy counts."""
    return scope_name(_values(written))


def attributes(written: str) -> dict[str, str]:
    """What a key stands for: attributes with one value each, which the policy may come to read."""
    values = _values(written)
    for name, value in values.items():
        if not _ATTRIBUTE_NAME.fullmatch(name) or not value:
            raise ConfigError(
                f'SCOPE: found "{name}={value}", expected an attribute with a value, such as project=acme'
            )
    return values


def lasting_ms(option: str, written: str) -> int:
    """Milliseconds of a duration."""
    try:
        return parse_duration(written) * 1000
    except ValueError as error:
        raise ConfigError(f'{option}: found "{written}", expected {DURATION_EXPECTED}') from error


def scope_values(policy: Policy, written: str) -> dict[str, str]:
    """The attributes of a scope, one value each."""
    values = _values(written)
    _check_known(values, policy)
    return values


def pattern_scope(policy: Policy, written: str) -> str:
    """The scope of a block: attributes with exact values or patterns."""
    values = _parsed(written)
    _check_known(values, policy)
    for name, value in values.items():
        if not value:
            raise ConfigError(f"SCOPE: {name} has no value")
    return pattern_name(values)


def blocked_scope(written: str) -> str:
    """The scope of a block that stands already.

    A rule may have frozen requests without a value, and the policy may have come to know other attributes.
    """
    try:
        return pattern_name(parse_scope(written))
    except ValueError as error:
        raise ConfigError(f"SCOPE: {error}") from error


def ends_at_ms(*, until: str | None, lasting: str | None, now_ms: int) -> int | None:
    """When something ends: at an instant, or after a while; `None` if neither is given."""
    if until is not None and lasting is not None:
        raise ConfigError("--until and --for: expected one of them")
    if lasting is not None:
        length_ms = lasting_ms("--for", lasting)
        if not length_ms:
            raise ConfigError(f'--for: found "{lasting}", expected 1s or more')
        return now_ms + length_ms
    if until is None:
        return None
    at_ms = instant_ms("--until", until)
    if at_ms <= now_ms:
        raise ConfigError(f'--until: found "{until}", which is past')
    return at_ms


def instant_ms(option: str, written: str) -> int:
    try:
        return parse_instant(written)
    except ValueError as error:
        raise ConfigError(
            f'{option}: found "{written}", expected a date or an RFC 3339 instant with its offset'
        ) from error


def _values(written: str) -> dict[str, str]:
    if is_pattern(written):
        raise ConfigError(f'SCOPE: found "{written}", expected one value for each attribute (%2A stands for *)')
    return _parsed(written)


def _parsed(written: str) -> dict[str, str]:
    try:
        values = parse_scope(written)
        for name, value in values.items():
            check_value(name, value)
    except (ValueError, AttributeInvalid) as error:
        raise ConfigError(f"SCOPE: {error}") from error
    return values


def _check_known(names: Iterable[str], policy: Policy) -> None:
    known = [*policy.identity.sources, *REQUEST_ATTRIBUTES, TIER, MODEL_GROUP]
    for name in names:
        if name not in known:
            raise ConfigError(f'SCOPE: nothing sets the attribute "{name}"{did_you_mean(name, known)}')
