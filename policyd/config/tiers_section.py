"""`tiers:` and `default_tier:` in the policy file: the amounts of limits that say `by_tier`."""

from collections.abc import Mapping

from policyd.config import shapes, values
from policyd.config.caps import BY_TIER, amount_of
from policyd.config.problems import Mistake, Position, Problems, did_you_mean
from policyd.config.section import Section, unique_entries
from policyd.config.values import group_name
from policyd.config.yaml_tree import MappingTree, Scalar, Tree
from policyd.core.attributes import Identity, Place
from policyd.core.grouping import TIER
from policyd.core.policy import Metric

UNLIMITED = "unlimited"

TIERS_SHAPE = shapes.named(
    shapes.named(shapes.any_of(shapes.USD, shapes.words(UNLIMITED)), names=shapes.TEXT, minProperties=1),
    names=shapes.GROUP,
)

_TIERS_EXAMPLE = "{free: {daily-spend: 1.00}, pro: {daily-spend: 20.00}}"
_AMOUNTS_EXAMPLE = "{daily-spend: 1.00}"

_CLIENTS_OWN = {Place.BODY: "the body", Place.QUERY: "a query parameter", Place.COOKIE: "a cookie"}
"""Where clients write what they like, whatever a gateway does to headers."""


class TierAmounts:
    """What `tiers:` says: for each tier, by limit, an amount. Read once it is known what each limit counts."""

    def __init__(
        self, amounts: Mapping[str, Mapping[str, Tree]], *, positions: Mapping[str, Position], path: str
    ) -> None:
        self._amounts = amounts
        self._positions = positions
        self._path = path
        self._asked: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._amounts)

    def of(self, account: str, metric: Metric, *, problems: Problems) -> Mapping[str, int]:
        """The amounts of `account` by tier, without those that are unlimited."""
        self._asked.add(account)
        found = {tier: self._amount(tier, account, metric, problems) for tier in self._amounts}
        return {tier: amount for tier, amount in found.items() if amount is not None}

    def _amount(self, tier: str, account: str, metric: Metric, problems: Problems) -> int | None:
        path = f"{self._path}.{tier}"
        tree = self._amounts[tier].get(account)
        if tree is None:
            example = "1.00" if metric is Metric.COST else "100"
            message = f'missing key "{account}", expected an amount such as {example}, or {UNLIMITED}'
            problems.add(self._positions[tier], path, message)
            return None
        if isinstance(tree, Scalar) and tree.text == UNLIMITED:
            return None
        return problems.attempt(f"{path}.{account}", lambda tree: amount_of(metric, tree), tree, 0)

    def report_unasked(self, problems: Problems) -> None:
        """Reports amounts that no limit takes."""
        for tier, amounts in self._amounts.items():
            for account, tree in amounts.items():
                if account not in self._asked:
                    hint = did_you_mean(account, self._asked)
                    message = f'no limit that is named "{account}" takes its amount "{BY_TIER}"{hint}'
                    problems.add(tree.at, f"{self._path}.{tier}", message)


def read_tiers(section: Section) -> TierAmounts:
    tree = section.read("tiers", values.mapping(_TIERS_EXAMPLE), None)
    path, problems = section.path_of("tiers"), section.problems
    amounts, positions = {}, {}
    for key, value in unique_entries(tree, path=path, problems=problems).items() if tree is not None else ():
        problems.attempt(path, group_name, key, None)
        entries = problems.attempt(f"{path}.{key.text}", _amounts, value, None)
        if entries is not None:
            named = unique_entries(entries, path=f"{path}.{key.text}", problems=problems)
            amounts[key.text] = {limit.text: amount for limit, amount in named.items()}
            positions[key.text] = key.at
    return TierAmounts(amounts, positions=positions, path=path)


def _amounts(tree: Tree) -> MappingTree:
    entries = values.mapping(_AMOUNTS_EXAMPLE)(tree)
    if not entries.entries:
        raise Mistake(tree.at, f"found a tier without amounts, expected a mapping such as {_AMOUNTS_EXAMPLE}")
    return entries


def read_default_tier(section: Section, tiers: TierAmounts) -> str | None:
    if "default_tier" not in section:
        return None
    if not tiers.names:
        section.reject("default_tier", "there are no tiers")
        return None
    return section.read("default_tier", values.word(tiers.names), None)


def check_source(section: Section, identity: Identity, *, default_tier: str | None) -> None:
    """Reports a tier that clients could choose for themselves, or that none can have."""
    sources = identity.sources.get(TIER, ())
    for source in sources:
        if source.place in _CLIENTS_OWN:
            where = _CLIENTS_OWN[source.place]
            section.reject(
                "tiers", f"the tier is taken from {where}, which clients write; expected a header of a gateway"
            )
    if not sources and default_tier is None:
        section.reject("tiers", "nothing sets the attribute tier, expected a source in identity, or a default_tier")
