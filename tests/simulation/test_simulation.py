"""A quick slice of the histories that `make simulate` plays, and proof that they can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.simulation.defects import DEFECTS, SQLITE_DEFECTS, Defect, put_in
from tests.simulation.drawing import draw
from tests.simulation.plan import Boundary
from tests.simulation.running import Tally, run_seed, run_seeds
from tests.simulation.shrinking import shrunk

SLICES = [
    *(("memory", range(first, first + 30)) for first in range(0, 150, 30)),
    ("sqlite", range(10)),
    ("redis", range(6)),
]
"""Short enough for a test each, on a machine that is busy."""

HISTORIES_TO_FIND_A_DEFECT = 200

REPOSITORY = Path(__file__).parents[2]


@cache
def tally_of(store: str, seeds: range) -> Tally:
    return run_seeds(seeds, store=store)


@pytest.mark.parametrize(("store", "seeds"), SLICES)
def test_every_promise_holds_in_every_history(store: str, seeds: range) -> None:
    broken = tally_of(store, seeds).broken_seeds
    assert broken == [], f"python -m tests.simulation --store {store} --seed {broken[0]}"


def test_the_histories_meet_what_they_are_there_for() -> None:
    seen: Counter[str] = Counter()
    for store, seeds in SLICES:
        seen.update(tally_of(store, seeds).seen)
    for boundary in Boundary:
        for operation in ("reserve", "settle", "sweep"):
            crash = f"replica: CRASH in its {operation}, {boundary.value}"
            assert seen[crash], crash
    for outcome in (
        "requests lost",
        "requests doubled",
        "answers lost",
        "holds that expired",
        "replica: PARTITION from the store",
        "store: STOPS",
        "reserve: refused",
        "reserve: stale",
        "reserve: exists, settled",
        "settle: repeated",
        "settle: settled, was expired",
        "release: ended, settled",
        "extend: a part of it",
        "extend: nothing",
        "journal: took",
        "reserve: a lease, granted",
        "reserve: a lease, refused",
        "reserve: replayed",
        "settle: a lease, settled, was reserved",
        "settle: a lease, settled, was expired",
        "release: a lease, released, was reserved",
    ):
        assert seen[outcome], outcome


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.what)
def test_a_defect_is_found(defect: Defect) -> None:
    with put_in(defect):
        assert run_seeds(range(HISTORIES_TO_FIND_A_DEFECT), store="memory").broken_seeds


@pytest.mark.parametrize("defect", SQLITE_DEFECTS, ids=lambda defect: defect.what)
def test_a_defect_of_sqlite_is_found(defect: Defect) -> None:
    with put_in(defect):
        assert run_seeds(range(10), store="sqlite").broken_seeds


def test_a_broken_history_is_shrunk_to_what_breaks_it() -> None:
    with put_in(DEFECTS[0]):
        (seed,) = run_seeds(range(HISTORIES_TO_FIND_A_DEFECT), store="memory").broken_seeds
        told = shrunk(run_seed(seed, store="memory"), store="memory")
    assert told.broken is not None
    assert len(told.plan.scripts) < len(draw(seed).scripts)
    assert "BROKEN" in told.lines[-1]
    # With the defect taken out again the small history holds too.
    assert run_seed(seed, store="memory").broken is None


def test_a_seed_is_told_alike_by_every_process() -> None:
    """Whatever order its sets are in."""
    first, second = (_story(seed=5, hash_seed=hash_seed) for hash_seed in ("1", "2"))
    assert first == second
    assert "every promise held" in first


def _story(*, seed: int, hash_seed: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", str(seed)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
