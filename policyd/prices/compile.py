"""Compiles the price table from genai-prices, and from the little that it does not have (`published.py`).

    python -m policyd.prices.compile                  write the table that ships with the package
    python -m policyd.prices.compile --output FILE    write it elsewhere: for `POLICYD_PRICES`
    python -m policyd.prices.compile --check          write nothing; exit 1 if the table is not what would be written

Whatever the table has no form for is an error, never a silent loss: a price that is dropped is a model that is free.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path

import genai_prices
import msgspec
from genai_prices import types as genai
from genai_prices.data import providers as genai_providers
from genai_prices.data_units import unit_data

from policyd.core.pricing import exact_rate
from policyd.prices.published import PUBLISHED, Published
from policyd.prices.table import (
    TABLE_PATH,
    AllOf,
    Contains,
    EndsWith,
    Model,
    Pattern,
    Prices,
    Provider,
    Regex,
    StartsWith,
    Table,
    Tier,
    Variant,
)

KIND_BY_PRICE_KEY: Mapping[str, str] = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_audio_read_mtok": "cached_audio_input",
    "cache_image_read_mtok": "cached_image_input",
    # A write to a cache of unstated life costs what five minutes cost.
    "cache_write_mtok": "cache_write_5m",
    "cache_write_5m_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "input_image_mtok": "image_input",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "output_audio_mtok": "audio_output",
    "output_image_mtok": "image_output",
    "input_video_mtok": "video_input",
    "output_video_mtok": "video_output",
    "output_citation_mtok": "citation",
    "requests_kcount": "requests",
    "web_searches_kcount": "web_searches",
    "social_searches_kcount": "social_searches",
    "storage_searches_kcount": "file_searches",
    "code_executions_kcount": "code_sessions",
    "rerank_searches_kcount": "search_units",
    "input_document_kpages": "pages",
    "input_annotated_document_kpages": "annotated_pages",
    "input_audio_hours": "audio_input_ms",
    "audio_hours": "audio_ms",
    "input_mchars": "characters",
    "input_text_messages_kcount": "text_messages",
}
"""genai-prices' name of a price, and the kind of usage that it is charged for."""


class CompileError(Exception):
    """genai-prices has something that the table has no form for. The message names the provider and the model."""


def compile_table(
    providers: Iterable[genai.Provider], *, version: str, published: Mapping[str, Published] = {}
) -> Table:
    """The table of what `providers` charge, with what else they have `published`, by their ids.

    Raises `CompileError`.
    """
    compiled = tuple(_completed(_provider(provider), published.get(provider.id)) for provider in providers)
    if strangers := published.keys() - {provider.id for provider in compiled}:
        raise CompileError(f"{min(strangers)}: there is no such provider in genai-prices")
    return Table(source=f"genai-prices {version}", providers=compiled)


def _completed(provider: Provider, published: Published | None) -> Provider:
    """`provider` with what genai-prices does not have. The models of that come first: a name means one of them."""
    if published is None:
        return provider
    if twice := {model.id for model in provider.models} & {model.id for model in published.models}:
        raise CompileError(f"{provider.id} {min(twice)}: genai-prices has this model by now")
    models = (*provider.models, *published.models)
    return msgspec.structs.replace(provider, models=models, premiums=published.premiums, fees=published.fees)


def render(table: Table) -> str:
    """The table's text: one model a line."""
    providers = ",\n".join(map(_render_provider, table.providers))
    return f'{{"source":{_json(table.source)},"providers":[\n{providers}\n]}}\n'


