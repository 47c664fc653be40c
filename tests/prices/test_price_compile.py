"""Compiling prices: exact, complete, and loud about what the table has no form for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from genai_prices import types as genai
from genai_prices.data_units import unit_data
from hypothesis import given
from hypothesis import strategies as st

from policyd.core.usage import KINDS
from policyd.prices.compile import (
    KIND_BY_PRICE_KEY,
    CompileError,
    compile_table,
    main,
    rate,
    render,
)
from policyd.prices.published import Published
from policyd.prices.table import FeesOf, Model, Prices, price_book


def compiled(**model: Any) -> Model:
    """The table's entry for a genai-prices model; `model` replaces what is said of it."""
    said: dict[str, Any] = {"id": "m", "match": genai.ClauseEquals("m"), "prices": genai.ModelPrice()}
    provider = genai.Provider(id="acme", name="Acme", api_pattern="", models=[genai.ModelInfo(**said | model)])
    return compile_table([provider], version="1").providers[0].models[0]


def tiers(**prices: Decimal | genai.TieredPrices) -> tuple[tuple[int, Mapping[str, tuple[int, int]]], ...]:
    return compiled(prices=genai.ModelPrice(**prices)).prices[0].tiers


@given(st.decimals(min_value=0, max_value=10**6, places=18), st.sampled_from([1_000, 1_000_000]))
def test_a_rate_is_exact(usd: Decimal, per: int) -> None:
    nanos, units = rate(usd, per=per)
    assert Fraction(nanos, units) == Fraction(usd) * 10**9 / per


@pytest.mark.parametrize(
    ("usd", "exactly"),
    [
        ("2.5", (2_500_000_000, 1_000_000)),
        ("0.000000001", (1, 1_000_000)),
        ("0.0000000005", (1, 2_000_000)),
        ("0.000000000000000001", (1, 10**15)),
        ("0", (0, 1_000_000)),
        ("-0", (0, 1_000_000)),
    ],
)
def test_a_price_finer_than_a_nano_is_stated_for_more_units(usd: str, exactly: tuple[int, int]) -> None:
    assert rate(Decimal(usd), per=1_000_000) == exactly


@pytest.mark.parametrize("usd", ["NaN", "Infinity", "-0.1"])
def test_a_price_that_is_none_is_an_error(usd: str) -> None:
    with pytest.raises(CompileError, match=f"^acme m: {usd} is not a price$"):
        tiers(input_mtok=Decimal(usd))


def test_a_price_is_for_the_unit_that_genai_prices_says() -> None:
    assert tiers(output_mtok=Decimal(3), web_searches_kcount=Decimal(10), audio_hours=Decimal(1)) == (
        (0, {"output": (3 * 10**9, 1_000_000), "web_searches": (10 * 10**9, 1_000), "audio_ms": (10**9, 3_600_000)}),
    )


def test_every_price_key_exists_and_every_kind_of_usage_has_a_price() -> None:
    assert {unit["price_key"] for unit in unit_data.values()} >= KIND_BY_PRICE_KEY.keys()
    # What no price is stated for: pieces that an operator can have a price for, as those of images.
    assert set(KINDS) >= set(KIND_BY_PRICE_KEY.values())


def test_a_price_that_nobody_has_decided_on_is_an_error() -> None:
    with pytest.raises(CompileError, match=r"^acme m: the price 'smell_mtok' is not mapped"):
        tiers(input_mtok=Decimal(1), smell_mtok=Decimal(2))


def test_two_prices_for_one_kind_are_an_error() -> None:
    with pytest.raises(CompileError, match="two prices for one kind of usage, 'cache_write_5m'"):
        tiers(cache_write_mtok=Decimal(1), cache_write_5m_mtok=Decimal(2))


def test_a_model_without_a_price_in_use_has_no_rates() -> None:
    assert tiers() == ()
    assert tiers(input_mtok=Decimal(0)) == ((0, {"input": (0, 1_000_000)}),)


def test_a_model_whose_list_of_prices_is_empty_is_an_error() -> None:
    with pytest.raises(CompileError, match=r"^acme m: the list of its prices is empty$"):
        compiled(prices=[])


