"""The policy file: `policyd.yaml` in, `policyd.core.policy.Policy` out.

Every mistake of a file is reported at once, each with its line, its place, what was found and what was expected.
Defaults are those of the policy's own types.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from policyd.config import shapes, values
from policyd.config.anomalies_section import ANOMALY_SHAPE, read_anomalies
from policyd.config.conditions import Known
from policyd.config.degraded_section import DEGRADED_SHAPE, read_lease_percent
from policyd.config.identity_section import IDENTITY_SHAPE, read_identity
from policyd.config.limits_section import LIMIT_SHAPE, read_limits
from policyd.config.matching import Attributes
from policyd.config.model_groups_section import MODEL_GROUPS_SHAPE, read_model_groups
from policyd.config.prices_section import PRICE_SHAPE, read_prices
from policyd.config.problems import Mistake, Position, Problems
from policyd.config.reservations_section import RESERVATIONS_SHAPE, read_reservations
from policyd.config.rules_section import RULE_DEFINITIONS, RULE_SHAPE, read_rules
from policyd.config.section import Section
from policyd.config.shapes import Key
from policyd.config.tiers_section import TIERS_SHAPE, TierAmounts, check_source, read_default_tier, read_tiers
from policyd.config.unknown_model_section import UNKNOWN_MODEL_SHAPE, read_unknown_model
from policyd.config.values import choice, expected
from policyd.config.yaml_tree import FILE_BYTES_MAX, Kind, ListTree, MappingTree, Scalar, Tree, parse_yaml
from policyd.core.anomalies import Anomaly
from policyd.core.attributes import REQUEST_ATTRIBUTES, Identity, Place
from policyd.core.errors import ConfigError
from policyd.core.grouping import MODEL_GROUP, TIER, Grouping, Tiers
from policyd.core.own_prices import OwnPrices
from policyd.core.policy import (
    ApiKeys,
    FailureMode,
    Limit,
    OnDisconnect,
    Policy,
    ProviderKeys,
    Unbounded,
    UnknownEndpoint,
    default_policy,
)
from policyd.core.rules import Rule

VERSION = 1

POLICY_KEYS = {
    "version": Key({"const": VERSION}, "The version of the file's form."),
    "identity": Key(IDENTITY_SHAPE, "Where attributes are taken from; replaces the default sources as a whole."),
    "model_groups": Key(MODEL_GROUPS_SHAPE, "Models under one name: the attribute model_group."),
    "tiers": Key(TIERS_SHAPE, "By tier the amounts of limits that say by_tier."),
    "default_tier": Key(shapes.TEXT, "The tier of requests that have none; left out: they are refused."),
    "strict": Key(shapes.BOOLEAN, "Whether a request that lacks an attribute which a limit counts per is refused."),
    "api_keys": Key(shapes.choice(ApiKeys), "Whether requests come with an API key of policyd's own."),
    "provider_keys": Key(
        shapes.choice(ProviderKeys), "Whose requests go upstream with the provider's key from the secret file."
    ),
    "prices": Key(shapes.items(PRICE_SHAPE, least=0), "What models cost; these come before the published prices."),
    "unknown_model": Key(UNKNOWN_MODEL_SHAPE, "What becomes of a request for a model without a price."),
    "unknown_endpoint": Key(shapes.choice(UnknownEndpoint), "Whether what policyd cannot price passes, unmetered."),
    "unbounded": Key(shapes.choice(Unbounded), "What becomes of a request that gives no maximum for its output."),
    "default_max_output_tokens": Key(shapes.whole_number(1), "The maximum that such a request is held for, or gets."),
    "failure_mode": Key(shapes.choice(FailureMode), "Whether requests pass when policyd cannot decide."),
    "degraded": Key(DEGRADED_SHAPE, "What is set aside for an outage of the store, with failure_mode: degraded."),
    "on_disconnect": Key(shapes.choice(OnDisconnect), "What a client that hangs up is charged."),
    "reservations": Key(RESERVATIONS_SHAPE, "How long holds live, and how long their ends are remembered."),
    "limits": Key(shapes.items(LIMIT_SHAPE, least=0), "What may be spent, by whom, in which time."),
    "anomalies": Key(shapes.items(ANOMALY_SHAPE, least=0), "What looks wrong, whatever the budgets; before all rules."),
    "rules": Key(shapes.items(RULE_SHAPE, least=0), "What limits cannot say; the first that allows or denies decides."),
}


def policy_schema() -> Mapping[str, Any]:
    """The file's form as JSON Schema, for editors. It sees one value at a time: `parse_policy` finds more."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "policyd policy file",
        **shapes.record(POLICY_KEYS, required=("version", "limits")),
        "$defs": RULE_DEFINITIONS,
    }


