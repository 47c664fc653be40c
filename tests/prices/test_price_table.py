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
    fees = {kind for provider in read_table().providers for each in provider.fees for kind in each.rates}
    assert priced | fees == set(KINDS)


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
        ("openai", "whisper-1", "audio_input_ms", 100),
        ("openai", "tts-1", "characters", 15_000),
        ("openai", "dall-e-3", "images_generated", 40_000_000),
        ("openai", "gpt-4o", "code_sessions", 30_000_000),
        ("openai", "gpt-4o-search-preview", "web_searches", 25_000_000),
        ("openai", "ft:gpt-4.1-2025-04-14:acme::id", "output", 12_000),
        ("openai", "openai/gpt-4o", "input", 2_500),
        ("mistral", "mistral-ocr-latest", "pages", 4_000_000),
        ("mistral", "mistral-ocr-latest", "annotated_pages", 5_000_000),
        ("cohere", "rerank-v3.5", "search_units", 2_000_000),
        ("cohere", "embed-v4.0", "image_input", 470),
        ("google", "models/gemini-2.5-flash", "web_searches", 35_000_000),
        ("google", "gemini-2.5-flash", "map_searches", 25_000_000),
        ("x-ai", "grok-4", "social_searches", 5_000_000),
        ("aws", "openai.gpt-oss-120b", "input", 150),
        ("aws", "cohere.rerank-v3-5:0", "search_units", 2_000_000),
        ("perplexity", "sonar-deep-research", "citation", 2_000),
    ],
)
def test_knows_published_prices(provider: str, model: str, kind: str, nanos_per_unit: int) -> None:
    found = BOOK.find(provider=provider, model=model, at_ms=AT_MS)
    assert found is not None
    rate = found.price.rate(kind)
    assert Fraction(rate.nanos, rate.per) == nanos_per_unit


@pytest.mark.parametrize(
    ("provider", "model", "terms", "kind", "nanos_per_unit"),
    [
        ("openai", "dall-e-3", {"size": "1792x1024"}, "images_generated", 80_000_000),
        ("openai", "dall-e-3", {"size": "1792x1024", "quality": "hd"}, "images_generated", 120_000_000),
        ("openai", "dall-e-3", {"size": "1024x1024", "quality": "standard"}, "images_generated", 40_000_000),
        ("openai", "gpt-4o", {"container_memory": "4g"}, "code_sessions", 120_000_000),
        ("perplexity", "sonar", {}, "requests", 12_000_000),
        ("anthropic", "claude-opus-4-6", {"inference_geo": "us"}, "input", 5_500),
        ("anthropic", "claude-opus-4-6", {"inference_geo": "us", "processing": "batch"}, "output", 13_750),
        ("anthropic", "claude-opus-4-6", {"inference_geo": "global"}, "input", 5_000),
        ("anthropic", "claude-opus-4-6", {"inference_geo": "us"}, "web_searches", 10_000_000),
        ("google", "claude-sonnet-4-5@20250929", {"endpoint": "regional"}, "input", 3_300),
        ("google", "claude-3-5-sonnet", {"endpoint": "regional"}, "input", 3_000),
        ("google", "gemini-2.5-flash", {"endpoint": "regional"}, "input", 300),
    ],
)
def test_knows_published_prices_on_other_terms(
    provider: str, model: str, terms: dict[str, str], kind: str, nanos_per_unit: int
) -> None:
    found = BOOK.find(provider=provider, model=model, at_ms=AT_MS, terms=terms)
    assert found is not None
    rate = found.price.rate(kind)
    assert Fraction(rate.nanos, rate.per) == nanos_per_unit


def test_what_is_listed_without_a_rate_has_no_price() -> None:
    assert BOOK.find(provider="openai", model="omni-moderation-latest", at_ms=AT_MS) is None
    assert BOOK.find(provider="github-copilot", model="gpt-4o", at_ms=AT_MS) is None


def test_a_table_of_another_form_is_refused() -> None:
    text = (
        '{"source":"","providers":[{"id":"acme","models":[{"id":"m","patterns":[["sounds_like","m"]],"prices":[{}]}]}]}'
    )
    with pytest.raises(msgspec.ValidationError, match="sounds_like"):
        msgspec.json.decode(text, type=Table)
