"""The operators: each carries out one command while policyd runs."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from policyd.control import blocks, budgets
from policyd.control.desk import Desk
from policyd.core.errors import ConfigError, StaleState, StoreError
from policyd.core.money import NANOS_PER_USD
from policyd.core.policy import Metric
from policyd.core.runtime import Kind
from tests.simulation.clients import World
from tests.simulation.plan import Action, Command
from tests.simulation.replica import Replica, Unreachable

_BLOCKED_BY = ("user", "project")


async def operate(world: World, command: Command) -> None:
    await asyncio.sleep(command.at)
    replica = world.replicas[command.replica]
    try:
        await replica.serve(lambda replica: _carry_out(replica, command))
    except (ConfigError, StaleState, StoreError, Unreachable) as error:
        world.tell("operator", f"{command.action} on {replica.name} failed: {error}")


async def _carry_out(replica: Replica, command: Command) -> None:
    desk: Desk = replica.desk()
    limit = desk.policy.limits[command.limit]
    scope = command.scope(limit.per)
    match command.action:
        case Action.SET:
            amount = command.amount
            written = f"{Decimal(amount) / NANOS_PER_USD:f}" if limit.metric is Metric.COST else str(amount)
            await budgets.set_amount(desk, scope, written, limit=limit.name, ends_at_ms=None)
        case Action.DELETE:
            await budgets.delete_amount(desk, scope, limit=limit.name)
        case Action.RESET:
            await budgets.reset(desk, scope, limit=limit.name)
        case Action.BLOCK:
            blocked = command.scope(_BLOCKED_BY)
            await blocks.block(desk, Kind.BLOCK, blocked, reason="It is simulated.", ends_at_ms=None)
        case Action.UNBLOCK:
            await blocks.unblock(desk, Kind.BLOCK, command.scope(_BLOCKED_BY))
