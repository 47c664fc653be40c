"""Attributes that the policy makes of others: a model's group, and the tier that a request counts as.

They are made before any limit is matched, so that `match` and `per` see them like all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from re import Pattern
from re import compile as compile_pattern

from policyd.core.errors import TierUnknown

MODEL_GROUP = "model_group"
TIER = "tier"


@dataclass(frozen=True, slots=True)
class ModelGroup:
    """Models under one name, by shell-style patterns."""

    name: str
    patterns: tuple[str, ...]
    _compiled: Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compiled", compile_pattern("|".join(map(translate, self.patterns))))

    def has(self, model: str) -> bool:
        return self._compiled.match(model) is not None


@dataclass(frozen=True, slots=True)
class ModelGroups:
    """All groups of a policy. A model is in the first one that it fits."""

    groups: tuple[ModelGroup, ...] = ()

    def group_of(self, model: str) -> str | None:
        return next((group.name for group in self.groups if group.has(model)), None)


@dataclass(frozen=True, slots=True)
class Tiers:
    """The tiers that limits have amounts for. Without names nothing is asked of a request's tier."""

    names: tuple[str, ...] = ()
    default: str | None = None
    """What a request counts as that has no tier, or one that is not among the names; `None`: it is refused."""

    def tier_of(self, attributes: Mapping[str, str]) -> str | None:
        """The tier that a request counts as. Raises `TierUnknown`."""
        given = attributes.get(TIER)
        if not self.names or given in self.names:
            return given
        if self.default is None:
            what = f"has the tier {given!r}, which is none" if given else "has no tier, and has to have one"
            raise TierUnknown(f"the request {what} of the policy's: {', '.join(self.names)}")
        return self.default


@dataclass(frozen=True, slots=True)
class Grouping:
    """What a policy says of models and tiers."""

    models: ModelGroups = field(default_factory=ModelGroups)
    tiers: Tiers = field(default_factory=Tiers)

    def complete(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        """`attributes` as limits see them. Raises `TierUnknown`."""
        made = {TIER: self.tiers.tier_of(attributes), MODEL_GROUP: self.models.group_of(attributes.get("model", ""))}
        given = {name: value for name, value in attributes.items() if name not in made}
        return given | {name: value for name, value in made.items() if value is not None}
