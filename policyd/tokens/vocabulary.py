"""The byte-pair vocabularies that ship with policyd, and how text is counted with them.

They are read from the package and nowhere else: there is no network in a mesh, and none is ever tried. The pattern that
a vocabulary splits text with is part of its published definition (tiktoken, `tiktoken_ext/openai_public.py`).
"""

from __future__ import annotations

import gzip
import hashlib
from binascii import a2b_base64
from collections.abc import Mapping
from importlib.resources import files
from threading import Lock
from typing import Final, NamedTuple

from tiktoken import Encoding

from policyd.tokens.segments import SEGMENT_CHARS_MAX, segments

COMMON_WORDS: Final = ("system", "developer", "user", "assistant", "tool", "function", "model")
"""Texts of their own in most prompts: the roles of messages. Each is counted once for all."""

_COMMON_WORD_CHARS_MAX: Final = max(map(len, COMMON_WORDS))


class Counted(NamedTuple):
    tokens: int
    forced_cuts: int
    """How often text was cut where it would not have been split; zero for a count that is exact."""


class Vocabulary:
    """One vocabulary, loaded from the package when it is first used. Safe to use from several threads."""

    def __init__(self, name: str, *, split_pattern: str, sha256: str) -> None:
        self.name = name
        self._split_pattern = split_pattern
        self._sha256 = sha256
        self._encoding: Encoding | None = None
        self._word_tokens: Mapping[str, int] = {}
        """Of `COMMON_WORDS`, once the vocabulary is loaded."""
        self._loading = Lock()

    def load(self) -> Encoding:
        """The vocabulary in memory. Raises `ValueError` if the package's file is not the published one."""
        if self._encoding is None:
            with self._loading:
                if self._encoding is None:
                    encoding = self._read()
                    self._word_tokens = {word: len(encoding.encode_ordinary(word)) for word in COMMON_WORDS}
                    self._encoding = encoding
        return self._encoding

    def _read(self) -> Encoding:
        resource = files("policyd.tokens") / "data" / f"{self.name}.tiktoken.gz"
        plain = gzip.decompress(resource.read_bytes())
        if hashlib.sha256(plain).hexdigest() != self._sha256:
            raise ValueError(f"{resource} is not the vocabulary {self.name} as published: its hash differs")
        words = plain.split()
        ranks = dict(zip(map(a2b_base64, words[::2]), map(int, words[1::2]), strict=True))
        # No special tokens: a prompt that spells "<|endoftext|>" is text to the provider too.
        encoding = Encoding(self.name, pat_str=self._split_pattern, mergeable_ranks=ranks, special_tokens={})
        # It counts with a copy of its own, and keeps the dict for who wants to look into it: tens of megabytes.
        encoding._mergeable_ranks = {}
        return encoding

    def count(self, text: str) -> Counted:
        """Counts `text` in time that grows in step with its length, whatever it contains. Never raises.

        A lone surrogate, which JSON can carry, counts as the replacement character.
        """
        encoding = self._encoding or self.load()
        if len(text) <= _COMMON_WORD_CHARS_MAX and (tokens := self._word_tokens.get(text)) is not None:
            return Counted(tokens, forced_cuts=0)
        if len(text) <= SEGMENT_CHARS_MAX:
            return Counted(len(encoding.encode_ordinary(text)), forced_cuts=0)
        tokens = forced_cuts = 0
        for segment in segments(text):
            tokens += len(encoding.encode_ordinary(segment.text))
            forced_cuts += not segment.clean
        return Counted(tokens, forced_cuts)


O200K_BASE = Vocabulary(
    "o200k_base",
    split_pattern="|".join(
        [
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    ),
    sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
)
"""Models from gpt-4o on, and the o-series."""

CL100K_BASE = Vocabulary(
    "cl100k_base",
    split_pattern="|".join(
        [
            r"'(?i:[sdmt]|ll|ve|re)",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++",
            r"\p{N}{1,3}+",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
            r"\s++$",
            r"\s*[\r\n]",
            r"\s+(?!\S)",
            r"\s",
        ]
    ),
    sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
)
"""gpt-4, gpt-3.5 and the embedding models."""
