"""Reads a price table that an operator gives: a newer one than the package's, or their own.

It is held against the form in `policyd.prices.table`, and against what a form cannot say: a rate for a kind of usage
that does not exist would be charged for nothing, a name in capitals would never be found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from policyd.core.errors import ConfigError
from policyd.core.price_book import PriceBook
from policyd.core.usage import KINDS
from policyd.prices.table import AllOf, Model, Pattern, Prices, Rates, Regex, Table, price_book, read_table

FILE_BYTES_MAX = 32 * 2**20
"""The largest table; the package's own has a fiftieth of this."""

_PROBLEMS_SHOWN_MAX = 20


def open_price_book(path: Path | None) -> PriceBook:
    """The prices in the table at `path`, the package's own if it is `None`. Raises `ConfigError`."""
    return price_book(load_table(path))


def load_table(path: Path | None) -> Table:
    """The table at `path`, the package's own if it is `None`.

    Raises `ConfigError` if it cannot be read or has mistakes.
    """
    if path is None:
        return read_table()
    table = _decode(_read(path), path)
    problems = [f"{path}: {problem}" for problem in _problems(table)]
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN_MAX
        raise ConfigError(*problems[:_PROBLEMS_SHOWN_MAX], *([f"{path}: and {more} more"] if more > 0 else ()))
    return table


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: the file is larger than {FILE_BYTES_MAX} bytes")
    return content


def _decode(content: bytes, path: Path) -> Table:
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    try:
        return msgspec.convert(document, Table)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_misformed(error, document)}") from None


_PLACE = re.compile(r"providers\[(\d+)\](?:\.models\[(\d+)\])?")


def _misformed(error: msgspec.ValidationError, document: Any) -> str:
    """What is wrong with the form, with the place as a path and, as far as they are there, the names on the way."""
    message, _, at = str(error).partition(" - at `")
    place = at.removesuffix("`").removeprefix("$").removeprefix(".")
    names = []
    entry = document
    if matched := _PLACE.match(place):
        for key, index in zip(("providers", "models"), matched.groups(), strict=True):
            if index is not None:
                entry = entry[key][int(index)]
                names.append(str(entry.get("id", "?")) if isinstance(entry, dict) else "?")
    named = f" ({' '.join(names)})" if names else ""
    return f"{place}{named}: {message}" if place else message


def _problems(table: Table) -> Iterator[str]:
    ids: set[str] = set()
    for provider in table.providers:
        if provider.id in ids:
            yield f"{provider.id}: found this provider twice, expected each once"
        ids.add(provider.id)
        for charged in (*provider.premiums, *provider.fees):
            for pattern in charged.models:
                yield from (f"{provider.id}: {problem}" for problem in _problems_of_pattern(pattern))
        for fees in provider.fees:
            yield from (f"{provider.id}: {problem}" for problem in _problems_of_rates(fees.rates))
        for model in provider.models:
            for problem in _problems_of_model(model):
                yield f"{provider.id} {model.id}: {problem}"


def _problems_of_model(model: Model) -> Iterator[str]:
    for name in model.names:
        if name != name.lower():
            yield f'found the name "{name}", expected it in lower case'
    for pattern in model.patterns:
        yield from _problems_of_pattern(pattern)
    for prices in (*model.prices, *model.variants):
        yield from _problems_of_prices(prices)


def _problems_of_pattern(pattern: Pattern) -> Iterator[str]:
    match pattern:
        case AllOf(patterns=patterns):
            for each in patterns:
                yield from _problems_of_pattern(each)
        case Regex(regex=regex):
            try:
                re.compile(regex)
            except re.error as error:
                yield f'found "{regex}", expected a regular expression: {error}'
        case _:
            if pattern.text != pattern.text.lower():
                yield f'found the pattern "{pattern.text}", expected it in lower case'


def _problems_of_prices(prices: Prices) -> Iterator[str]:
    starts = [above for above, _ in prices.tiers]
    if starts and starts != sorted({0, *starts}):
        yield f"found tiers above {', '.join(map(str, starts))} tokens, expected them from 0 upwards"
    for _, rates in prices.tiers:
        yield from _problems_of_rates(rates)


def _problems_of_rates(rates: Rates) -> Iterator[str]:
    for kind in rates.keys() - set(KINDS):
        yield f'found a rate for "{kind}", expected one of {", ".join(KINDS)}'
