"""How Gemini counts: every digit is a token of its own, and images by tiles or by a budget."""

from __future__ import annotations

import pytest

from policyd.providers.base import Detail, Image, Prompt
from policyd.tokens import TokenCounter
from policyd.tokens.images import Size, image_rule

COUNTER = TokenCounter()
FLASH = {"provider": "google", "model": "gemini-2.5-flash"}


def counted(text: str, **models: str) -> int:
    return COUNTER.count_prompt(Prompt(texts=(text,), exact=False), **{**FLASH, **models}).tokens


def test_every_digit_counts() -> None:
    assert counted("7" * 600) == 630
    assert counted("1 22 333 4444") == 14, "ten digits and three spaces, times the factor"
    assert COUNTER.count_text("7" * 600, **FLASH) == 630


def test_other_models_take_three_digits_together() -> None:
    assert counted("7" * 600, provider="anthropic", model="claude-3-5-haiku") == 230


@pytest.mark.parametrize(("provider", "model"), [("google", "gemini-3-flash"), ("openrouter", "google/gemini-2.5-pro")])
def test_wherever_it_is_served(provider: str, model: str) -> None:
    assert counted("7" * 600, provider=provider, model=model) == 630


def test_the_bound_holds_for_numbers_alone() -> None:
    count = COUNTER.count_prompt(Prompt(texts=("7" * 10_000,), exact=False), **FLASH)
    assert 10_000 <= count.tokens <= count.upper_bound


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        (Size(8, 8), 258),
        (Size(384, 384), 258),
        (Size(960, 540), 258 * 6),
        (Size(768, 768), 258 * 4),
        (Size(385, 10), 258 * 2),
        (Size(100_000, 100_000), 258 * 16),
        (Size(1, 100_000), 258 * 12),
        (None, 258 * 24),
    ],
)
@pytest.mark.parametrize("model", ["gemini-1.5-pro", "models/gemini-2.5-flash", "gemini-embedding-2"])
def test_tiles(model: str, size: Size | None, tokens: int) -> None:
    assert image_rule(model).count(size, Detail.AUTO).upper_bound == tokens


def test_no_image_takes_more_tiles_than_one_of_unknown_size() -> None:
    rule = image_rule("gemini-2.5-flash")
    most = max(rule.count(Size(3072, side), Detail.AUTO).upper_bound for side in range(1, 3073))
    assert most == rule.count(None, Detail.AUTO).upper_bound


@pytest.mark.parametrize("size", [None, Size(8, 8), Size(5000, 4000)])
def test_budgets_of_newer_models(size: Size | None) -> None:
    rule = image_rule("gemini-3-flash-preview")
    assert rule.count(size, Detail.AUTO).upper_bound == 1120
    assert rule.count(size, Detail.HIGH).upper_bound == 2240
    prompt = Prompt(texts=(), images=(Image(b""),), exact=False)
    assert COUNTER.count_prompt(prompt, provider="google", model="gemini-3-flash-preview").tokens == 1120
