"""Usage: what a provider counted for one exchange, in kinds that never overlap.

Providers disagree on what "input tokens" includes (OpenAI's include cached tokens, Anthropic's do not). A wire format's
reader takes the provider's numbers apart into these disjoint kinds; everything above it adds them up without asking who
sent them. "Not reported" is `None` in place of a whole `Usage`, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by kind, disjoint, and the units of per-call fees. All counts are non-negative integers."""

    input: int = 0
    """Input text tokens that were neither read from nor written to a cache."""
    cached_input: int = 0
    """Input tokens read from the provider's cache: text, and whatever the provider does not report apart."""
    cached_audio_input: int = 0
    """Audio tokens of the input that were read from the cache, where the provider reports them apart."""
    cached_image_input: int = 0
    """Image tokens of the input that were read from the cache, where the provider reports them apart."""
    cache_write_5m: int = 0
    """Input tokens written to a cache that lives five minutes (also: a cache of unstated life)."""
    cache_write_1h: int = 0
    """Input tokens written to a cache that lives an hour."""
    audio_input: int = 0
    """Audio tokens of the input, not cached."""
    image_input: int = 0
    """Image tokens of the input, not cached, where the provider reports them apart."""
    output: int = 0
    """Output text tokens, without reasoning."""
    reasoning: int = 0
    """Reasoning ("thinking") tokens, where the provider reports them apart."""
    audio_output: int = 0
    """Audio tokens of the output."""
    image_output: int = 0
    """Image tokens of the output, where the provider reports them apart."""
    web_searches: int = 0
    """Web searches that the provider ran and charges by the call."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{kind: getattr(self, kind) + getattr(other, kind) for kind in KINDS})

    @property
    def input_tokens(self) -> int:
        """Every input token, cached or not: what a long-context price tier is chosen by."""
        return (
            self.input
            + self.cached_input
            + self.cached_audio_input
            + self.cached_image_input
            + self.cache_write_5m
            + self.cache_write_1h
            + self.audio_input
            + self.image_input
        )

    @property
    def output_tokens(self) -> int:
        """Every output token, reasoning included: what headers and logs show."""
        return self.output + self.reasoning + self.audio_output + self.image_output

    @property
    def tokens(self) -> int:
        """Input and output together: what a `tokens` limit counts."""
        return self.input_tokens + self.output_tokens

    def by_kind(self) -> dict[str, int]:
        """The kinds that are not zero, by name."""
        return {kind: units for kind in KINDS if (units := getattr(self, kind))}


KINDS: tuple[str, ...] = tuple(field.name for field in fields(Usage))
"""The names of all kinds, in the order in which they are shown."""

INPUT_TOKEN_KINDS = (
    "input",
    "cached_input",
    "cached_audio_input",
    "cached_image_input",
    "cache_write_5m",
    "cache_write_1h",
    "audio_input",
    "image_input",
)
OUTPUT_TOKEN_KINDS = ("output", "reasoning", "audio_output", "image_output")
