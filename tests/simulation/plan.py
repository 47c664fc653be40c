"""What one history consists of: who does what when, and what goes wrong. Data alone, drawn before anything happens.

A plan can be made smaller by leaving out parts; what is left behaves as it did, for every part has its own chances,
drawn from the plan's seed and the part's name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from random import Random

from policyd.core.policy import FailureMode, Policy

MODEL = "sim-1"
INPUT_NANOS = 1_000
OUTPUT_NANOS = 4_000
"""What a token of `MODEL` costs."""

STORE_TIMEOUT_SECONDS = 2
"""How long a replica waits for the store's answer."""
CLIENT_TIMEOUT_SECONDS = 6
"""How long a client waits for a replica's answer."""


class Way(StrEnum):
    """How a request comes in."""

    GRPC = "grpc"
    """Reserve, Extend, Settle and Release, each repeated until it is answered."""
    EXCHANGE = "exchange"
    """Through Envoy: one replica holds, renews and ends."""
    REPORT = "report"
    """RecordUsage: nothing is held before."""


class Finish(StrEnum):
    """What a client does once the provider has answered."""

    SETTLE = "settle"
    RELEASE = "release"
    """The provider was never called."""
    VANISH = "vanish"
    """Nothing: it was killed, or forgot."""


@dataclass(frozen=True, slots=True)
class Script:
    """One request and its client. Times in seconds."""

    name: str
    """The request id."""
    way: Way
    starts_at: float
    replicas: tuple[int, ...]
    """Which replicas it asks, one attempt after the other, from the first again after the last."""
    attributes: tuple[tuple[str, str], ...]
    input_tokens: int
    max_output_tokens: int | None
    """`None`: unbounded; its stream is topped up as it grows."""
    output_tokens: int
    """What the provider really generates, where nothing cuts it."""
    lasts: float
    """How long the provider takes."""
    finish: Finish
    attempts: int
    """How often a call is made that is not answered."""
    repeats: bool
    """Whether each call is made once more after it was answered."""

    @property
    def identity(self) -> dict[str, str]:
        return dict(self.attributes)


class Boundary(Enum):
    """Where in a replica's call of the store a crash hits it."""

    BEFORE = "before it is sent"
    SENT = "while it is on its way"
    DONE = "with its answer on its way"


@dataclass(frozen=True, slots=True)
class Crash:
    """A replica dies at a boundary of its `nth` call of one operation of the store, and starts again."""

    replica: int
    operation: str
    nth: int
    boundary: Boundary
    down_seconds: float


@dataclass(frozen=True, slots=True)
class StoreRestart:
    at: float
    down_seconds: float


@dataclass(frozen=True, slots=True)
class Partition:
    """No message passes between a replica and the store."""

    replica: int
    at: float
    lasts: float


@dataclass(frozen=True, slots=True)
class ClockJump:
    """A replica's clock is set, by more than the grace."""

    replica: int
    at: float
    by_seconds: int


Incident = Crash | StoreRestart | Partition | ClockJump


class Action(StrEnum):
    """What an operator does while policyd runs."""

    SET = "set"
    """A limit gets another amount for a scope."""
    DELETE = "delete"
    RESET = "reset"
    BLOCK = "block"
    UNBLOCK = "unblock"


@dataclass(frozen=True, slots=True)
class Command:
    """An operator's command, on the machine of a replica; of the limit and for the scope of one script."""

    at: float
    replica: int
    action: Action
    limit: int
    attributes: tuple[tuple[str, str], ...]
    amount: int

    def scope(self, per: tuple[str, ...]) -> str:
        return ",".join(f"{name}={value}" for name, value in self.attributes if name in per)


@dataclass(frozen=True, slots=True)
class Weather:
    """Of a hundred messages, how many are lost, doubled and late, in each direction."""

    lost: int = 0
    doubled: int = 0
    late: int = 0

    @property
    def calm(self) -> bool:
        return not (self.lost or self.doubled or self.late)


CALM = Weather()


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one message: the seconds until each copy arrives, and those its answer takes; `None`: lost."""

    arrivals: tuple[float, ...]
    answer: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    starts_at_ms: int
    policy: Policy
    skews_ms: tuple[int, ...]
    """How far each replica's clock is off."""
    sweep_seconds: int
    weather: Weather
    scripts: tuple[Script, ...]
    incidents: tuple[Incident, ...]
    commands: tuple[Command, ...]

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong."""
        return self.weather.calm and not self.incidents

    @property
    def jumps(self) -> bool:
        """Whether clocks jump beyond the grace, which takes some promises away."""
        return any(isinstance(each, ClockJump) for each in self.incidents)

    @property
    def leases(self) -> bool:
        """Whether replicas lease shares of budgets, to spend while the store is away."""
        return self.policy.failure_mode is FailureMode.DEGRADED

    def fate(self, message: str) -> Fate:
        """What becomes of a message by its name."""
        if self.weather.calm:
            return Fate((0.003,), 0.003)
        chance = Random(f"{self.seed} {message}")
        copies = 0 if chance.randrange(100) < self.weather.lost else 1 + (chance.randrange(100) < self.weather.doubled)
        lost = chance.randrange(100) < self.weather.lost
        return Fate(
            tuple(self._delay(chance) for _ in range(copies)),
            None if lost else self._delay(chance),
        )

    def _delay(self, chance: Random) -> float:
        if chance.randrange(100) >= self.weather.late:
            return chance.randrange(1, 40) / 1000
        if chance.randrange(6):
            return chance.randrange(100, 6_000) / 1000
        return chance.randrange(10_000, 120_000) / 1000


def without_faults(plan: Plan) -> Plan:
    """The plan where no message is lost, doubled or late."""
    return replace(plan, weather=CALM)
