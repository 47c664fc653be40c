"""Usage: what a provider counted for one exchange, in kinds that never overlap.

Providers disagree on what "input tokens" includes (OpenAI's include cached tokens, Anthropic's do not). A wire format's
reader takes the provider's numbers apart into these disjoint kinds; everything above it adds them up without asking who
sent them. "Not reported" is `None` in place of a whole `Usage`, never zero.
"""

from __future__ import annotations

from itertools import compress
from operator import add
from typing import NamedTuple


class Usage(NamedTuple):
    """Tokens by kind, disjoint, and what is charged by the piece. All counts are non-negative integers.

    A tuple of the counts in the order of `KINDS`: several are made for each request, and summed with its price's rates.

    The pieces are counted beside the tokens, never among them. A price charges what it has a rate for: an image may be
    reported as tokens and as one image, and its model is sold by either.
    """

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
    video_input: int = 0
    """Video tokens of the input, not cached, where the provider reports them apart."""
    output: int = 0
    """Output text tokens, without reasoning."""
    reasoning: int = 0
    """Reasoning ("thinking") tokens, where the provider reports them apart."""
    audio_output: int = 0
    """Audio tokens of the output."""
    image_output: int = 0
    """Image tokens of the output, where the provider reports them apart."""
    video_output: int = 0
    """Video tokens of the output, where the provider reports them apart."""
    citation: int = 0
    """Tokens of cited sources, where the provider reports them beside the output and charges for them."""
    requests: int = 0
    """One for a request whose model has a fee by the request, beside what it uses; policyd counts it."""
    web_searches: int = 0
    """Web searches that the provider ran and charges by the call."""
    social_searches: int = 0
    """Searches of a social network that the provider ran (xAI's of X)."""
    map_searches: int = 0
    """Prompts that the provider answered with the help of its maps (Google Maps)."""
    file_searches: int = 0
    """Searches of stored files that the provider ran."""
    attachment_searches: int = 0
    """Searches of the files that a request brought along, where they are charged apart (xAI)."""
    code_sessions: int = 0
    """Sessions of the provider's code interpreter: containers that were used (OpenAI), runs (xAI)."""
    search_units: int = 0
    """Rankings: one for a query with up to a hundred documents (Cohere)."""
    pages: int = 0
    """Pages of documents that were read, without annotations."""
    annotated_pages: int = 0
    """Pages of documents that were read and annotated."""
    images_read: int = 0
    """Images of the input, where they are counted by the piece."""
    images_generated: int = 0
    """Images of the output, by the piece."""
    audio_input_ms: int = 0
    """Milliseconds of audio that was listened to. Providers report whole seconds, or fractions of one."""
    audio_ms: int = 0
    """Milliseconds of a live conversation whose price does not ask who speaks."""
    characters: int = 0
    """Characters of a text that was spoken, or embedded by a model that is sold so."""
    text_messages: int = 0
    """Text messages that were given to a model which is otherwise sold by the time it is spoken with."""

    def __add__(self, other: Usage) -> Usage:  # type: ignore[override]  # not the longer tuple
        return self if other is NO_USAGE or other == NO_USAGE else Usage(*map(add, self, other))

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
            + self.video_input
        )

    @property
    def output_tokens(self) -> int:
        """Every output token, reasoning included: what headers and logs show."""
        return self.output + self.reasoning + self.audio_output + self.image_output + self.video_output + self.citation

    @property
    def tokens(self) -> int:
        """Input and output together: what a `tokens` limit counts."""
        return self.input_tokens + self.output_tokens

    def by_kind(self) -> dict[str, int]:
        """The kinds that are not zero, by name."""
        return dict(compress(zip(KINDS, self), self))  # noqa: B905 - KINDS are its fields, and checking takes as long again

    @property
    def pieces(self) -> Usage:
        """The same without its tokens."""
        return Usage(**{kind: getattr(self, kind) for kind in PIECE_KINDS})

    def with_pieces_of(self, other: Usage) -> Usage:
        """The same with as many pieces of every kind as `other` has, where that is more."""
        if other is NO_USAGE or other == NO_USAGE:
            return self
        return self._replace(**{kind: max(getattr(self, kind), getattr(other, kind)) for kind in PIECE_KINDS})


NO_USAGE = Usage()

KINDS: tuple[str, ...] = Usage._fields
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
    "video_input",
)
OUTPUT_TOKEN_KINDS = ("output", "reasoning", "audio_output", "image_output", "video_output", "citation")
TOKEN_KINDS = (*INPUT_TOKEN_KINDS, *OUTPUT_TOKEN_KINDS)
PIECE_KINDS = tuple(kind for kind in KINDS if kind not in TOKEN_KINDS)
"""What is not counted in tokens."""
