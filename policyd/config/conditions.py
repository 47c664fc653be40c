"""`when` of a rule: the conditions under which it fires."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from policyd.config import shapes, values
from policyd.config.caps import amount_of, amount_shape
from policyd.config.expressions import LENGTH_MAX, PERCENT_MAX, ExpressionWrong, Vocabulary, compile_expression
from policyd.config.matching import MATCH_KEY, Attributes, read_globs, read_match
from policyd.config.problems import Mistake, Problems, did_you_mean, one_of
from policyd.config.section import Section, unique_entries
from policyd.config.shapes import Key, Schema
from policyd.config.values import expected, found
from policyd.config.yaml_tree import MappingTree, Tree
from policyd.core.grouping import TIER
from policyd.core.policy import Limit, Match, Metric
from policyd.core.rules import (
    ALWAYS,
    ESTIMATED,
    AllOf,
    AnyOf,
    Condition,
    EstimateReaches,
    Matches,
    Not,
    UsageAbsolute,
    UsagePercent,
)

_EXAMPLE = "{usage_percent: {daily-spend: 80}}"


@dataclass(frozen=True, slots=True)
class Known:
    """What conditions can be about."""

    attributes: Attributes
    limits: Sequence[Limit]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """By the name of a limit what it counts."""
        return {limit.name: limit.metric for limit in self.limits}


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of condition: what reads it, and what its key looks like."""

    read: Callable[[Section, str, Known], Condition]
    key: Key


def read_when(section: Section, known: Known) -> Condition:
    """The condition of a rule; left out: every request."""
    if "when" not in section:
        return ALWAYS
    return _condition(section["when"], path=section.path_of("when"), known=known, problems=section.problems)


def _condition(tree: Tree, *, path: str, known: Known, problems: Problems) -> Condition:
    """A mapping with conditions, all of which have to hold."""
    entries = problems.attempt(path, _entries, tree, None)
    if entries is None:
        return ALWAYS
    section = Section(entries, path=path, keys=CONDITION_KEYS, problems=problems)
    read = [kind.read(section, key, known) for key, kind in _KINDS.items() if key in section]
    return read[0] if len(read) == 1 else AllOf(tuple(read))


def _entries(tree: Tree) -> MappingTree:
    entries = values.mapping(_EXAMPLE)(tree)
    if not entries.entries:
        raise Mistake(tree.at, f"found an empty mapping, expected a condition such as {_EXAMPLE}")
    return entries


def _match(section: Section, key: str, known: Known) -> Condition:
    return Matches(read_match(section, known.attributes))


def _tier_match(section: Section, key: str, known: Known) -> Condition:
    path, tiers = section.path_of(key), known.attributes.values.get(TIER)
    return Matches(Match({TIER: read_globs(section[key], path=path, problems=section.problems, known=tiers)}))


def _estimate(section: Section, key: str, known: Known) -> Condition:
    amounts = _thresholds(section, key, "{cost_usd: 0.50}", names=ESTIMATED, metric_of=Metric)
    return EstimateReaches({Metric(name): amount for name, amount in amounts.items()})


def _usage_percent(section: Section, key: str, known: Known) -> Condition:
    return UsagePercent(_thresholds(section, key, "{daily-spend: 80}", names=tuple(known.metrics)))


def _usage_absolute(section: Section, key: str, known: Known) -> Condition:
    metrics = known.metrics
    return UsageAbsolute(
        _thresholds(section, key, "{daily-spend: 8.00}", names=tuple(metrics), metric_of=metrics.__getitem__)
    )


def _thresholds(
    section: Section,
    key: str,
    example: str,
    *,
    names: Sequence[str],
    metric_of: Callable[[str], Metric] | None = None,
) -> dict[str, int]:
    """What each of the `names` has to reach: an amount of its metric, or percent where it has none."""
    path, problems = section.path_of(key), section.problems
    tree = section.read(key, values.mapping(example), None)
    thresholds: dict[str, int] = {}
    for name, value in unique_entries(tree, path=path, problems=problems).items() if tree is not None else ():
        if name.text not in names:
            hint = did_you_mean(name.text, names)
            expectation = one_of(names) if names else "the name of a limit, of which there are none"
            problems.add(name.at, path, f"found {found(name)}, expected {expectation}{hint}")
            continue
        parse = _percent if metric_of is None else partial(amount_of, metric_of(name.text))
        thresholds[name.text] = problems.attempt(f"{path}.{name.text}", parse, value, 0)
    return thresholds


def _percent(tree: Tree) -> int:
    try:
        return values.whole_number(1, PERCENT_MAX)(tree)
    except Mistake:
        raise expected(tree, f"whole percent such as 80, from 1 to {PERCENT_MAX}") from None


def _several(
    combine: Callable[[tuple[Condition, ...]], Condition],
) -> Callable[[Section, str, Known], Condition]:
    def read(section: Section, key: str, known: Known) -> Condition:
        path = section.path_of(key)
        trees = section.read(key, values.items("[{tier_match: free}, {estimate: {cost_usd: 0.50}}]"), ())
        return combine(
            tuple(
                _condition(tree, path=f"{path}[{index}]", known=known, problems=section.problems)
                for index, tree in enumerate(trees)
            )
        )

    return read


def _not(section: Section, key: str, known: Known) -> Condition:
    return Not(_condition(section[key], path=section.path_of(key), known=known, problems=section.problems))


def _cel(section: Section, key: str, known: Known) -> Condition:
    names = known.attributes.names
    written = section.read(key, values.text, None)
    if written is None or names is None:
        return ALWAYS
    try:
        return compile_expression(written, Vocabulary(names, known.metrics))
    except ExpressionWrong as wrong:
        for mistake in wrong.mistakes:
            section.problems.add(section[key].at, section.path_of(key), mistake)
        return ALWAYS


def _amounts(metrics: Sequence[Metric]) -> Schema:
    return shapes.record({metric: Key(amount_shape(metric), f"This many {metric}, or more.") for metric in metrics})


_CONDITION: Schema = {"$ref": "#/$defs/condition"}
_CONDITIONS = shapes.items(_CONDITION)
_TIERS = shapes.one_or_more(shapes.TEXT)
_PERCENT = shapes.named(shapes.whole_number(1, PERCENT_MAX), names=shapes.TEXT)
_ABSOLUTE = shapes.named(shapes.USD, names=shapes.TEXT)

_KINDS: Mapping[str, _Kind] = {
    "match": _Kind(_match, MATCH_KEY),
    "tier_match": _Kind(_tier_match, Key(_TIERS, "The request's tier is one of these.")),
    "estimate": _Kind(_estimate, Key(_amounts(ESTIMATED), "The request may come to this or more.")),
    "usage_percent": _Kind(_usage_percent, Key(_PERCENT, "So much of a limit, or more, is used or held.")),
    "usage_absolute": _Kind(_usage_absolute, Key(_ABSOLUTE, "The same in the unit of the limit.")),
    "all_of": _Kind(_several(AllOf), Key(_CONDITIONS, "All of these hold.")),
    "any_of": _Kind(_several(AnyOf), Key(_CONDITIONS, "One of these holds.")),
    "not": _Kind(_not, Key(_CONDITION, "This does not hold.")),
    "cel": _Kind(_cel, Key({**shapes.TEXT, "maxLength": LENGTH_MAX}, "This expression in CEL is true.")),
}
CONDITION_KEYS = {name: kind.key for name, kind in _KINDS.items()}
CONDITION_SHAPE = shapes.record(CONDITION_KEYS, minProperties=1)
