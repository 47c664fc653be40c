"""The table that ships: up to date, complete, quick to import, and priced as the providers publish it."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from fractions import Fraction

import genai_prices
import msgspec
import pytest

from policyd.core.usage import KINDS
from policyd.prices import compile as price_compiler
from policyd.prices.table import TABLE_PATH, Table, load_price_book, read_table

AT_MS = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp()) * 1_000
BOOK = load_price_book()


def test_is_what_genai_prices_compiles_to() -> None:
    assert price_compiler.main(["--check"]) is None


def test_states_its_source() -> None:
    assert BOOK.version == f"genai-prices {genai_prices.__version__}"


def test_has_one_model_a_line() -> None:
    lines = {line.removesuffix(",") for line in TABLE_PATH.read_text(encoding="utf-8").splitlines()}
    models = [model for provider in read_table().providers for model in provider.models]
    assert {msgspec.json.encode(model).decode() for model in models} < lines


def test_prices_kinds_of_usage_and_nothing_else() -> None:
    priced = {
        kind
        for provider in read_table().providers
        for model in provider.models
        for prices in (*model.prices, *model.variants)
        for _, rates in prices.tiers
        for kind in rates
    }
    assert priced == set(KINDS)


def test_is_read_without_genai_prices_and_what_it_brings_along() -> None:
    code = "import sys; from policyd.prices.table import load_price_book; load_price_book(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "msgspec" in loaded
    assert not {"genai_prices", "pydantic", "httpx"} & set(loaded)


@pytest.mark.parametrize(
    ("provider", "model", "kind", "nanos_per_unit"),
    [
        ("openai", "gpt-4o", "input", 2_500),
        ("openai", "gpt-4o-2024-08-06", "output", 10_000),
        ("openai", "gpt-4o-mini", "cached_input", 75),
        ("anthropic", "claude-3-5-sonnet-20241022", "cache_write_5m", 3_750),
        ("anthropic", "claude-3-5-sonnet-20241022", "cache_write_1h", 6_000),
        ("anthropic", "claude-3-5-sonnet-20241022", "web_searches", 10_000_000),
        ("google", "gemini-2.5-flash", "audio_input", 1_000),
        ("google", "gemini-2.5-flash", "cached_audio_input", 100),
        ("openai", "gpt-image-1", "cached_image_input", 2_500),
        ("azure", "gpt-4o", "input", 2_500),
    ],
)
def test_knows_published_prices(provider: str, model: str, kind: str, nanos_per_unit: int) -> None:
    found = BOOK.find(provider=provider, model=model, at_ms=AT_MS)
    assert found is not None
    rate = found.price.rate(kind)
    assert Fraction(rate.nanos, rate.per) == nanos_per_unit


def test_what_is_listed_without_a_rate_has_no_price() -> None:
    assert BOOK.find(provider="openai", model="whisper-1", at_ms=AT_MS) is None
    assert BOOK.find(provider="mistral", model="mistral-ocr-latest", at_ms=AT_MS) is None
    assert BOOK.find(provider="github-copilot", model="gpt-4o", at_ms=AT_MS) is None


def test_a_table_of_another_form_is_refused() -> None:
    text = (
        '{"source":"","providers":[{"id":"acme","models":[{"id":"m","patterns":[["sounds_like","m"]],"prices":[{}]}]}]}'
    )
    with pytest.raises(msgspec.ValidationError, match="sounds_like"):
        msgspec.json.decode(text, type=Table)
