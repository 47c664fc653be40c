"""A name means the same model as in genai-prices: for every name in its data, and for what people make of them.

A name that it does not know is tried in the other forms that mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

import msgspec
import pytest
from genai_prices import types as genai
from genai_prices.data import providers as genai_providers

from policyd.core.model_names import model_names
from policyd.prices.compile import compile_table
from policyd.prices.table import Prices, Table, load_price_book, price_book

THEIR_PROVIDERS = {provider.id: provider for provider in genai_providers}


def with_one_price_for_all(table: Table) -> Table:
    """`table` with every model priced, so that each can be found and told by its id."""
    replace = msgspec.structs.replace
    price = Prices(tiers=((0, {"input": (1, 1)}),))
    return replace(
        table,
        providers=tuple(
            replace(provider, models=tuple(replace(model, prices=(price,), variants=()) for model in provider.models))
            for provider in table.providers
        ),
    )


BOOK = price_book(with_one_price_for_all(compile_table(genai_providers, version="")))

VARIATIONS = (
    "{}-2025-12-11",
    "{}-20251211",
    "{}-20250230",
    "{}-20251211:free",
    "{}-20251211-v1:0",
    "{}@20250514",
    "{}:free",
    "{}-latest",
    "{}-preview",
    "{}-mini",
    "{}-tts",
    "{}x",
    "us.{}",
    "models/{}",
    "other/{}",
    " {}",
)


@pytest.mark.parametrize("provider", genai_providers, ids=lambda provider: provider.id)
def test_names_mean_the_same_model(provider: genai.Provider) -> None:
    random = Random(provider.id)
    names = {
        name
        for written in written_names(provider)
        for name in (written, written.upper(), *(form.format(written) for form in random.sample(VARIATIONS, 2)))
    }
    theirs = {
        name: next(filter(None, (their_model(provider, form) for form in forms_of(name, provider))), None)
        for name in names
    }
    assert {name: our_model(provider, name) for name in names} == theirs


def forms_of(name: str, provider: genai.Provider) -> tuple[str, ...]:
    return (name, *model_names(name, provider=provider.id))


def our_model(provider: genai.Provider, name: str) -> tuple[str, str] | None:
    found = BOOK.find(provider=provider.id, model=name, at_ms=0)
    return (found.price.provider, found.price.model) if found else None


def their_model(provider: genai.Provider, name: str) -> tuple[str, str] | None:
    found = provider.find_model(name, all_providers=genai_providers)
    if found is None:
        return None
    owner = next(each.id for each in genai_providers if any(model is found for model in each.models))
    return owner, found.id


def written_names(provider: genai.Provider) -> Iterator[str]:
    """Each model's id and all that its clauses say, at the provider and at those whose models it sells."""
    for owner in (provider, *(THEIR_PROVIDERS[id_] for id_ in provider.fallback_model_providers or ())):
        for model in owner.models:
            yield model.id
            yield from texts(model.match)


def texts(clause: genai.MatchLogic) -> Iterator[str]:
    match clause:
        case genai.ClauseOr(or_=clauses) | genai.ClauseAnd(and_=clauses):
            for each in clauses:
                yield from texts(each)
        case genai.ClauseRegex(regex=regex):
            yield name_like(regex)
        case _:
            (text,) = vars(clause).values()
            yield text


def name_like(regex: str) -> str:
    """A name that a regular expression of the data matches: its text, with digits where it asks for some."""
    for digits, example in ((r"\d{8}", "20251211"), (r"\d{4}", "2025"), (r"\d{2}", "12"), (r"\d", "7"), ("[-@]", "@")):
        regex = regex.replace(digits, example)
    return re.sub(r"[\\^$()?]", "", regex)


def test_a_name_that_no_model_has_is_not_found() -> None:
    book = load_price_book()
    for provider in genai_providers:
        assert book.find(provider=provider.id, model="no-such-model-anywhere", at_ms=0) is None
    assert book.find(provider="no-such-provider", model="gpt-4o", at_ms=0) is None
