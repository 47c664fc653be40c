"""`limits:` in the policy file."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from policyd.config import shapes, values
from policyd.config.actions import ACTION_KEYS, ACTIONS_SHAPE, read_on_exceed
from policyd.config.caps import CAP_KEYS, CAPS_SHAPE, Cap, read_caps
from policyd.config.matching import MATCH_KEY, PER_KEY, Attributes, read_match, read_per
from policyd.config.pools import Pools
from policyd.config.problems import Position, Problems
from policyd.config.refusals import REFUSAL_KEYS, read_refusal, refusal_status
from policyd.config.section import Section
from policyd.config.shapes import Key
from policyd.config.tiers_section import TierAmounts
from policyd.config.values import choice
from policyd.config.yaml_tree import ListTree
from policyd.core.grouping import TIER
from policyd.core.policy import Hold, Limit, Match, Metric

LIMIT_KEYS = {
    "name": Key(shapes.NAME, "Names its accounts: a changed amount keeps what was spent, a changed name starts anew."),
    **CAP_KEYS,
    "per": PER_KEY,
    "match": MATCH_KEY,
    "pool": Key(shapes.NAME, "An account that it shares with the other limits that name this pool."),
    "hold": Key(shapes.choice(Hold), "Which side of the estimate is held; the default is maximum."),
    **ACTION_KEYS,
    **REFUSAL_KEYS,
}
LIMIT_SHAPE = shapes.record(LIMIT_KEYS, required=("name",), allOf=[CAPS_SHAPE, ACTIONS_SHAPE])


def read_limits(
    tree: ListTree, *, path: str, attributes: Attributes, tiers: TierAmounts, problems: Problems
) -> tuple[Limit, ...]:
    """The limits, in the file's order.

    One with several windows becomes as many, named `NAME/WINDOW`. One whose amount each tier has becomes one a tier,
    all of the same name.
    """
    limits: list[Limit] = []
    named: dict[str, Position] = {}
    pools = Pools()
    for index, item in enumerate(tree.items):
        item_path = f"{path}[{index}]"
        entries = problems.attempt(item_path, values.mapping("{name: ..., requests: ...}"), item, None)
        if entries is None:
            continue
        section = Section(entries, path=item_path, keys=LIMIT_KEYS, problems=problems)
        name = section.require("name", values.stable_name, "", expectation="a name such as team-monthly-spend")
        _check_unique(section, name, named)
        found = _limits(section, name, attributes, tiers)
        pools.take(section, found)
        limits += found
    pools.report_names_taken(named, problems)
    return tuple(limits)


def _check_unique(section: Section, name: str, named: dict[str, Position]) -> None:
    """Accounts go by the limit's name: two of one name would share them."""
    if not name:
        return
    if name in named:
        section.reject("name", f'the limit on line {named[name].line} is named "{name}" too, expected another name')
    named.setdefault(name, section["name"].at)


def _limits(section: Section, name: str, attributes: Attributes, tiers: TierAmounts) -> Sequence[Limit]:
    """One limit a window and tier, alike in all else."""
    caps = read_caps(section, has_tiers=bool(tiers.names))
    on_exceed = read_on_exceed(section, caps)
    alike = Limit(
        name=name,
        metric=Metric.COST,
        amount=0,
        window=None,
        per=read_per(section, attributes),
        match=read_match(section, attributes),
        hold=section.read("hold", choice(Hold), Hold.MAXIMUM),
        action=on_exceed.action,
        min_output_tokens=on_exceed.min_output_tokens,
        switch_to=on_exceed.switch_to,
        refusal=read_refusal(section),
        pool=section.read("pool", values.stable_name, None),
    )
    status = section.read("status", refusal_status, None)
    return [limit for cap in caps for limit in _by_tier(_limit(alike, cap, status), cap, tiers, section)]


def _limit(alike: Limit, cap: Cap, status: int | None) -> Limit:
    metric = cap.metric or Metric.COST
    suffix = f"/{cap.label}" if cap.label else ""
    return replace(
        alike,
        name=alike.name + suffix,
        metric=metric,
        amount=cap.amount or 0,
        window=cap.window,
        status=status or (402 if metric is Metric.COST else 429),
        pool=alike.pool + suffix if alike.pool else None,
    )


def _by_tier(limit: Limit, cap: Cap, tiers: TierAmounts, section: Section) -> Iterator[Limit]:
    # A limit without a name is reported already, and nobody can say which amounts are its own.
    if cap.amount is not None or not limit.name:
        yield limit
        return
    wanted = Match({TIER: limit.match.patterns[TIER]}) if TIER in limit.match.patterns else Match()
    amounts = tiers.of(limit.name, limit.metric, problems=section.problems)
    counted = {tier: amount for tier, amount in amounts.items() if wanted.fits({TIER: tier})}
    if not counted and not section.problems:
        section.reject("name", f'"{limit.name}" never counts anything: every tier that it is for is unlimited')
    for tier, amount in counted.items():
        yield replace(limit, amount=amount, match=Match({**limit.match.patterns, TIER: (tier,)}))
