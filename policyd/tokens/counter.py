"""Counting the tokens of a prompt, and of the output that has been seen.

Nothing that is counted is kept. There is no cache of texts: prompts are not policyd's to keep, and counting one anew
costs less than a tenth of a second a megabyte.
"""

from __future__ import annotations

from policyd.providers.base import Prompt
from policyd.tokens.count import TokenCount
from policyd.tokens.families import Family, family
from policyd.tokens.images import image_rule, image_size
from policyd.tokens.vocabulary import CL100K_BASE, O200K_BASE

FORCED_CUT_ERROR_TOKENS = 8
"""By how much one cut inside an endless run may make a count too small; two is the most that was found."""

GUESSED_BYTES_PER_TOKEN = 3
"""What a text is guessed at that is not counted."""

UNREAD_BYTES_PER_TOKEN = 8
"""Documents and audio are guessed at one token for so many bytes, and bounded at one token a byte."""

UNREAD_BOUND_TOKENS_MIN = 4096
"""The least that unread parts are bounded by: one page of a document can cost that, however few bytes it takes."""


class TokenCounter:
    """Counts tokens for every provider and model. Has no state beside the vocabularies; safe to use from any thread.

    Text of any content is counted and none raises. A megabyte takes well under a second, whatever it contains; other
    threads run meanwhile.
    """

    def preload(self) -> None:
        """Loads the vocabularies (half a second and 120 MB at most), so that no request waits for them.

        Raises `ValueError` if a vocabulary in the package is not what it should be.
        """
        O200K_BASE.load()
        CL100K_BASE.load()

    def count_prompt(self, prompt: Prompt, *, provider: str, model: str) -> TokenCount:
        """The input tokens of `prompt`."""
        models = family(provider=provider, model=model)
        counted = counted_max = 0
        for text in prompt.texts:
            tokens, tokens_max = _count_text(text, models)
            counted += tokens
            counted_max += tokens_max
        texts = _reported(prompt, models, counted=counted, counted_max=counted_max)
        return texts + _count_other_parts(prompt, model=model)

    def bound_prompt(self, prompt: Prompt, *, provider: str, model: str) -> TokenCount:
        """A bound on the input tokens of `prompt`, and a guess, that take no time to speak of (0.5 ms a megabyte).

        The bound takes every byte for a token: no byte-pair vocabulary counts more, and where the vocabulary is not the
        model's own the family's factor comes on top. The guess is one token for three bytes; English has about four.
        """
        models = family(provider=provider, model=model)
        text_bytes = sum(_utf8_bytes(text) for text in prompt.texts)
        guessed = -(-text_bytes // GUESSED_BYTES_PER_TOKEN)
        return _reported(prompt, models, counted=guessed, counted_max=text_bytes) + _count_other_parts(
            prompt, model=model
        )

    def count_text(self, text: str, *, provider: str, model: str) -> int:
        """The tokens of `text` alone, such as the output of a reply; the best count where it cannot be exact."""
        models = family(provider=provider, model=model)
        return models.factor.of(models.count(text).tokens)


def _count_text(text: str, models: Family) -> tuple[int, int]:
    """What the vocabulary counts, and what it or another like it counts at the most."""
    tokens, forced_cuts = models.count(text)
    if not forced_cuts and (models.exact or text.isascii()):
        return tokens, tokens
    # Whatever the cuts did, there are no more tokens than bytes.
    tokens_max = min(tokens + FORCED_CUT_ERROR_TOKENS * forced_cuts, _utf8_bytes(text))
    if models.exact or text.isascii():
        return tokens, tokens_max
    # How well a vocabulary does on other scripts varies most. cl100k_base was made for English.
    return tokens, max(tokens_max, CL100K_BASE.count(text).tokens)


def _reported(prompt: Prompt, models: Family, *, counted: int, counted_max: int) -> TokenCount:
    """What the provider reports for texts that the vocabulary counts as `counted`, and as `counted_max` at the most."""
    if models.exact and prompt.exact:
        return TokenCount(counted, exact=counted == counted_max, upper_bound=counted_max)
    added = models.constant_tokens + (models.foreign_tools_tokens if prompt.has_tools else 0)
    return TokenCount(
        models.factor.of(counted) + added,
        exact=False,
        upper_bound=models.factor_max.of(counted_max) + models.constant_tokens_max,
    )


def _count_other_parts(prompt: Prompt, *, model: str) -> TokenCount:
    around = prompt.overhead_tokens
    count = TokenCount(around, exact=not prompt.possible_tokens, upper_bound=around + prompt.possible_tokens)
    if prompt.images:
        images = image_rule(model)
        for image in prompt.images:
            count += images.count(image_size(image.head), image.detail)
    if prompt.unread_bytes:
        count += TokenCount(
            -(-prompt.unread_bytes // UNREAD_BYTES_PER_TOKEN),
            exact=False,
            upper_bound=max(prompt.unread_bytes, UNREAD_BOUND_TOKENS_MIN),
        )
    return count


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
