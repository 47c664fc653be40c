"""Cohere's usage object, in the units that it bills.

A reply counts twice: `tokens` is what the model read and wrote, `billed_units` what is charged. Cohere writes text of
its own around a prompt (up to 1,700 tokens for a recorded chat) and its models write special tokens; neither is charged
for ("How Does Cohere's Pricing Work?", on billed tokens), so what is taken here is the billed units.

`cached_tokens` counts within all that the model read. How many of them were billed it does not say, nor is there a
price for them: they are not told apart.
"""

from __future__ import annotations

from policyd.core.usage import Usage
from policyd.providers.reply_values import Json, count, first_count, mapping

_UNITS = ("input_tokens", "output_tokens", "image_tokens", "search_units", "images")


def read_usage(reported: Json) -> Usage | None:
    """The usage in a reply's `usage` (v2 chat) or `meta` (all others); `None` for one that counts nothing."""
    counted = mapping(reported.get("tokens"))
    # What was counted and not billed is charged all the same: it would be free by accident.
    billed = mapping(reported.get("billed_units")) or counted
    if all(count(billed.get(unit)) is None for unit in _UNITS):
        return None
    input_tokens, image = first_count(billed.get("input_tokens")), first_count(billed.get("image_tokens"))
    if not image:
        # A chat bills its images among the input, and counts them apart in `tokens`.
        image = min(input_tokens, first_count(counted.get("image_tokens")))
        input_tokens -= image
    output = first_count(billed.get("output_tokens"))
    reasoning = min(output, first_count(counted.get("reasoning_tokens")))
    return Usage(
        input=input_tokens,
        image_input=image,
        output=output - reasoning,
        reasoning=reasoning,
        search_units=first_count(billed.get("search_units")),
        images_read=first_count(billed.get("images")),
    )
