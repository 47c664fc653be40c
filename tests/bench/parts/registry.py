"""Every part, in the order in which they are measured and shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.bench.part import Part
from tests.bench.parts.calls import CALLS
from tests.bench.parts.growth import GROWTH
from tests.bench.parts.lean import LEAN_PROFILE
from tests.bench.parts.peers import PEERS
from tests.bench.parts.policies import POLICIES
from tests.bench.parts.prompts import PROMPTS
from tests.bench.parts.requests import REQUESTS
from tests.bench.parts.startup import STARTUP
from tests.bench.parts.streams import STREAMS
from tests.bench.parts.workers import WORKERS

PARTS: Final[Mapping[str, Part]] = {
    part.name: part
    for part in (REQUESTS, STREAMS, LEAN_PROFILE, CALLS, PROMPTS, POLICIES, WORKERS, STARTUP, GROWTH, PEERS)
}

USUAL: Final = tuple(name for name in PARTS if name != PEERS.name)
"""What is measured unless the parts are named: peers have to be installed first."""
