"""What providers publish and genai-prices does not have: charges by the piece, premiums, a few models.

Each entry names the page that published it and a month in which it held. An entry for a model that genai-prices comes
to list is an error of `make prices`, so that nothing stands here twice.

How far they were looked up again in 2026-11: xAI's tools and Anthropic's premium for data residency in the makers' own
documentation; OpenAI's searches, its fine-tuned o4-mini and DALL-E, Gemini's searches, Voyage's rerankers, Cohere's
rerank-v4.0-pro and OpenRouter's searches in what others quote of the makers' pages. Not confirmed since the month that
they name: OpenAI's containers and fine-tuned gpt-4.1, Azure's speech, Bedrock's rankings and embeddings, Vertex AI's
embeddings and its regional premium, what else Cohere charges. Two that are known to be in doubt: Google Maps is said to
cost 14 instead of 25 for Gemini 3 (the dearer one stands here), and OpenAI's older tool `web_search_preview` 25 instead
of 10 with models that do not reason, for which genai-prices, whose prices go before these, has 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from policyd.core.pricing import exact_rate, units_priced
from policyd.prices.table import (
    Contains,
    FeesOf,
    Model,
    Pattern,
    PremiumOn,
    Prices,
    Rates,
    Regex,
    StartsWith,
    Variant,
)


@dataclass(frozen=True, slots=True)
class Published:
    """What one provider charges beside what genai-prices has."""

    models: tuple[Model, ...] = ()
    premiums: tuple[PremiumOn, ...] = ()
    fees: tuple[FeesOf, ...] = ()


def _usd(**amounts: str) -> Rates:
    """Dollars for as many units as each kind's price is published for."""
    rates = {}
    for kind, amount in amounts.items():
        rate = exact_rate(Decimal(amount), per=units_priced(kind))
        rates[kind] = (rate.nanos, rate.per)
    return rates


def _model(
    model: str, rates: Rates, *, source: str, patterns: tuple[Pattern, ...] = (), variants: tuple[Variant, ...] = ()
) -> Model:
    """A model that is meant by its own id, or by `patterns`."""
    names = () if patterns else (model,)
    return Model(
        id=model,
        source=source,
        names=names,
        patterns=patterns,
        prices=(Prices(tiers=((0, rates),)),),
        variants=variants,
    )


def _on(rates: Rates, *, source: str, **terms: str) -> Variant:
    return Variant(terms=terms, source=source, tiers=((0, rates),))


_OPENAI = "OpenAI, Pricing, Built-in tools, 2025-10"
_OPENAI_IMAGES = "OpenAI, Pricing, Image generation, 2025-10"
_OPENAI_TUNED = "OpenAI, Pricing, Fine-tuning, 2025-10"
_AZURE = "Microsoft, Azure OpenAI Service pricing, 2025-10"
_COHERE = "Cohere, Pricing, 2026-06"
_COHERE_EARLIER = "Cohere, Pricing, 2025-10"
_BEDROCK = "AWS, Amazon Bedrock pricing, us-east-1, 2025-10"
_VERTEX = "Google, Vertex AI pricing, 2025-10"
_GEMINI = "Google, Gemini Developer API pricing, 2026-03"
_VOYAGE = "Voyage AI, Pricing, 2025-10"
_XAI = "xAI, Pricing, Tools pricing, 2026-11"

_WIDE = ("1024x1792", "1792x1024")