def main(arguments: Sequence[str] | None = None, *, path: Path = TABLE_PATH) -> str | None:
    """Runs the command; returns what is wrong, if anything."""
    parser = argparse.ArgumentParser(prog="python -m policyd.prices.compile", description="Compile the price table.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the table is out of date")
    parser.add_argument("--output", type=Path, default=path, metavar="FILE", help="instead of the package's own table")
    options = parser.parse_args(arguments)
    output: Path = options.output
    try:
        text = render(compile_table(genai_providers, version=genai_prices.__version__, published=PUBLISHED))
        if not options.check:
            _write(output, text)
        elif not output.exists() or output.read_text(encoding="utf-8") != text:
            return f"{output} is not what genai-prices {genai_prices.__version__} compiles to: run `make prices`"
    except CompileError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def _write(path: Path, text: str) -> None:
    """Replaces the file as a whole: a server that looks at it meanwhile must not read half of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _render_provider(provider: Provider) -> str:
    head = _json(msgspec.structs.replace(provider, models=())).removesuffix("]}")
    models = ",\n".join(map(_json, provider.models))
    return f"{head}\n{models}\n]}}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _provider(provider: genai.Provider) -> Provider:
    models = []
    for model in provider.models:
        try:
            models.append(_model(model))
        except CompileError as error:
            raise CompileError(f"{provider.id} {model.id}: {error}") from None
    return Provider(
        id=provider.id,
        urls=tuple(provider.pricing_urls or ()),
        fallbacks=tuple(provider.fallback_model_providers or ()),
        models=tuple(models),
    )


def _model(model: genai.ModelInfo) -> Model:
    alternatives = tuple(_alternatives(model.match))
    prices = model.prices if isinstance(model.prices, list) else [genai.ConditionalPrice(prices=model.prices)]
    if not prices:
        raise CompileError("the list of its prices is empty")
    return Model(
        id=model.id,
        names=tuple(dict.fromkeys(one.equals.lower() for one in alternatives if isinstance(one, genai.ClauseEquals))),
        patterns=tuple(_pattern(one) for one in alternatives if not isinstance(one, genai.ClauseEquals)),
        context_tokens_max=model.context_window,
        prices=tuple(_prices(price) for price in prices),
        variants=tuple(_variants(model.price_variants or ())),
    )


def _alternatives(clause: genai.MatchLogic) -> Iterator[genai.MatchLogic]:
    if isinstance(clause, genai.ClauseOr):
        for one in clause.or_:
            yield from _alternatives(one)
    else:
        yield clause


def _pattern(clause: genai.MatchLogic) -> Pattern:
    match clause:
        case genai.ClauseStartsWith(starts_with=text):
            return StartsWith(text.lower())
        case genai.ClauseEndsWith(ends_with=text):
            return EndsWith(text.lower())
        case genai.ClauseContains(contains=text):
            return Contains(text.lower())
        case genai.ClauseRegex(regex=regex):
            return Regex(regex)
        case genai.ClauseAnd(and_=clauses):
            return AllOf(tuple(map(_pattern, clauses)))
        case _:
            raise CompileError(f"the table has no form for {clause!r} here")


def _prices(price: genai.ConditionalPrice) -> Prices:
    return Prices(since=_since(price.constraint), daily=_daily(price.constraint), tiers=_tiers(price.prices))


def _variants(variants: Iterable[genai.PriceVariant]) -> Iterator[Variant]:
    for variant in variants:
        # One without a rate (`service_tier: default`) says that the standard price applies, as it does anyway.
        if tiers := _tiers(variant.prices):
            since, daily = _since(variant.constraint), _daily(variant.constraint)
            yield Variant(since=since, daily=daily, tiers=tiers, terms=variant.when)


Constraint = genai.StartDateConstraint | genai.TimeOfDateConstraint | None


def _since(constraint: Constraint) -> date | None:
    return constraint.start_date if isinstance(constraint, genai.StartDateConstraint) else None


def _daily(constraint: Constraint) -> tuple[time, time] | None:
    if isinstance(constraint, genai.TimeOfDateConstraint):
        return _utc(constraint.start_time), _utc(constraint.end_time)
    return None


def _utc(at: time) -> time:
    """`at` without its zone, which must be UTC: genai-prices takes a time without a zone for UTC."""
    if at.utcoffset():
        raise CompileError(f"the time {at} is not in UTC")
    return at.replace(tzinfo=None)


def _tiers(prices: genai.ModelPrice) -> tuple[Tier, ...]:
    """The rates that are charged, from 0 upwards; none if there are no such."""
    tiers: dict[int, dict[str, tuple[int, int]]] = {0: {}}
    for key, price in vars(prices).items():
        if price is None:
            continue
        if (kind := KIND_BY_PRICE_KEY.get(key)) is None:
            raise CompileError(f"the price {key!r} is not mapped to a kind of usage")
        if kind in tiers[0]:
            raise CompileError(f"two prices for one kind of usage, {kind!r}")
        for above, amount in _steps(price):
            tiers.setdefault(above, {})[kind] = rate(amount, per=_UNITS_PER_PRICE[key])
    return tuple(sorted(tiers.items())) if tiers[0] else ()


def _steps(price: Decimal | genai.TieredPrices) -> Iterator[tuple[int, Decimal]]:
    if not isinstance(price, genai.TieredPrices):
        yield 0, price
        return
    yield 0, price.base
    for tier in price.tiers:
        if tier.start <= 0:
            raise CompileError(f"a price tier above {tier.start} tokens")
        yield tier.start, tier.price


_MS_PER_SECOND = 1_000

_UNITS_PER_PRICE: Mapping[str, int] = {
    # What genai-prices counts in seconds, usage counts in milliseconds.
    unit["price_key"]: unit["per"] * (_MS_PER_SECOND if unit["dimensions"]["family"] == "durations" else 1)
    for unit in unit_data.values()
}


def rate(usd: Decimal, *, per: int) -> tuple[int, int]:
    """`usd` dollars for `per` units as integer nano-USD for an integer number of units.

    Raises `CompileError`.
    """
    if not usd.is_finite() or usd < 0:
        raise CompileError(f"{usd} is not a price")
    exact = exact_rate(usd, per=per)
    return exact.nanos, exact.per


if __name__ == "__main__":
    sys.exit(main())
