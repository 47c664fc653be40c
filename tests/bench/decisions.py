"""python -m tests.bench.decisions [--store memory|sqlite|redis] [--limits N] [--rules N] [--at-once N] [--profile]

What deciding, holding and settling costs policyd's own process, in CPU microseconds a call (that of the store's writer
and of the log's thread included), without sockets: the enforcer with its real store, prices, metrics and log line, and
PolicyService from its messages' bytes to their answers' bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import process_time
from typing import Any, Final, cast

import uvloop
import yaml
from google.protobuf.message import Message

from policyd.api.service import PolicyServicer
from policyd.clock import SystemClock
from policyd.config import parse_policy
from policyd.core.policy import Policy
from policyd.core.usage import Usage
from policyd.enforcer import Enforcer, Verdict, reported_ending
from policyd.estimator import Ask
from policyd.prices.table import load_price_book
from policyd.providers.base import Prompt, RequestFacts
from policyd.stores.base import Store
from policyd.stores.url import open_store
from policyd.telemetry import LineWriter, Telemetry
from policyd.tokens import TokenCounter
from policyd.v1 import policy_service_pb2 as service
from tests.bench.calls import check_budget_request, reserve_request, settle_request
from tests.bench.samples import Spread
from tests.bench.traffic import ATTRIBUTES, INPUT_TOKENS, MAX_OUTPUT_TOKENS, MODEL, OUTPUT_TOKENS
from tests.stores.redis_server import running

ROUNDS: Final = 7
CALLS: Final = 2_000
"""Of each kind a round."""

NOWHERE: Final = Path(os.devnull)

PROFILE_LINES: Final = 60

FACTS: Final = RequestFacts(MODEL, streamed=False, prompt=Prompt(()), max_output_tokens=MAX_OUTPUT_TOKENS)
ENDING: Final = reported_ending(Usage(input=INPUT_TOKENS, output=OUTPUT_TOKENS), status=200, response_model=MODEL)

ALWAYS_THERE: Final = (
    {"name": "project-monthly-spend", "per": ["project"], "cost_usd": 1_000_000, "window": "month"},
    {"name": "user-rate", "per": ["user"], "requests": 1_000_000_000, "window": {"sliding": "60s"}},
)
"""The limits of every policy here, those of `make bench`. None is ever reached."""


def further_limits(number: int) -> Iterator[Mapping[str, Any]]:
    """Limits beside them, of five kinds in turn: one of five is for the request that is decided."""
    for n in range(number):
        kinds: Sequence[Mapping[str, Any]] = (
            {"match": {"team": f"team-{n}"}, "per": ["project"], "cost_usd": 1_000_000, "window": "day"},
            {"match": {"model": f"claude-{n}*"}, "per": ["user"], "tokens": 1_000_000_000, "window": "hour"},
            {"match": {"project": f"project-{n}"}, "tokens": 1_000_000_000, "window": "day"},
            {"match": {"user": f"user-{n}", "model": [f"o{n}", f"gpt-{n}*"]}, "requests": 10_000, "window": "minute"},
            {"match": {"model": "gpt-4o*"}, "per": ["project", "user"], "cost_usd": 1_000_000, "window": "week"},
        )
        yield {"name": f"limit-{n}", **kinds[n % len(kinds)]}


def rules_of(number: int) -> Iterator[Mapping[str, Any]]:
    """Rules of five kinds in turn, none of which fires for the request that is decided."""
    for n in range(number):
        least = 1000 - n
        kinds: Sequence[Mapping[str, Any]] = (
            {"match": {"team": f"team-{n}"}},
            {"match": {"model": f"claude-{n}*", "project": f"project-{n}"}},
            {"estimate": {"cost_usd": least}},
            {"any_of": [{"match": {"user": f"user-{n}"}}, {"match": {"model": f"o{n}-*"}}]},
            {"match": {"project": "bench"}, "usage_percent": {"project-monthly-spend": least}},
        )
        yield {"name": f"rule-{n}", "when": kinds[n % len(kinds)], "action": "deny"}


def policy(*, limits: int, rules: int) -> Policy:
    """A policy of so many limits and rules, as an operator would write it."""
    document = {
        "version": 1,
        "identity": {name: [{"header": f"x-policyd-{name}"}] for name in ("project", "user", "team")},
        "limits": [*ALWAYS_THERE[:limits], *further_limits(limits - len(ALWAYS_THERE))],
        "rules": list(rules_of(rules)),
    }
    return parse_policy(yaml.safe_dump(document, sort_keys=False), source="the benchmark's policy")


@dataclass
class Subject:
    """What is measured."""

    enforcer: Enforcer
    policy: Policy
    servicer: PolicyServicer
    ids: Iterator[int] = field(default_factory=count)
    held: list[Verdict] = field(default_factory=list)
    held_by_id: list[str] = field(default_factory=list)

    def ask(self) -> Ask:
        return Ask(
            request_id=self.new_id(),
            provider="openai",
            endpoint="chat.completions",
            facts=FACTS,
            identity=ATTRIBUTES,
            policy=self.policy,
            input_tokens=INPUT_TOKENS,
        )

    def new_id(self) -> str:
        return f"01936f2e-{next(self.ids):012d}"

    async def check(self) -> None:
        assert (await self.enforcer.check(self.ask())).allowed

    async def reserve(self) -> None:
        verdict = await self.enforcer.reserve(self.ask())
        assert verdict.decision.allowed
        self.held.append(verdict)

    async def settle(self) -> None:
        verdict = self.held.pop()
        await self.enforcer.end(verdict.record, verdict.decision.estimate, ENDING)

    async def serve_check(self) -> None:
        request = service.CheckBudgetRequest.FromString(check_budget_request())
        await self._served(self.servicer.CheckBudget(request, cast(Any, None)))

    async def serve_reserve(self) -> None:
        reservation_id = self.new_id()
        request = service.ReserveRequest.FromString(reserve_request(reservation_id))
        await self._served(self.servicer.Reserve(request, cast(Any, None)))
        self.held_by_id.append(reservation_id)

    async def serve_settle(self) -> None:
        request = service.SettleRequest.FromString(settle_request(self.held_by_id.pop()))
        await self._served(self.servicer.Settle(request, cast(Any, None)))

    async def _served(self, answer: Awaitable[Message]) -> bytes:
        return (await answer).SerializeToString()

    @property
    def calls(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """By name, in an order in which each finds what it needs."""
        return {
            "check": self.check,
            "reserve": self.reserve,
            "settle": self.settle,
            "CheckBudget": self.serve_check,
            "Reserve": self.serve_reserve,
            "Settle": self.serve_settle,
        }


@contextmanager
def store_url(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a store of this kind; of Redis, while the block lasts."""
    match kind:
        case "memory":
            yield "memory://"
        case "sqlite":
            yield f"sqlite:///{folder / 'policyd.db'}"
        case _:
            with running(folder) as server:
                yield f"redis://{server.address}/0?timeout=20s"