PUBLISHED: Mapping[str, Published] = {
    "anthropic": Published(
        premiums=(PremiumOn(terms={"inference_geo": "us"}, percent=110, source="Anthropic, Data residency, 2026-11"),),
        fees=(FeesOf(rates=_usd(web_searches="10"), source="Anthropic, Pricing, Web search tool, 2025-10"),),
    ),
    "aws": Published(
        models=(
            _model("cohere.rerank", _usd(search_units="2"), patterns=(Contains("cohere.rerank"),), source=_BEDROCK),
            _model("amazon.rerank", _usd(search_units="1"), patterns=(Contains("amazon.rerank"),), source=_BEDROCK),
            _model("cohere.embed-v4", _usd(input="0.12"), patterns=(Contains("cohere.embed-v4"),), source=_BEDROCK),
            _model("cohere.embed-v3", _usd(input="0.10"), patterns=(Contains("cohere.embed-"),), source=_BEDROCK),
        )
    ),
    "azure": Published(
        models=(
            _model("whisper", _usd(audio_input_ms="0.36"), source=_AZURE),
            _model("tts", _usd(characters="15"), source=_AZURE),
            _model("tts-hd", _usd(characters="30"), source=_AZURE),
        )
    ),
    "cohere": Published(
        models=(
            _model("rerank-v4.0-pro", _usd(search_units="2.50"), source=_COHERE),
            _model("rerank-v4.0-fast", _usd(search_units="2"), source=_COHERE),
            # Version 3.5 and those before it, some of which only v1 of the API still serves.
            _model(
                "rerank-v3.5",
                _usd(search_units="2"),
                patterns=(StartsWith("rerank-v3"), StartsWith("rerank-english-"), StartsWith("rerank-multilingual-")),
                source=_COHERE_EARLIER,
            ),
            _model(
                "embed-v3.0",
                _usd(input="0.10", images_read="0.10"),
                patterns=(StartsWith("embed-english-"), StartsWith("embed-multilingual-")),
                source=_COHERE_EARLIER,
            ),
        ),
        fees=(FeesOf(models=(StartsWith("embed-v4"),), rates=_usd(image_input="0.47"), source=_COHERE),),
    ),
    "google": Published(
        models=(
            # By characters at Vertex AI: `text-embedding-004`, `text-embedding-005` and the multilingual ones.
            _model(
                "text-embedding",
                _usd(characters="0.025"),
                patterns=(StartsWith("text-embedding-0"), StartsWith("text-multilingual-embedding-0")),
                source=_VERTEX,
            ),
        ),
        premiums=(
            PremiumOn(
                terms={"endpoint": "regional"},
                percent=110,
                # Claude Sonnet 4.5, Haiku 4.5 and whatever came later.
                models=(Regex("^claude-(?!3-|4-)"),),
                source=_VERTEX,
            ),
        ),
        fees=(
            FeesOf(models=(Regex("^gemini-[12]"),), rates=_usd(web_searches="35", map_searches="25"), source=_GEMINI),
            FeesOf(models=(StartsWith("gemini-"),), rates=_usd(web_searches="14", map_searches="25"), source=_GEMINI),
        ),
    ),
    "openai": Published(
        models=(
            _model(
                "dall-e-3",
                _usd(images_generated="40"),
                source=_OPENAI_IMAGES,
                variants=(
                    *(
                        _on(_usd(images_generated="120"), size=size, quality="hd", source=_OPENAI_IMAGES)
                        for size in _WIDE
                    ),
                    *(_on(_usd(images_generated="80"), size=size, source=_OPENAI_IMAGES) for size in _WIDE),
                    _on(_usd(images_generated="80"), quality="hd", source=_OPENAI_IMAGES),
                ),
            ),
            _model(
                "dall-e-2",
                _usd(images_generated="20"),
                source=_OPENAI_IMAGES,
                variants=(
                    _on(_usd(images_generated="18"), size="512x512", source=_OPENAI_IMAGES),
                    _on(_usd(images_generated="16"), size="256x256", source=_OPENAI_IMAGES),
                ),
            ),
            *(
                _model(
                    f"ft:{base}",
                    _usd(input=input_usd, cached_input=cached_usd, output=output_usd),
                    patterns=(StartsWith(f"ft:{base}"),),
                    source=_OPENAI_TUNED,
                )
                for base, input_usd, cached_usd, output_usd in (
                    ("gpt-4.1-mini", "0.80", "0.20", "3.20"),
                    ("gpt-4.1-nano", "0.20", "0.05", "0.80"),
                    ("gpt-4.1-2", "3.00", "0.75", "12.00"),
                    ("o4-mini", "4.00", "1.00", "16.00"),
                )
            ),
        ),
        fees=(
            FeesOf(models=(Contains("-search-preview"),), rates=_usd(web_searches="25"), source=_OPENAI),
            *(
                FeesOf(terms={"container_memory": memory}, rates=_usd(code_sessions=usd), source=_OPENAI)
                for memory, usd in (("4g", "120"), ("16g", "480"), ("64g", "1920"))
            ),
            FeesOf(rates=_usd(web_searches="10", file_searches="2.50", code_sessions="30"), source=_OPENAI),
        ),
    ),
    "openrouter": Published(
        # Five results, which is what a search gives unless it is told otherwise, at 4 dollars a thousand.
        fees=(FeesOf(rates=_usd(web_searches="20"), source="OpenRouter, Web search, 2025-10"),),
    ),
    "voyageai": Published(
        models=(
            _model("rerank-2.5-lite", _usd(input="0.02"), source=_VOYAGE),
            _model("rerank-2.5", _usd(input="0.05"), source=_VOYAGE),
            _model("rerank-2-lite", _usd(input="0.02"), source=_VOYAGE),
            _model("rerank-2", _usd(input="0.05"), source=_VOYAGE),
        )
    ),
    "x-ai": Published(
        fees=(
            FeesOf(
                rates=_usd(
                    web_searches="5",
                    social_searches="5",
                    code_sessions="5",
                    file_searches="2.50",
                    attachment_searches="10",
                ),
                source=_XAI,
            ),
        ),
    ),
}
"""By the provider's id."""
