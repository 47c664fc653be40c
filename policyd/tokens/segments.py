"""Cutting long text into segments of bounded length, where possible without changing its count.

A tokenizer splits text into pieces (about: words) with a pattern, then merges bytes inside each piece. Both steps fail
on an endless piece: the pattern overflows its stack on a megabyte of spaces, and merging takes time that grows faster
than the piece. So no more than `SEGMENT_CHARS_MAX` characters are ever handed over at once.

A cut is *clean* if the pattern splits there anyway; then the counts of the segments add up to the count of the whole.
In the patterns of both vocabularies a piece never goes on

- from anything but whitespace to a space,
- from a letter or digit to whitespace or to punctuation (the apostrophe of "it's" excepted),
- from a Latin letter to an ASCII digit or back.

Text has such a place every few characters. What has none for `SEGMENT_CHARS_MAX` characters is a run of whitespace, of
symbols, or of one script without punctuation. That is cut all the same, and counts a few tokens too many or too few.
Numbers are the one thing whose pieces depend on where the run began, so they are never cut inside a piece.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from typing import NamedTuple

SEGMENT_CHARS_MAX = 4096
"""A power of two, because repeated characters merge by powers of two: an endless run of one character counts the same
in segments of this length as whole."""

_NUMBER_PIECE_CHARS = 3
"""Both patterns split numbers, of any script, every three digits."""


class Segment(NamedTuple):
    text: str
    clean: bool
    """Whether it ends where the text ends, or where it would be split anyway."""


@cache
def _clean_segment(chars_max: int) -> re.Pattern[str]:
    # The dots take all they can and give back until one of the ends fits: the longest segment that ends cleanly.
    return re.compile(
        rf"""
        .{{1,{chars_max}}}
        (?: \Z
          | (?<=\S) (?=[ ])
          | (?<=[^\W_]) (?=[\s!-&(-/:-@\[-`{{-~\u3001\u3002\uff01-\uff0f\uff1a-\uff20])
          | (?<=[A-Za-z]) (?=[0-9])
          | (?<=[0-9]) (?=[A-Za-z])
        )
        """,
        re.VERBOSE | re.DOTALL,
    )


def segments(text: str, *, chars_max: int = SEGMENT_CHARS_MAX) -> Iterator[Segment]:
    """`text` in order, in segments of at most `chars_max` characters (three at least); none for empty text."""
    clean_segment = _clean_segment(chars_max)
    start = 0
    while start < len(text):
        match = clean_segment.match(text, start)
        if match:
            end = match.end()
        else:
            end = start + chars_max
            end -= _digits_at_end(text[start:end]) % _NUMBER_PIECE_CHARS
        yield Segment(text[start:end], clean=match is not None)
        start = end


def _digits_at_end(text: str) -> int:
    return sum(1 for _ in takewhile(lambda each: unicodedata.category(each).startswith("N"), reversed(text)))
