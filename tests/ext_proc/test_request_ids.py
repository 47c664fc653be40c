"""Ids are minted in batches, and none twice."""

from __future__ import annotations

import re

from policyd.ext_proc.request_ids import RequestIds


def test_no_id_comes_twice() -> None:
    ids = RequestIds()
    minted = [ids.next() for _ in range(1000)]
    assert len(set(minted)) == 1000
    assert all(re.fullmatch("pd-[0-9a-f]{32}", each) for each in minted)
