"""The prices that a process would charge, with where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from policyd import __version__
from policyd.config import Settings, load_policy
from policyd.core.own_prices import OwnPrices, Tariff
from policyd.prices.table import Model, Provider, Table, price_book
from policyd.prices.table_file import load_table


@dataclass(frozen=True)
class PriceList:
    """A price table, and the operator's own prices before it."""

    table: Table
    table_name: str
    """Which table it is: the package's own, or its file."""
    own: OwnPrices
    policy_name: str
    """The policy file; empty if there is none."""

    @cached_property
    def tariff(self) -> Tariff:
        return Tariff(price_book(self.table), self.own)

    @cached_property
    def providers(self) -> dict[str, Provider]:
        return {provider.id: provider for provider in self.table.providers}

    def entry(self, provider: str, model: str) -> Model:
        """The table's entry of a model, by its id."""
        return next(entry for entry in self.providers[provider].models if entry.id == model)


def open_price_list(settings: Settings) -> PriceList:
    """The prices of a server with these settings. Raises `ConfigError`."""
    policy_path, prices_path = settings.policy_path, settings.prices_path
    return PriceList(
        table=load_table(prices_path),
        table_name=str(prices_path) if prices_path is not None else f"shipped with policyd {__version__}",
        own=load_policy(policy_path).prices if policy_path is not None else OwnPrices(),
        policy_name=str(policy_path) if policy_path is not None else "",
    )
