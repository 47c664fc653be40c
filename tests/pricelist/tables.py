"""A small price table with one of everything, and price lists of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

from policyd.config import parse_policy
from policyd.core.own_prices import OwnPrices
from policyd.pricelist import PriceList
from policyd.prices.table import Contains, Model, Prices, Provider, StartsWith, Table, Tier, Variant

NOW_MS = int(datetime(2026, 5, 15, 12, tzinfo=UTC).timestamp()) * 1000


def usd(input_usd: str, output_usd: str, *, above: int = 0, **others: tuple[int, int]) -> Tier:
    """Rates in dollars for a million tokens."""
    rates = {kind: (round(float(text) * 1000), 1) for kind, text in (("input", input_usd), ("output", output_usd))}
    return above, {**rates, **others}


LARGE = Model(
    id="large",
    names=("large", "large-2026"),
    context_tokens_max=100_000,
    prices=(
        Prices(tiers=(usd("5", "15"),)),
        Prices(
            since=date(2026, 1, 1),
            tiers=(
                usd("2.5", "10", cached_input=(1_250, 1), web_searches=(10_000_000, 1)),
                usd("5", "20", above=50_000),
            ),
        ),
        Prices(since=date(2026, 7, 1), tiers=(usd("2", "8"),)),
    ),
    variants=(
        Variant(terms={"processing": "batch"}, tiers=(usd("1.25", "5"),)),
        Variant(terms={"service_tier": "priority"}, since=date(2026, 6, 1), tiers=(usd("4", "16"),)),
    ),
)
SMALL = Model(
    id="small",
    patterns=(StartsWith("small-"), Contains("tiny")),
    prices=(
        Prices(tiers=(usd("0.075", "0.3"),)),
        Prices(daily=(time(0, 30), time(16, 30)), tiers=(usd("0.05", "0.2"),)),
    ),
)
UNPRICED = Model(id="whisper", names=("whisper",), prices=(Prices(),))

TABLE = Table(
    source="test-prices 1",
    providers=(
        Provider(id="shop", fallbacks=("acme",), models=(UNPRICED,)),
        Provider(id="acme", urls=("https://acme.example/prices",), models=(LARGE, SMALL, UNPRICED)),
    ),
)

OWN = """
  - {provider: acme, model: "large*", usd_per_million: {input: 1.00, output: 2.00}}
  - {provider: acme, model: "large*", from: 2026-12-01, usd_per_million: {input: 3.00, output: 4.00}}
  - {model: "my-llama*", usd_per_million: {input: 0, output: 0}}
  - {provider: mine, model: mine, terms: {service_tier: flex}, usd_per_million: {input: 1.00, output: 1.00}}
"""


def price_list(*, own: str = "") -> PriceList:
    prices = parse_policy(f"version: 1\nlimits: []\nprices: {own}", source="").prices if own else OwnPrices()
    return PriceList(TABLE, "prices.json", prices, "policyd.yaml" if own else "")
