"""`prices:` in the policy file: what the operator says that models cost."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from policyd.config import shapes, values
from policyd.config.problems import Mistake, Position, Problems
from policyd.config.section import Section, unique_entries
from policyd.config.shapes import Key, Schema
from policyd.config.values import expected
from policyd.config.yaml_tree import Kind, ListTree, Scalar, Tree
from policyd.core.money import parse_decimal
from policyd.core.own_prices import OwnPrice, OwnPrices
from policyd.core.pricing import Rate, RateTier, exact_rate, units_priced
from policyd.core.times import parse_instant
from policyd.core.usage import KINDS, TOKEN_KINDS

USD_MAX = 1_000_000
"""The highest price, for a million tokens, an hour or a thousand calls: a slip of the finger ends here."""

_EXAMPLE = '{model: "my-llama*", usd_per_million: {input: 0.20, output: 0.60}}'
_ABOVE_EXAMPLE = "{input_tokens: 200000, usd_per_million: {input: 4.00, output: 12.00}}"
_RATE_EXPECTED = "a price in USD such as 2.50, or 0 if it is free"
_INSTANT_EXPECTED = "a date such as 2026-12-01, or an instant with its offset such as 2026-12-01T09:00:00Z"

_SOLD_TOGETHER = ("input", "output")
"""A model that is sold by the token has both: what is forgotten would be free."""

_PROVIDER_ID = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class _Unit:
    """A key under which rates stand: the kinds of usage that are sold so, and by how many."""

    key: str
    per: int
    kinds: Sequence[str]
    example: str


def _unit(key: str, per: int, example: str) -> _Unit:
    return _Unit(key, per, tuple(kind for kind in KINDS if units_priced(kind) == per), example)


_PER_MILLION = _unit("usd_per_million", 1_000_000, "{input: 2.50, output: 10.00}")
UNITS = (
    _PER_MILLION,
    _unit("usd_per_thousand", 1_000, "{web_searches: 10.00}"),
    _unit("usd_per_hour", 3_600_000, "{audio_input_ms: 0.36}"),
)
_UNIT_BY_KIND = {kind: unit for unit in UNITS for kind in unit.kinds}


def _rates_shape(unit: _Unit, *, complete: bool = False) -> Schema:
    rates = {kind: Key(shapes.decimal(USD_MAX), f"US dollars for {unit.per} of {kind}.") for kind in unit.kinds}
    if not complete:
        return shapes.record(rates, minProperties=1)
    together = {kind: list(_SOLD_TOGETHER) for kind in rates if kind in TOKEN_KINDS}
    return shapes.record(rates, minProperties=1, dependentRequired=together)


_ABOVE_KEYS = {
    "input_tokens": Key(shapes.whole_number(1), "The input tokens that have to be passed."),
    _PER_MILLION.key: Key(_rates_shape(_PER_MILLION), "US dollars for a million, by kind of usage."),
}
_PRICE_KEYS = {
    "provider": Key(shapes.matching(_PROVIDER_ID), "The id of a provider; left out: any."),
    "model": Key(shapes.TEXT, "The name of a model, or a shell-style pattern."),
    "from": Key(shapes.TEXT, "A date or an instant from which on it applies; left out: from ever."),
    "terms": Key(shapes.named(shapes.TEXT, names=shapes.TEXT), "What a request has to ask for, as service_tier."),
    "price_as": Key(shapes.TEXT, "Another model, whose price it is."),
    **{
        unit.key: Key(_rates_shape(unit, complete=unit is _PER_MILLION), f"US dollars for {unit.per} units.")
        for unit in UNITS
    },
    "above": Key(
        shapes.items(shapes.record(_ABOVE_KEYS, required=tuple(_ABOVE_KEYS))), "The rates of longer inputs, in order."
    ),
    "context_tokens": Key(shapes.whole_number(1), "The most tokens that a request and its reply have together."),
}
_RATED = shapes.any_of(*({"required": [unit.key]} for unit in UNITS))
_NO_RATES = shapes.without(*(unit.key for unit in UNITS), "above", "terms")
PRICE_SHAPE = shapes.record(
    _PRICE_KEYS,
    required=("model",),
    **{"if": {"required": ["price_as"]}, "then": _NO_RATES, "else": _RATED},
    dependentRequired={"above": [_PER_MILLION.key]},
)


def read_prices(tree: ListTree, *, path: str, problems: Problems) -> OwnPrices:
    """The operator's own prices, in the file's order."""
    prices: list[OwnPrice] = []
    lines: dict[object, int] = {}
    for index, item in enumerate(tree.items):
        item_path = f"{path}[{index}]"
        entries = problems.attempt(item_path, values.mapping(_EXAMPLE), item, None)
        if entries is None:
            continue
        section = Section(entries, path=item_path, keys=_PRICE_KEYS, problems=problems)
        price = _price(section)
        prices.append(price)
        _check_unique(section, price, entries.at, lines)
    return OwnPrices(tuple(prices))


def _check_unique(section: Section, price: OwnPrice, at: Position, lines: dict[object, int]) -> None:
    """Of two prices for the same models from the same moment on, one would never be charged."""
    key = (price.subject, price.starts_at_ms)
    if price.model and key in lines:
        section.reject("model", f"the price on line {lines[key]} is for the same models from the same moment on")
    lines.setdefault(key, at.line)


def _price(section: Section) -> OwnPrice:
    price_as = section.read("price_as", values.printable, "").lower()
    if price_as:
        for key in (*(unit.key for unit in UNITS), "above", "terms"):
            if key in section:
                section.reject(key, f"the price is that of {price_as}, by price_as: expected one of the two")
    return OwnPrice(
        provider=section.read("provider", _provider_id, None),
        model=section.require(
            "model", values.printable, "", expectation='the name of a model, or a pattern such as "gpt-4o*"'
        ).lower(),
        terms=_terms(section),
        starts_at_ms=section.read("from", _instant_ms, None),
        tiers=() if price_as else _tiers(section),
        price_as=price_as,
        context_tokens_max=section.read("context_tokens", values.whole_number(1), None),
    )


def _provider_id(tree: Tree) -> str:
    provider = values.text(tree)
    if not _PROVIDER_ID.fullmatch(provider):
        raise expected(tree, "the id of a provider in lower case, such as openai")
    return provider


def _instant_ms(tree: Tree) -> int:
    if not isinstance(tree, Scalar):
        raise expected(tree, _INSTANT_EXPECTED)
    try:
        return parse_instant(tree.text)
    except ValueError:
        raise expected(tree, _INSTANT_EXPECTED) from None


def _terms(section: Section) -> Mapping[str, str]:
    tree = section.read("terms", values.mapping("{service_tier: priority}"), None)
    if tree is None:
        return {}
    path, problems = section.path_of("terms"), section.problems
    return {
        key.text: problems.attempt(f"{path}.{key.text}", values.printable, value, "")
        for key, value in unique_entries(tree, path=path, problems=problems).items()
    }


def _tiers(section: Section) -> tuple[RateTier, ...]:
    """The base tier with what is charged by the token and by the call, and the tiers above it."""
    if not any(unit.key in section for unit in UNITS):
        section.report_missing(_PER_MILLION.key, f"prices such as {_PER_MILLION.example}")
    rates: dict[str, Rate] = {}
    for unit in UNITS:
        rates |= _rates(section, unit, complete=True)
    tiers = [RateTier(0, rates)]
    if "above" in section and _PER_MILLION.key not in section:
        section.reject("above", f"there is no {_PER_MILLION.key} that these could follow")
    for index, tree in enumerate(section.read("above", values.items(f"[{_ABOVE_EXAMPLE}]"), ())):
        path = f"{section.path_of('above')}[{index}]"
        entries = section.problems.attempt(path, values.mapping(_ABOVE_EXAMPLE), tree, None)
        if entries is not None:
            within = Section(entries, path=path, keys=_ABOVE_KEYS, problems=section.problems)
            tiers.append(_tier_above(within, tiers))
    return tuple(tiers)


def _tier_above(section: Section, below: Sequence[RateTier]) -> RateTier:
    least = below[-1].above_input_tokens + 1
    above = section.require(
        "input_tokens", values.whole_number(least), least, expectation="the input tokens that have to be passed"
    )
    if _PER_MILLION.key not in section:
        section.report_missing(_PER_MILLION.key, f"prices such as {_PER_MILLION.example}")
    return RateTier(above, _rates(section, _PER_MILLION, floor=_merged(below)))


def _merged(tiers: Sequence[RateTier]) -> Mapping[str, Rate]:
    return {kind: rate for tier in tiers for kind, rate in tier.rates.items()}


def _rates(
    section: Section, unit: _Unit, *, complete: bool = False, floor: Mapping[str, Rate] | None = None
) -> Mapping[str, Rate]:
    """The rates by kind of usage; none is below that in `floor`. `complete`: what goes together has to be there."""
    tree = section.read(unit.key, values.mapping(unit.example), None)
    if tree is None:
        return {}
    within = section.within(unit.key, tree, keys=KINDS)
    required = _SOLD_TOGETHER if complete and unit is _PER_MILLION else ()
    if not tree.entries and not required:
        section.reject(unit.key, f"found an empty mapping, expected a mapping such as {unit.example}")
    for kind in required:
        if kind not in within and (not tree.entries or any(token in within for token in TOKEN_KINDS)):
            within.report_missing(kind, _RATE_EXPECTED)
    for kind in KINDS:
        if kind in within and kind not in unit.kinds:
            within.reject(kind, f"this is sold in another unit, expected it in {_UNIT_BY_KIND[kind].key}")
    read = {kind: within.read(kind, _rate(unit.per), None) for kind in unit.kinds}
    rates = {kind: rate for kind, rate in read.items() if rate is not None}
    for kind, rate in rates.items():
        least = (floor or {}).get(kind)
        if least is not None and rate.nanos * least.per < least.nanos * rate.per:
            # What a request can cost at most is reckoned with the most tokens that it can have.
            within.reject(kind, "this is less than for a shorter input, expected at least as much")
    return rates


def _rate(per: int) -> Callable[[Tree], Rate]:
    def parse(tree: Tree) -> Rate:
        if not isinstance(tree, Scalar) or tree.kind is Kind.NOTHING:
            raise expected(tree, _RATE_EXPECTED)
        try:
            usd = parse_decimal(tree.text)
        except ValueError as error:
            raise Mistake(tree.at, f"{error}, expected {_RATE_EXPECTED}") from None
        if usd < 0:
            raise expected(tree, f"{_RATE_EXPECTED}, not a negative one")
        if usd > USD_MAX:
            raise expected(tree, f"at most {USD_MAX}.00")
        return exact_rate(usd, per=per)

    return parse
