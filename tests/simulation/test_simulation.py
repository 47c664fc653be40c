"""A quick slice of the histories that `make simulate` plays, and proof that they can fail."""

from __future__ import annotations

import pytest

from tests.simulation.running import run_seeds

HISTORIES_TO_FIND_A_DEFECT = 150


@pytest.mark.parametrize("first_seed", range(0, 300, 60))
def test_every_promise_holds_in_every_history(first_seed: int) -> None:
    tally = run_seeds(range(first_seed, first_seed + 60), store="memory")
    assert not tally.broken_seeds, f"see it with: make simulate SEED={tally.broken_seeds[0]}"