@asynccontextmanager
async def subject(url: str, policy: Policy) -> AsyncIterator[Subject]:
    async with AsyncExitStack() as stack:
        writer = LineWriter(stack.enter_context(NOWHERE.open("wb")))  # noqa: ASYNC230 - it waits for nothing
        stack.callback(writer.close)
        store: Store = open_store(url)
        stack.push_async_callback(store.close)
        enforcer = Enforcer(
            store=store,
            prices=load_price_book(),
            counter=TokenCounter(),
            clock=SystemClock(),
            policy=lambda: policy,
            observer=Telemetry(version="", write_line=writer.write),
        )
        yield Subject(enforcer, policy, PolicyServicer(enforcer))


async def cpu_us(call: Callable[[], Awaitable[None]], *, at_once: int, calls: int) -> float:
    """CPU microseconds of this process for one call, `at_once` of them under way at a time."""
    turns = iter(range(calls))

    async def worker() -> None:
        for _ in turns:
            await call()

    began = process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return (process_time() - began) / calls * 1_000_000


async def measure(url: str, policy: Policy, *, at_once: int, rounds: int, calls: int) -> Mapping[str, Spread]:
    """What each kind of call costs. The first round is a warm-up that is not counted."""
    figures: dict[str, list[float]] = defaultdict(list)
    async with subject(url, policy) as measured:
        for number in range(rounds + 1):
            gc.collect()
            gc.freeze()
            for name, call in measured.calls.items():
                figure = await cpu_us(call, at_once=at_once, calls=calls)
                if number:
                    figures[name].append(figure)
    for name, (first, second) in {
        "reserve + settle": ("reserve", "settle"),
        "Reserve + Settle": ("Reserve", "Settle"),
    }.items():
        figures[name] = [sum(pair) for pair in zip(figures[first], figures[second], strict=True)]
    return {name: Spread.of(values) for name, values in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.decisions", description=__doc__)
    parser.add_argument("--store", choices=("memory", "sqlite", "redis"), default="memory")
    parser.add_argument("--limits", type=int, default=2, help="how many the policy has")
    parser.add_argument("--rules", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=16, help="how many calls are under way at a time")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--calls", type=int, default=CALLS, help="of each kind a round")
    parser.add_argument("--profile", action="store_true", help="tell which functions take the time, too")
    given = parser.parse_args()
    made = policy(limits=given.limits, rules=given.rules)
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder, store_url(given.store, Path(folder)) as url:
        if given.profile:
            profile.enable()
        figures = uvloop.run(measure(url, made, at_once=given.at_once, rounds=given.rounds, calls=given.calls))
        profile.disable()
    print(f"{given.store}, {given.limits} limits, {given.rules} rules, {given.at_once} at once: CPU us a call")
    for name, spread in figures.items():
        print(f"  {name:<18}{spread.median:8.1f}   {spread.least:.1f} to {spread.most:.1f}")
    if given.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(PROFILE_LINES)


if __name__ == "__main__":
    main()
