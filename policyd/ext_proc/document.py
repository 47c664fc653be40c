"""Reads a reply that is one JSON document and comes in pieces, without holding it back.

A document of usual size is kept until it is whole and then read as such, its output text included. Of a larger one, and
of one that is no JSON or broke off, only the members that tell its usage are read.
"""

from __future__ import annotations

import msgspec

from policyd.providers.base import ReplyReader
from policyd.providers.framing.json_members import JsonMembers

KEPT_BYTES_MAX = 262_144
"""The largest document that is kept, and the most that is kept of a larger one's members."""


class ReplyDocument:
    def __init__(self, reader: ReplyReader) -> None:
        self._reader = reader
        self._kept = bytearray()
        self._members: JsonMembers | None = None
        """Reads the document in passing, once it is too large to be kept."""

    def feed(self, chunk: bytes) -> None:
        if self._members is not None:
            self._members.feed(chunk)
            return
        self._kept += chunk
        if len(self._kept) > KEPT_BYTES_MAX:
            self._members = self._skim()

    def finish(self) -> None:
        """The document has ended, or broken off."""
        if self._members is None and self.read_whole(bytes(self._kept)):
            self._kept.clear()
            return
        members = self._members or self._skim()
        self._reader.read_document(members.found, partial=True)

    def read_whole(self, document: bytes) -> bool:
        """Reads a document that is there in one piece; returns whether it was a JSON object."""
        try:
            decoded = msgspec.json.decode(document)
        except (ValueError, RecursionError):
            return False
        if isinstance(decoded, list) and len(decoded) == 1:
            # How Google answers a stream that it refuses, where a stream would have been an array.
            decoded = decoded[0]
        if not isinstance(decoded, dict):
            return False
        self._reader.read_document(decoded)
        return True

    def _skim(self) -> JsonMembers:
        """Reads what was kept for its members, and keeps it no longer."""
        members = JsonMembers(self._reader.document_members, bytes_max=KEPT_BYTES_MAX)
        members.feed(bytes(self._kept))
        self._kept.clear()
        return members
