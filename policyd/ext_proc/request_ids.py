"""The ids that policyd mints for requests: `pd-` and 128 random bits, in hexadecimal."""

from __future__ import annotations

import os

_ID_BYTES = 16
_IDS_AT_ONCE = 256
"""How many ids' worth of bits is asked of the kernel at a time: asking costs more than an id."""


class RequestIds:
    def __init__(self) -> None:
        self._bits = ""
        self._at = 0

    def next(self) -> str:
        if self._at == len(self._bits):
            self._bits = os.urandom(_ID_BYTES * _IDS_AT_ONCE).hex()
            self._at = 0
        begin, self._at = self._at, self._at + 2 * _ID_BYTES
        return f"pd-{self._bits[begin : self._at]}"
