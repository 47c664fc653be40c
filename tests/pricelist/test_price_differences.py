"""What changed between two tables: nothing that differs goes untold."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pytest

from policyd.pricelist import differences, differences_text
from policyd.pricelist.differences import Change
from policyd.prices.table import Model, Prices, Provider, StartsWith, Table, read_table
from tests.pricelist.tables import LARGE, SMALL, TABLE, UNPRICED, usd


def table(*models: Model, **said: Any) -> Table:
    return Table(source="test-prices 2", providers=(TABLE.providers[0], Provider(id="acme", models=models, **said)))


def changes(model: Model, **said: Any) -> tuple[Change, ...]:
    """What is told when `model` becomes another one."""
    told = differences(table(model), table(msgspec.structs.replace(model, **said)))
    assert not told.added
    assert not told.removed
    (changed,) = told.changed
    assert (changed.provider, changed.model) == ("acme", model.id)
    return changed.changes


def test_equal_tables() -> None:
    told = differences(read_table(), read_table())
    assert (told.added, told.removed, told.changed) == ((), (), ())


def test_rates() -> None:
    dearer = Prices(tiers=(usd("0.1", "0.3"),))
    assert changes(SMALL, prices=(dearer, SMALL.prices[1])) == (Change("input", "0.075", "0.10"),)


def test_a_kind_that_comes_and_one_that_goes() -> None:
    other = Prices(tiers=((0, {"input": (75, 1), "reasoning": (1, 2)}),))
    assert changes(SMALL, prices=(other, SMALL.prices[1])) == (
        Change("output", "0.30", "none"),
        Change("reasoning", "none", "0.0005"),
    )


def test_tiers_dates_and_terms() -> None:
    prices = (*LARGE.prices[:2], Prices(since=date(2026, 8, 1), tiers=(usd("2", "8"), usd("3", "8", above=7))))
    assert changes(LARGE, prices=prices, variants=LARGE.variants[1:]) == (
        Change("input since 2026-07-01", "2.00", "none"),
        Change("output since 2026-07-01", "8.00", "none"),
        Change("input processing=batch", "1.25", "none"),
        Change("output processing=batch", "5.00", "none"),
        Change("input since 2026-08-01", "none", "2.00"),
        Change("output since 2026-08-01", "none", "8.00"),
        Change("input above 7 since 2026-08-01", "none", "3.00"),
        Change("output above 7 since 2026-08-01", "none", "8.00"),
    )


def test_a_time_of_day() -> None:
    prices = (SMALL.prices[0], msgspec.structs.replace(SMALL.prices[1], tiers=(usd("0.04", "0.2"),)))
    assert changes(SMALL, prices=prices) == (Change("input 00:30 to 16:30 UTC", "0.05", "0.04"),)


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ({"context_tokens_max": 5}, Change("context_tokens_max", "none", "5")),
        ({"names": ("s",)}, Change("name s", "none", "listed")),
        ({"patterns": SMALL.patterns[:1]}, Change('pattern ["contains","tiny"]', "listed", "none")),
        (
            {"patterns": (*SMALL.patterns, StartsWith("s"))},
            Change('pattern ["starts_with","s"]', "none", "listed"),
        ),
        ({"patterns": SMALL.patterns[::-1]}, Change("order of what is listed", "one", "another")),
        ({"prices": SMALL.prices[::-1]}, Change("order of what is listed", "one", "another")),
    ],
)
def test_names_and_the_rest(said: dict[str, Any], change: Change) -> None:
    assert changes(SMALL, **said) == (change,)


def test_models_that_come_and_go() -> None:
    told = differences(table(SMALL, UNPRICED), table(LARGE, UNPRICED))
    assert [(each.provider, each.model) for each in told.added] == [("acme", "large")]
    assert [(each.provider, each.model) for each in told.removed] == [("acme", "small")]
    assert not told.changed


def test_what_is_said_of_a_provider() -> None:
    told = differences(table(SMALL), table(SMALL, fallbacks=("shop",)))
    (changed,) = told.changed
    assert (changed.provider, changed.model) == ("acme", "")
    assert changed.changes == (Change("fallbacks", "none", "shop"),)


def test_the_text() -> None:
    cheaper = msgspec.structs.replace(LARGE, prices=(Prices(tiers=(usd("1", "15"),)), *LARGE.prices[1:]), names=("x",))
    assert differences_text(differences(table(SMALL, LARGE), table(cheaper, UNPRICED))).splitlines() == [
        "test-prices 2 -> test-prices 2: 1 added, 1 removed, 1 changed",
        "",
        "added",
        "  acme  whisper  no price",
        "",
        "removed",
        "  acme  small  input 0.05, output 0.20",
        "",
        "changed",
        "  acme  large  input            5.00 -> 1.00",
        "  acme  large  name large       listed -> none",
        "  acme  large  name large-2026  listed -> none",
        "  acme  large  name x           none -> listed",
    ]
