"""How many search units a ranking takes: one is a query with up to a hundred documents.

A document of more than about 500 tokens, the query included, is divided, and each part counts as one (Cohere, "How Does
Cohere's Pricing Work?" and the models' own pages).
"""

from __future__ import annotations

from collections.abc import Sequence

from policyd.core.usage import Usage

DOCUMENTS_A_UNIT = 100

_PART_BYTES_MIN = 400
"""No part is expected to have fewer bytes than that, the query aside: a token has one at least."""


def rerank_pieces(texts: Sequence[str]) -> tuple[Usage, Usage]:
    """The units that are expected, and the most. `texts` are the query and the documents."""
    _, *documents = texts or ("",)
    parts = sum(1 + len(document.encode("utf-8", "surrogatepass")) // _PART_BYTES_MIN for document in documents)
    return Usage(search_units=_units(len(documents))), Usage(search_units=_units(parts))


def _units(documents: int) -> int:
    return max(1, -(-documents // DOCUMENTS_A_UNIT))
