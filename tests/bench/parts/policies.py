"""What limits and rules add to a decision."""

from __future__ import annotations

from typing import Final

from tests.bench.part import Bench, Part
from tests.bench.processes import asked
from tests.bench.samples import Figure
from tests.bench.tables import Table, added, itself, ratio
from tests.bench.targets import Bound, Target

ONE: Final = "1 limit"
RULED: Final = "50 limits and 50 rules"
ROWS: Final = {ONE: (1, 0), "10 limits": (10, 0), "50 limits": (50, 0), RULED: (50, 50)}
"""How many limits and rules each policy has."""

WORKLOAD: Final = "decisions, by policy"

CALLS_PER_SECOND: Final = 1_000
CALLS_MIN: Final = 100
ANSWER_SECONDS_MAX: Final = 60


async def measure(bench: Bench) -> None:
    calls = max(CALLS_MIN, int(bench.plan.slice_seconds * CALLS_PER_SECOND))
    questions = {
        row: {"do": "cost", "limits": limits, "rules": rules, "calls": calls} for row, (limits, rules) in ROWS.items()
    }
    async with asked("tests.bench.deciding", "memory://") as decider:
        for question in questions.values():
            await decider.ask(question, seconds_max=ANSWER_SECONDS_MAX)
        for number, rows in bench.rounds(list(ROWS)):
            bench.progress(f"policies, round {number + 1}")
            for row in rows:
                figures = await decider.ask(questions[row], seconds_max=ANSWER_SECONDS_MAX)
                bench.add(WORKLOAD, row, number, figures)


_POLICIES = Table(
    key="policies",
    title=("Policies,", "without sockets"),
    rows=tuple(ROWS),
    yardsticks=(ONE,),
    columns=(
        itself("decision_cpu_us", ("CPU us", "a decision"), WORKLOAD, Figure.SERVER_CPU_US),
        added("added_cpu_us", ("added to", "a decision"), WORKLOAD, Figure.SERVER_CPU_US, to=ONE),
        ratio("to_one", ("decision,", "x 1 limit"), WORKLOAD, Figure.SERVER_CPU_US, to=ONE),
        itself("whole_cpu_us", ("CPU us, with", "the charge"), WORKLOAD, Figure.ALL_CPU_US),
    ),
)

POLICIES: Final = Part(
    name="policies",
    about="decisions under 1, 10 and 50 limits, and under 50 limits with 50 rules",
    measure=measure,
    tables=(_POLICIES,),
    targets=(
        Target(
            what="CPU that 50 limits and 50 rules add to a decision",
            table="policies",
            row=RULED,
            column="added_cpu_us",
            bound=Bound.AT_MOST,
            value=150,
            unit="us",
        ),
    ),
)
