"""What changed between two price tables: models that came and went, and every rate that is another one now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from policyd.columns import aligned
from policyd.core.pricing import Rate
from policyd.pricelist.rates import ShownTier, rates_text, shown_rate, shown_tiers
from policyd.prices.table import ForModels, Model, Prices, Provider, Table, Variant, dated_rates

NONE = "none"
LISTED = "listed"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs; `none` for what the other table does not have."""

    what: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model that one table has and the other has not, and the last of its prices there."""

    provider: str
    model: str
    tiers: tuple[ShownTier, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    provider: str
    model: str
    """Empty for what is said of the provider itself."""
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Differences:
    old: str
    new: str
    """The sources of the two tables."""
    added: tuple[ListedModel, ...]
    removed: tuple[ListedModel, ...]
    changed: tuple[Changed, ...]


_REORDERED = Change("order of what is listed", "one", "another")


def differences(old: Table, new: Table) -> Differences:
    """What `new` says otherwise than `old`."""
    before, after = _models(old), _models(new)
    providers_before, providers_after = _providers(old), _providers(new)
    changes = [
        *(
            Changed(id_, "", _changes(_said_of_provider(providers_before[id_]), _said_of_provider(provider)))
            for id_, provider in providers_after.items()
            if id_ in providers_before
        ),
        *(
            Changed(*key, _changes(_said(before[key]), _said(model)) or (_REORDERED,))
            for key, model in after.items()
            if key in before and before[key] != model
        ),
    ]
    return Differences(
        old=old.source,
        new=new.source,
        added=tuple(_listed(key, model) for key, model in after.items() if key not in before),
        removed=tuple(_listed(key, model) for key, model in before.items() if key not in after),
        changed=tuple(sorted((each for each in changes if each.changes), key=lambda each: (each.provider, each.model))),
    )


Key = tuple[str, str]
"""A provider and a model."""


def _models(table: Table) -> Mapping[Key, Model]:
    return {(provider.id, model.id): model for provider in table.providers for model in provider.models}


def _providers(table: Table) -> Mapping[str, Provider]:
    return {provider.id: provider for provider in table.providers}


def _listed(key: Key, model: Model) -> ListedModel:
    return ListedModel(*key, shown_tiers(dated_rates(model.prices[-1]).tiers))


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Change, ...]:
    return tuple(
        Change(what, old.get(what, NONE), new.get(what, NONE))
        for what in dict.fromkeys((*old, *new))
        if old.get(what) != new.get(what)
    )


def _said_of_provider(provider: Provider) -> Mapping[str, str]:
    lists = {"urls": provider.urls, "fallbacks": provider.fallbacks}
    said = {what: ", ".join(listed) for what, listed in lists.items() if listed}
    said |= {f"premium{_about(premium)}": f"{premium.percent} %" for premium in provider.premiums}
    for fees in provider.fees:
        said |= {f"fee {kind}{_about(fees)}": shown_rate(kind, Rate(*rate)).text for kind, rate in fees.rates.items()}
    return said


def _about(charged: ForModels) -> str:
    """On which terms, and for which models."""
    on = [f"{name}={value}" for name, value in charged.terms.items()]
    of = [msgspec.json.encode(pattern).decode() for pattern in charged.models]
    return "".join(f" {part}" for part in (*on, *of))


def _said(model: Model) -> Mapping[str, str]:
    """Everything that a table says of a model, each under a name of its own."""
    return dict(_sayings(model))


def _sayings(model: Model) -> Iterator[tuple[str, str]]:
    for prices in (*model.prices, *model.variants):
        when = _when(prices)
        for tier in shown_tiers(dated_rates(prices).tiers):
            above = f" above {tier.above_input_tokens}" if tier.above_input_tokens else ""
            for rate in tier.rates:
                yield f"{rate.kind}{above}{when}", rate.text
    if model.source:
        yield "source", model.source
    if model.context_tokens_max is not None:
        yield "context_tokens_max", str(model.context_tokens_max)
    for name in model.names:
        yield f"name {name}", LISTED
    for pattern in model.patterns:
        yield f"pattern {msgspec.json.encode(pattern).decode()}", LISTED


def _when(prices: Prices) -> str:
    parts = [f"{name}={value}" for name, value in prices.terms.items()] if isinstance(prices, Variant) else []
    if prices.since is not None:
        parts.append(f"since {prices.since}")
    if prices.daily is not None:
        parts.append(f"{prices.daily[0]:%H:%M} to {prices.daily[1]:%H:%M} UTC")
    return "".join(f" {part}" for part in parts)


def differences_text(told: Differences) -> str:
    counts = ", ".join(
        f"{len(models)} {what}"
        for what, models in (("added", told.added), ("removed", told.removed), ("changed", told.changed))
    )
    lines = [f"{told.old} -> {told.new}: {counts}"]
    for what, models in (("added", told.added), ("removed", told.removed)):
        if models:
            listed = [(each.provider, each.model, rates_text(each.tiers)) for each in models]
            lines += ["", what, *aligned(listed, indent="  ")]
    if told.changed:
        changes = [
            (each.provider, each.model, change.what, f"{change.old} -> {change.new}")
            for each in told.changed
            for change in each.changes
        ]
        lines += ["", "changed", *aligned(changes, indent="  ")]
    return "\n".join(lines)
