"""Measures: sets the stage, then lets one part after the other have it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.arrangements import staged
from tests.bench.part import Bench, Part
from tests.bench.plan import Plan
from tests.bench.samples import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    plan: Plan
    parts: Sequence[Part]
    generator: str
    """What made the load of HTTP."""
    samples: Samples


async def run(plan: Plan, parts: Sequence[Part], *, progress: Callable[[str], None]) -> Outcome:
    """`progress` is told what is under way.

    Raises what a load raises, as an `ExceptionGroup` or alone: there are no figures of failures.
    """
    with tempfile.TemporaryDirectory(prefix="policyd-bench-") as folder:
        async with staged(Path(folder)) as stage:
            bench = Bench(plan, stage, progress=progress)
            for part in parts:
                progress(f"{part.name}, starting what it needs")
                await part.measure(bench)
    return Outcome(plan=plan, parts=parts, generator=bench.generator, samples=Samples(bench.samples))
