"""Which vocabulary and which figures a model's name leads to, however a gateway spells it."""

import pytest

from policyd.tokens.families import family
from policyd.tokens.models import CLAUDE_NEWEST, ClaudeVersion, bare_model_name, claude_version


@pytest.mark.parametrize(
    ("model", "bare"),
    [
        ("gpt-4o", "gpt-4o"),
        ("openai/GPT-4o", "gpt-4o"),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "gpt-4o-mini-2024-07-18:org::id"),
        ("openai/ft:gpt-4o", "gpt-4o"),
        ("publishers/anthropic/models/claude-sonnet-4@20250514", "claude-sonnet-4@20250514"),
        ("", ""),
    ],
)
def test_prefixes_are_taken_off(model: str, bare: str) -> None:
    assert bare_model_name(model) == bare


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("claude-3-5-haiku-20241022", (3, 5)),
        ("claude-3-opus-20240229", (3, 0)),
        ("claude-sonnet-4-20250514", (4, 0)),
        ("claude-sonnet-4@20250514", (4, 0)),
        ("claude-opus-4-1-20250805", (4, 1)),
        ("claude-haiku-4-5-20251001", (4, 5)),
        ("claude-4.6-sonnet-20260217", (4, 6)),
        ("claude-opus-4.7", (4, 7)),
        ("claude-sonnet-5", (5, 0)),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", (3, 7)),
        ("anthropic.claude-v2:1", (2, 0)),
        ("claude-2.1", (2, 1)),
        ("claude-instant-1.2", (1, 2)),
        ("claude-opus-latest", CLAUDE_NEWEST),
        ("claude-opus-20260101", CLAUDE_NEWEST),
        ("claude", CLAUDE_NEWEST),
    ],
)
def test_claude_version(name: str, version: tuple[int, int]) -> None:
    assert claude_version(name) == ClaudeVersion(*version)


def test_other_models_are_no_claude() -> None:
    assert claude_version("gpt-4o") is None


@pytest.mark.parametrize(
    ("model", "name", "exact"),
    [
        ("gpt-4o-2024-08-06", "openai", True),
        ("openai/gpt-4o-mini", "openai", True),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "openai", True),
        ("gpt-4.1-nano", "openai", True),
        ("gpt-5.4-mini", "openai", True),
        ("chatgpt-4o-latest", "openai", True),
        ("o1", "openai", True),
        ("o4-mini", "openai", True),
        ("gpt-4", "openai-cl100k", True),
        ("gpt-4-turbo-2024-04-09", "openai-cl100k", True),
        ("ft:gpt-3.5-turbo-0125:org::id", "openai-cl100k", True),
        ("gpt-35-turbo", "openai-cl100k", True),
        ("text-embedding-3-small", "openai-cl100k", True),
        ("davinci-002", "openai-cl100k", True),
        ("openai/gpt-oss-120b", "gpt-oss", False),
        ("claude-sonnet-4-6", "claude", False),
        ("anthropic/claude-opus-4.8", "claude-since-4.7", False),
        ("grok-4", "grok", False),
        ("llama-3.3-70b-versatile", "other", False),
        ("my-deployment", "other", False),
    ],
)
def test_the_name_decides(model: str, name: str, *, exact: bool) -> None:
    found = family(provider="openrouter", model=model)
    assert (found.name, found.exact) == (name, exact)


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("anthropic", "claude-since-4.7"),
        ("openai", "openai-unnamed"),
        ("azure", "openai-unnamed"),
        ("groq", "other"),
        ("mistral", "mistral"),
        ("cohere", "cohere"),
    ],
)
def test_the_provider_decides_where_the_name_says_nothing(provider: str, name: str) -> None:
    found = family(provider=provider, model="my-deployment")
    assert (found.name, found.exact) == (name, False)


@pytest.mark.parametrize(
    ("provider", "model"), [("google", "text-embedding-004"), ("alibaba", "text-embedding-v3"), ("house", "davinci-3")]
)
def test_a_name_like_one_of_openais_is_not_taken_for_it(provider: str, model: str) -> None:
    assert not family(provider=provider, model=model).exact


def test_what_a_vendor_puts_before_every_prompt_is_bounded() -> None:
    plain, venice = (family(provider=provider, model="gpt-4o") for provider in ("openrouter", "venice"))
    assert plain.exact
    assert not venice.exact
    assert venice.constant_tokens - plain.constant_tokens == 1024
    assert venice.constant_tokens_max - plain.constant_tokens_max == 4096
    assert not family(provider="venice", model="text-embedding-bge-m3").constant_tokens


def test_claude_behind_a_gateway_has_a_wider_bound() -> None:
    at_home, elsewhere = (
        family(provider=provider, model="claude-haiku-4-5") for provider in ("anthropic", "openrouter")
    )
    assert at_home.factor == elsewhere.factor
    assert at_home.constant_tokens_max < elsewhere.constant_tokens_max
