"""How long a piece of audio is, from the bytes of its file."""

from __future__ import annotations

from policyd.core.money import divide_up

HIDDEN_AUDIO_MS = 1_800_000
"""What audio that a request only names is held for: half an hour, the most that Mistral's models hear at once."""

_BITS_PER_MS_MIN = 6
"""Speech is not coded in less than 6 kbit a second."""


def audio_ms_max(file_bytes: int) -> int:
    """The longest that a file of that size can be, in milliseconds."""
    return divide_up(file_bytes * 8, _BITS_PER_MS_MIN)
