"""The list of prices: which models are in it, and what is said of each."""

from __future__ import annotations

import pytest

from policyd.core.errors import ConfigError
from policyd.pricelist import listing, listing_text
from tests.pricelist.tables import NOW_MS, OWN, price_list


def names(*, own: str = "", provider: str | None = None, search: str | None = None) -> list[tuple[str, str]]:
    models = listing(price_list(own=own), at_ms=NOW_MS, provider=provider, search=search)
    return [(model.provider, model.model) for model in models]


def test_every_model_is_listed() -> None:
    assert names() == [("shop", "whisper"), ("acme", "large"), ("acme", "small"), ("acme", "whisper")]


def test_own_prices_come_first() -> None:
    own = [("acme", "large*"), ("acme", "large*"), ("*", "my-llama*"), ("mine", "mine")]
    assert names(own=OWN) == [*own, *names()]


def test_of_one_provider() -> None:
    assert names(provider="shop") == [("shop", "whisper")]
    assert names(own=OWN, provider="mine") == [("mine", "mine")]


def test_a_provider_without_prices_is_a_mistake() -> None:
    with pytest.raises(ConfigError) as caught:
        names(provider="amce")
    assert str(caught.value) == '--provider: no prices are known of "amce"; did you mean "acme"?'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LARGE", [("acme", "large")]),
        ("2026", [("acme", "large")]),
        ("whis", [("shop", "whisper"), ("acme", "whisper")]),
        ("nothing", []),
    ],
)
def test_search_is_for_a_part_of_a_name(text: str, found: list[tuple[str, str]]) -> None:
    assert names(search=text) == found


def test_the_text() -> None:
    models = listing(price_list(own=OWN), at_ms=NOW_MS, provider=None, search=None)
    assert listing_text(models).splitlines() == [
        "PROVIDER  MODEL      INPUT  CACHED  OUTPUT  CONTEXT  NOTES",
        "acme      large*      1.00       -    2.00        -  policy",
        "acme      large*      3.00       -    4.00        -  policy, from 2026-12-01T00:00:00.000Z, to come",
        "*         my-llama*   0.00       -    0.00        -  policy",
        "mine      mine        1.00       -    1.00        -  policy, service_tier=flex",
        "shop      whisper        -       -       -        -  no price",
        "acme      large       1.00       -    2.00   100000  policy, changes over time, batch, priority",
        "acme      small       0.05       -    0.20        -  changes over time",
        "acme      whisper        -       -       -        -  no price",
        "",
        "8 models, USD for a million tokens",
    ]


def test_the_text_without_own_prices_tells_of_tiers() -> None:
    models = listing(price_list(), at_ms=NOW_MS, provider="acme", search="large")
    assert listing_text(models).splitlines()[1] == (
        "acme      large   2.50    1.25   10.00   100000  dearer above 50000, changes over time, batch, priority"
    )


def test_the_text_of_nothing() -> None:
    assert listing_text(()) == "no model has such a name"
