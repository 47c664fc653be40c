"""Counting tokens, with vocabularies that ship in the package. No network, ever."""

from policyd.tokens.count import TokenCount
from policyd.tokens.counter import TokenCounter

__all__ = ["TokenCount", "TokenCounter"]