def test_tiers_of_different_kinds_are_merged() -> None:
    def tiered(base: int, *steps: tuple[int, int]) -> genai.TieredPrices:
        return genai.TieredPrices(Decimal(base), [genai.Tier(start, Decimal(usd)) for start, usd in steps])

    million = 1_000_000
    assert tiers(input_mtok=tiered(1, (200, 3), (100, 2)), output_mtok=tiered(4, (200, 5), (300, 6))) == (
        (0, {"input": (1 * 10**9, million), "output": (4 * 10**9, million)}),
        (100, {"input": (2 * 10**9, million)}),
        (200, {"input": (3 * 10**9, million), "output": (5 * 10**9, million)}),
        (300, {"output": (6 * 10**9, million)}),
    )


def test_a_tier_that_every_input_passes_is_an_error() -> None:
    with pytest.raises(CompileError, match="a price tier above 0 tokens"):
        tiers(input_mtok=genai.TieredPrices(Decimal(1), [genai.Tier(0, Decimal(2))]))


def test_when_prices_apply() -> None:
    price = genai.ModelPrice(input_mtok=Decimal(1))
    model = compiled(
        prices=[
            genai.ConditionalPrice(prices=price),
            genai.ConditionalPrice(genai.StartDateConstraint(date(2026, 2, 1)), prices=price),
            genai.ConditionalPrice(genai.TimeOfDateConstraint(time(0, 30, tzinfo=UTC), time(16, 30)), prices=price),
        ]
    )
    assert [(prices.since, prices.daily) for prices in model.prices] == [
        (None, None),
        (date(2026, 2, 1), None),
        (None, (time(0, 30), time(16, 30))),
    ]


def test_a_time_of_another_zone_is_an_error() -> None:
    eight = time(8, tzinfo=timezone(timedelta(hours=8)))
    price = genai.ConditionalPrice(genai.TimeOfDateConstraint(eight, time(16)), prices=genai.ModelPrice())
    with pytest.raises(CompileError, match=r"the time 08:00:00\+08:00 is not in UTC"):
        compiled(prices=[price])


def test_a_variant_without_a_rate_is_left_out() -> None:
    batch = genai.PriceVariant({"processing": "batch"}, genai.ModelPrice(input_mtok=Decimal("0.5")))
    default = genai.PriceVariant({"service_tier": "default"}, genai.ModelPrice())
    model = compiled(price_variants=[default, batch])
    assert [(variant.terms, variant.tiers) for variant in model.variants] == [
        ({"processing": "batch"}, ((0, {"input": (500_000_000, 1_000_000)}),))
    ]


CLAUSES = [
    genai.ClauseEquals("Claude-3"),
    genai.ClauseStartsWith("Claude-"),
    genai.ClauseEndsWith("-LATEST"),
    genai.ClauseContains("Sonnet"),
    genai.ClauseRegex(r"^claude-\d$"),
    genai.ClauseRegex(r"-sonnet$|tts"),
    genai.ClauseAnd([genai.ClauseStartsWith("claude"), genai.ClauseRegex("^(?!.*-tts)")]),
    genai.ClauseOr([genai.ClauseEquals("A"), genai.ClauseOr([genai.ClauseEquals("B"), genai.ClauseContains("-C-")])]),
]


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: type(clause).__name__)
def test_a_model_is_found_by_the_names_that_its_clause_matches(clause: genai.MatchLogic) -> None:
    model = genai.ModelInfo(id="m", match=clause, prices=genai.ModelPrice(input_mtok=Decimal(1)))
    provider = genai.Provider(id="acme", name="Acme", api_pattern="", models=[model])
    book = price_book(compile_table([provider], version="1"))
    names = [
        "claude-3",
        "CLAUDE-3",
        "claude-",
        "claude-tts",
        "x-sonnet-latest",
        "x-sonnet",
        "a",
        "B",
        "1-c-2",
        "-c",
        "",
    ]
    matched = [name for name in names if clause.is_match(name.lower())]
    assert [name for name in names if book.find(provider="acme", model=name, at_ms=0)] == matched
    assert 0 < len(matched) < len(names)


