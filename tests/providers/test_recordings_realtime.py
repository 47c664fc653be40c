"""Recorded realtime sessions: framed and cut at random places, they are read as their providers reported them."""

from __future__ import annotations

from random import Random

import pytest

from tests import recordings
from tests.accuracy.sessions import FORMATS, read_session, session_disagreements
from tests.providers.replay import random_chunks
from tests.recordings import Recording

pytestmark = recordings.AT_HAND

UNREPORTED = {"153395374ad6": "the turn has a transcript, and its usage no count of the output"}
"""Turns whose output has to be counted, and why."""


def sessions() -> list[Recording]:
    if not recordings.PATH.exists():
        return []
    return [record for record in recordings.every_recording() if record["wire"] in FORMATS]


@pytest.mark.parametrize("record", sessions(), ids=lambda record: record["id"])
def test_every_response_is_found_with_its_usage(record: Recording) -> None:
    reader, ends = read_session(record, lambda body: random_chunks(body, Random(record["id"])))
    assert reader.model
    assert ends
    assert not session_disagreements(ends, record)
    assert [end.complete for end in ends] == [record["id"] not in UNREPORTED] * len(ends)
