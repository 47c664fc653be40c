"""Counting whole prompts: exact where the provider's own count is known, bounded everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.providers.base import Detail, Image, Prompt
from policyd.tokens import TokenCount, TokenCounter

COUNTER = TokenCounter()


# Prompts of one user message, and what OpenAI reported for such: the text, three tokens around the message, its role,
# and the tokens that open the reply (three, or two for reasoning models).
@pytest.mark.parametrize(
    ("model", "text", "opening", "reported"),
    [
        ("gpt-4o-mini", "Hello!", 3, 9),
        ("gpt-3.5-turbo", "Hello!", 3, 9),
        ("gpt-5-mini", "Hello!", 2, 8),
        ("gpt-4o", "What's in this image?", 3, 12),
    ],
)
def test_openai_text_is_exact(model: str, text: str, opening: int, reported: int) -> None:
    prompt = Prompt(texts=("user", text), overhead_tokens=3 + opening)
    assert COUNTER.count_prompt(prompt, provider="openai", model=model) == TokenCount(
        reported, exact=True, upper_bound=reported
    )


PNG_OF_100_BY_100 = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x64\0\0\0\x64" + bytes(9)


@pytest.mark.parametrize(
    ("image", "tokens"), [(Image(b"", Detail.LOW), 85), (Image(PNG_OF_100_BY_100), 255)], ids=["low", "one tile"]
)
def test_openai_images_whose_cost_is_known_are_exact(image: Image, tokens: int) -> None:
    prompt = Prompt(texts=("user", "What's in this image?"), overhead_tokens=6, images=(image,))
    count = COUNTER.count_prompt(prompt, provider="openai", model="gpt-4o")
    assert count == TokenCount(12 + tokens, exact=True, upper_bound=12 + tokens)


def test_an_empty_prompt_costs_nothing() -> None:
    assert COUNTER.count_prompt(Prompt(texts=()), provider="openai", model="gpt-4o") == TokenCount(
        0, exact=True, upper_bound=0
    )


@pytest.mark.parametrize(
    ("provider", "model", "prompt"),
    [
        ("openai", "gpt-4o", Prompt(texts=("Hello!",), exact=False)),
        ("openai", "gpt-4o", Prompt(texts=("Hello!",), unread_bytes=10)),
        ("openai", "gpt-4o", Prompt(texts=("Hello!",), images=(Image(b""),))),
        ("openai", "gpt-4o", Prompt(texts=("a" * 10_000,))),
        ("anthropic", "claude-sonnet-4-6", Prompt(texts=("Hello!",))),
        ("anthropic", "claude-sonnet-5", Prompt(texts=("Hello!",))),
        ("groq", "llama-3.3-70b-versatile", Prompt(texts=("Hello!",))),
    ],
)
def test_what_is_not_exact_says_so_and_leaves_room(provider: str, model: str, prompt: Prompt) -> None:
    count = COUNTER.count_prompt(prompt, provider=provider, model=model)
    assert not count.exact
    assert count.upper_bound >= count.tokens


def test_the_newer_claude_counts_more_tokens_for_the_same_text() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 100  # 1,001 tokens of o200k_base
    older, newer = (COUNTER.count_text(text, provider="anthropic", model=f"claude-opus-4-{minor}") for minor in (6, 7))
    assert 1001 < older < newer < 2 * 1001


@pytest.mark.parametrize(
    ("provider", "model"), [("anthropic", "claude-opus-4-6"), ("anthropic", "claude-opus-4-7"), ("groq", "llama3")]
)
def test_the_bound_of_an_approximation_leaves_room_in_proportion(provider: str, model: str) -> None:
    prompt = Prompt(texts=("The quick brown fox jumps over the lazy dog. " * 1000,))
    count = COUNTER.count_prompt(prompt, provider=provider, model=model)
    assert 5 * count.tokens < 4 * count.upper_bound


def test_the_bound_of_another_script_is_that_of_a_vocabulary_made_for_english() -> None:
    hindi = Prompt(texts=("नमस्ते दुनिया, आप कैसे हैं? " * 100,))
    in_cl100k = COUNTER.count_prompt(hindi, provider="openai", model="gpt-4").tokens
    in_o200k = COUNTER.count_prompt(hindi, provider="openai", model="gpt-4o").tokens
    assert in_cl100k > 2 * in_o200k
    assert COUNTER.count_prompt(hindi, provider="anthropic", model="claude-opus-4-6").upper_bound > in_cl100k


def test_unread_parts_are_bounded_by_their_bytes_and_by_a_page_at_least() -> None:
    def bound(unread_bytes: int) -> int:
        prompt = Prompt(texts=(), unread_bytes=unread_bytes)
        return COUNTER.count_prompt(prompt, provider="openai", model="gpt-4o").upper_bound

    assert bound(0) == 0
    assert bound(100) == 4096
    assert bound(1_000_000) == 1_000_000


PROVIDERS_AND_MODELS = [
    ("openai", "gpt-4o"),
    ("openai", "gpt-4"),
    ("anthropic", "claude-haiku-4-5"),
    ("anthropic", "claude-opus-4-8"),
    ("groq", "openai/gpt-oss-120b"),
    ("x-ai", "grok-4"),
    ("mistral", "mistral-large-latest"),
]
prompts = st.builds(
    Prompt,
    texts=st.lists(st.text(max_size=300), max_size=5).map(tuple),
    overhead_tokens=st.integers(0, 1000),
    possible_tokens=st.just(0) | st.integers(0, 1000),
    has_tools=st.booleans(),
    images=st.lists(st.builds(Image, st.just(b""), st.sampled_from(Detail)), max_size=2).map(tuple),
    unread_bytes=st.just(0) | st.integers(0, 10**9),
    exact=st.booleans(),
)


@given(prompt=prompts, provider_and_model=st.sampled_from(PROVIDERS_AND_MODELS))
def test_bounds_hold_for_every_prompt(prompt: Prompt, provider_and_model: tuple[str, str]) -> None:
    provider, model = provider_and_model
    count = COUNTER.count_prompt(prompt, provider=provider, model=model)
    assert prompt.overhead_tokens <= count.tokens <= count.upper_bound
    assert not count.exact or count.tokens == count.upper_bound
    assert count.upper_bound <= COUNTER.bound_prompt(prompt, provider=provider, model=model).upper_bound


@given(text=st.text(max_size=500), provider_and_model=st.sampled_from(PROVIDERS_AND_MODELS))
def test_text_counts_no_more_as_output_than_its_bound_as_input(text: str, provider_and_model: tuple[str, str]) -> None:
    provider, model = provider_and_model
    as_output = COUNTER.count_text(text, provider=provider, model=model)
    assert as_output <= COUNTER.count_prompt(Prompt(texts=(text,)), provider=provider, model=model).upper_bound


def test_the_cheap_bound_takes_every_byte_for_a_token() -> None:
    prompt = Prompt(texts=("né\ud800",), overhead_tokens=7)
    bound = COUNTER.bound_prompt(prompt, provider="openai", model="gpt-4o")
    assert bound == TokenCount(tokens=2 + 7, exact=False, upper_bound=1 + 2 + 3 + 7)