def load_policy(path: Path) -> Policy:
    """The policy in the file at `path`. Raises `ConfigError` with every mistake in it, or if it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_policy(content, source=str(path))


def open_policy(path: Path | None) -> Policy:
    """The policy in the file at `path`, or what applies without one. Raises `ConfigError`."""
    return load_policy(path) if path is not None else default_policy()


def parse_policy(content: str | bytes, *, source: str) -> Policy:
    """The policy that `content` describes. `source` is how messages name the file.

    Raises `ConfigError` with every mistake in it, in the file's order.
    """
    problems = Problems(source)
    tree = problems.attempt("", _document, content, MappingTree(Position(1, 1), ()))
    problems.raise_if_any()
    policy = _policy(Section(tree, path="", keys=POLICY_KEYS, problems=problems))
    problems.raise_if_any()
    return replace(policy, revision=_revision(policy))


def _document(content: str | bytes) -> MappingTree:
    tree = parse_yaml(content)
    if tree is None:
        raise Mistake(Position(1, 1), f'the file is empty, expected "version: {VERSION}" and "limits: ..."')
    return values.mapping(f"version: {VERSION}")(tree)


def _revision(policy: Policy) -> str:
    """Of what the policy says, not how: comments, the order of keys and `10` for `10.00` make no difference."""
    return sha256(json.dumps(_plain(policy), sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        said = {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.compare}
        return {"type": type(value).__name__, **said}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _policy(section: Section) -> Policy:
    defaults = default_policy()
    section.require("version", _version, VERSION, expectation=f"version: {VERSION}")
    identity = _identity(section, defaults.identity)
    tiers = read_tiers(section)
    grouping = Grouping(read_model_groups(section), Tiers(tiers.names, read_default_tier(section, tiers)))
    if tiers.names and identity is not None:
        check_source(section, identity, default_tier=grouping.tiers.default)
    attributes = _attributes(identity, grouping)
    limits = _limits(section, attributes, tiers)
    # A word that cannot be read is one mistake, and not that keys are off besides.
    api_keys = section.read("api_keys", choice(ApiKeys), ApiKeys.OPTIONAL) if "api_keys" in section else ApiKeys.OFF
    if api_keys is ApiKeys.OFF and identity is not None and identity.reads(Place.API_KEY):
        section.reject("identity", "a source is an api_key, and api_keys is off; expected optional or required")
    return Policy(
        api_keys=api_keys,
        provider_keys=section.read("provider_keys", choice(ProviderKeys), defaults.provider_keys),
        identity=defaults.identity if identity is None else identity,
        grouping=grouping,
        limits=limits,
        rules=_rules(section, Known(attributes, limits)),
        anomalies=_anomalies(section, attributes),
        strict=section.read("strict", values.boolean, defaults.strict),
        prices=_prices(section),
        unknown_model=read_unknown_model(section, defaults.unknown_model),
        unknown_endpoint=section.read("unknown_endpoint", choice(UnknownEndpoint), defaults.unknown_endpoint),
        unbounded=section.read("unbounded", choice(Unbounded), defaults.unbounded),
        default_max_output_tokens=section.read(
            "default_max_output_tokens", values.whole_number(1), defaults.default_max_output_tokens
        ),
        failure_mode=section.read("failure_mode", choice(FailureMode), defaults.failure_mode),
        lease_percent=read_lease_percent(section, defaults.lease_percent),
        on_disconnect=section.read("on_disconnect", choice(OnDisconnect), defaults.on_disconnect),
        reservations=read_reservations(section, defaults.reservations),
    )


def _version(tree: Tree) -> int:
    if not isinstance(tree, Scalar) or tree.kind is not Kind.NUMBER or tree.text != str(VERSION):
        raise expected(tree, str(VERSION))
    return VERSION


def _identity(section: Section, default: Identity) -> Identity | None:
    """The identity sources, which replace the default ones as a whole; `None` if the file has something else there."""
    if "identity" not in section:
        return default
    tree = section.read("identity", values.mapping("{user: [{header: x-policyd-user}]}"), None)
    if tree is None:
        return None
    return read_identity(tree, path=section.path_of("identity"), problems=section.problems)


def _attributes(identity: Identity | None, grouping: Grouping) -> Attributes:
    known: dict[str, Sequence[str]] = {}
    if grouping.tiers.names:
        known[TIER] = grouping.tiers.names
    if grouping.models.groups:
        known[MODEL_GROUP] = tuple(group.name for group in grouping.models.groups)
    if identity is None:
        return Attributes(None, known)
    return Attributes(tuple(dict.fromkeys((*identity.sources, *REQUEST_ATTRIBUTES, *known))), known)


def _limits(section: Section, attributes: Attributes, tiers: TierAmounts) -> tuple[Limit, ...]:
    tree = section.require("limits", _list_of_limits, None, expectation="a list of limits, or [] for none")
    if tree is None:
        return ()
    limits = read_limits(
        tree, path=section.path_of("limits"), attributes=attributes, tiers=tiers, problems=section.problems
    )
    tiers.report_unasked(section.problems)
    return limits


def _rules(section: Section, known: Known) -> tuple[Rule, ...]:
    tree = section.read("rules", _list_of_rules, None)
    if tree is None:
        return ()
    return read_rules(tree, path=section.path_of("rules"), known=known, problems=section.problems)


def _anomalies(section: Section, attributes: Attributes) -> tuple[Anomaly, ...]:
    tree = section.read("anomalies", _list_of_anomalies, None)
    if tree is None:
        return ()
    return read_anomalies(tree, path=section.path_of("anomalies"), attributes=attributes, problems=section.problems)


def _list_of_anomalies(tree: Tree) -> ListTree:
    if not isinstance(tree, ListTree):
        raise expected(tree, "a list such as [{name: loop, per: [session], repeats: 5, action: deny}]")
    return tree


def _list_of_rules(tree: Tree) -> ListTree:
    if not isinstance(tree, ListTree):
        raise expected(tree, 'a list such as [{name: no-previews, when: {match: {model: "*-preview"}}, action: deny}]')
    return tree


def _list_of_limits(tree: Tree) -> ListTree:
    # Having no limits is legal, and has to be said: a policy that forgets them must not pass for one that wants none.
    if not isinstance(tree, ListTree):
        raise expected(tree, "a list of limits, or [] for none")
    return tree


def _prices(section: Section) -> OwnPrices:
    tree = section.read("prices", _list_of_prices, None)
    if tree is None:
        return OwnPrices()
    return read_prices(tree, path=section.path_of("prices"), problems=section.problems)


def _list_of_prices(tree: Tree) -> ListTree:
    if not isinstance(tree, ListTree):
        raise expected(tree, 'a list such as [{model: "my-llama*", usd_per_million: {input: 0.20, output: 0.60}}]')
    return tree