def test_a_clause_that_the_table_has_no_form_for_is_an_error() -> None:
    with pytest.raises(CompileError, match=r"the table has no form for ClauseEquals"):
        compiled(match=genai.ClauseAnd([genai.ClauseEquals("m"), genai.ClauseContains("m")]))


def test_the_text_reads_back_as_the_table() -> None:
    models = [genai.ModelInfo(id=id_, match=genai.ClauseEquals(id_), prices=genai.ModelPrice()) for id_ in ("a", "b")]
    providers = [
        genai.Provider(id="acme", name="", api_pattern="", models=models, fallback_model_providers=["openai"]),
        genai.Provider(id="none", name="", api_pattern="", pricing_urls=["https://none.example/prices"]),
    ]
    assert render(compile_table(providers, version="1.2")) == (
        '{"source":"genai-prices 1.2","providers":[\n'
        '{"id":"acme","fallbacks":["openai"],"models":[\n'
        '{"id":"a","names":["a"],"prices":[{}]},\n'
        '{"id":"b","names":["b"],"prices":[{}]}\n'
        "]},\n"
        '{"id":"none","urls":["https://none.example/prices"],"models":[\n\n]}\n'
        "]}\n"
    )


def test_the_command_writes_the_table_where_it_is_told_to(tmp_path: Path) -> None:
    package, output = tmp_path / "package.json", tmp_path / "prices.json"
    output.write_text("something else")
    assert main(["--output", str(output)], path=package) is None
    assert main(["--check", "--output", str(output)], path=package) is None
    assert list(tmp_path.iterdir()) == [output]
    assert main(["--output", str(tmp_path / "none" / "prices.json")]) == (
        f"{tmp_path}/none/prices.json.new: No such file or directory"
    )


def test_the_command_writes_the_table_and_checks_it(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    outdated = f"{path} is not what genai-prices "
    assert (main(["--check"], path=path) or "").startswith(outdated)
    assert not path.exists()
    assert main([], path=path) is None
    assert main(["--check"], path=path) is None
    path.write_text(path.read_text(encoding="utf-8").replace("2500000000", "2500000001", 1), encoding="utf-8")
    assert (main(["--check"], path=path) or "").startswith(outdated)


def test_what_is_published_beside_goes_behind_what_genai_prices_has() -> None:
    model = genai.ModelInfo(id="m", match=genai.ClauseContains("m"), prices=genai.ModelPrice(input_mtok=Decimal(1)))
    provider = genai.Provider(id="acme", name="", api_pattern="", models=[model])
    other = Model(id="m2", names=("m2",), source="Acme, Pricing", prices=(Prices(tiers=((0, {"pages": (1, 1)}),)),))
    fees = (FeesOf(source="Acme, Tools", rates={"web_searches": (1, 1)}),)
    table = compile_table([provider], version="1", published={"acme": Published(models=(other,), fees=fees)})
    (compiled_provider,) = table.providers
    assert [each.id for each in compiled_provider.models] == ["m", "m2"]
    assert compiled_provider.fees == fees
    found = price_book(table).find(provider="acme", model="m2", at_ms=0)
    assert found is not None
    assert found.price.model == "m", "a name means the first model that it fits"


@pytest.mark.parametrize(
    ("provider_id", "message"),
    [
        ("acme", "acme m: genai-prices has this model by now"),
        ("nobody", "nobody: there is no such provider in genai-prices"),
    ],
)
def test_what_is_published_twice_or_by_nobody_is_an_error(provider_id: str, message: str) -> None:
    published = {provider_id: Published(models=(Model(id="m", prices=(Prices(),)),))}
    model = genai.ModelInfo(id="m", match=genai.ClauseEquals("m"), prices=genai.ModelPrice())
    provider = genai.Provider(id="acme", name="", api_pattern="", models=[model])
    with pytest.raises(CompileError, match=f"^{message}$"):
        compile_table([provider], version="1", published=published)
