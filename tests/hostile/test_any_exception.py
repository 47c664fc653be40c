"""An exception out of every function that an exchange calls: the failure mode decides, and no request goes unmetered.

The functions are found, not listed, so that one that is added tomorrow is tried too. Each is made to raise from its
first call on, in the middle of exchanges of every shape.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import isclass, isfunction
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, NoReturn

import pytest

from policyd import enforcer, estimator
from policyd.core import decision, limits
from policyd.core.policy import FailureMode
from policyd.core.record import Outcome
from policyd.ext_proc import charging, document, encoding, headers, meter, refusal, reply, request
from policyd.providers import editing, registry, request_body
from policyd.providers.framing import choice, sse
from policyd.providers.openai import chat as openai_chat
from policyd.providers.openai import reply as openai_reply
from policyd.tokens import counter
from tests.builders import USD, World, limit, policy
from tests.ext_proc import wire
from tests.ext_proc.envoy_model import Envoy
from tests.ext_proc.wire import SSE, chat, chat_reply, chat_stream, request_headers

MODULES: Sequence[ModuleType] = (
    charging,
    choice,
    counter,
    decision,
    document,
    editing,
    encoding,
    estimator,
    headers,
    limits,
    meter,
    openai_chat,
    openai_reply,
    refusal,
    registry,
    reply,
    request,
    request_body,
    sse,
    *(import_module(f"{enforcer.__name__}.{found.name}") for found in iter_modules(enforcer.__path__)),
)

LEFT_OUT = {
    "Enforcer.budget": "the test looks at the books with it",
    "Enforcer.now_ms": "the test makes its exchange with it",
    "Enforcer.let_go": "the last resort itself, a set that lets go of a text",
    "observer.timed": "is handed a coroutine, which would never be awaited; what stores raise has tests of its own",
}


class Panic(BaseException):
    """What a library written in Rust raises: no `Exception`."""


@dataclass(frozen=True)
class Boundary:
    """A function or method, and every place that calls it by a name of its own."""

    name: str
    places: tuple[tuple[Any, str], ...]

    def __str__(self) -> str:
        return self.name


def boundaries() -> Iterator[Boundary]:
    for module in MODULES:
        for name, member in vars(module).items():
            if getattr(member, "__module__", None) != module.__name__:
                continue
            if isfunction(member):
                users = [user for key, user in sys.modules.items() if key.startswith("policyd.")]
                places = tuple((user, name) for user in users if vars(user).get(name) is member)
                label = f"{module.__name__.rpartition('.')[2]}.{name}"
                if label not in LEFT_OUT:
                    yield Boundary(label, places)
            elif isclass(member):
                for method, function in vars(member).items():
                    label = f"{name}.{method}"
                    if isfunction(function) and not method.startswith("__") and label not in LEFT_OUT:
                        yield Boundary(label, ((member, method),))


ALL = list(boundaries())


@dataclass
class Raising:
    """Raises when it is called, and keeps in mind that it was."""

    error: Callable[[], BaseException]
    calls: int = 0

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        self.calls += 1
        raise self.error()


@dataclass(frozen=True)
class Case:
    """One exchange."""

    request: bytes
    reply_headers: dict[str, str]
    reply: tuple[bytes, ...]
    budget: int = 10 * USD


CASES = {
    "stream that is topped up": Case(chat(stream=True), SSE, tuple(chat_stream(["some words of a reply"] * 3))),
    "document": Case(chat(), wire.reply_headers(length=len(chat_reply())), (chat_reply(),)),
    "document in pieces": Case(chat(), wire.reply_headers(), (chat_reply()[:20], chat_reply()[20:])),
    "compressed stream": Case(
        chat(stream=True),
        wire.reply_headers("text/event-stream", content_encoding="gzip"),
        tuple(wire.flushed("gzip", chat_stream(usage=None))),
    ),
    "refused": Case(chat(), wire.reply_headers(), (chat_reply(),), budget=1),
    "unreadable": Case(b"{", wire.reply_headers(), (chat_reply(),)),
}


async def play(case: Case, failure_mode: FailureMode, raising: Callable[[], None]) -> tuple[World, Envoy]:
    world = World(policy(limit(amount=case.budget), default_max_output_tokens=1, failure_mode=failure_mode))
    envoy = Envoy(world)
    raising()
    await envoy.request(request_headers(case.request), [case.request])
    if envoy.upstream.ended:
        await envoy.response(case.reply_headers, case.reply)
    await envoy.close()
    return world, envoy


@pytest.mark.parametrize("error", [lambda: ValueError("what somebody asked"), Panic], ids=["exception", "panic"])
@pytest.mark.parametrize("failure_mode", FailureMode)
@pytest.mark.parametrize("boundary", ALL, ids=str)
async def test_it_is_never_unmetered(
    boundary: Boundary,
    failure_mode: FailureMode,
    error: Callable[[], BaseException],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, case in CASES.items():
        raising = Raising(error)
        with monkeypatch.context() as patch:

            def put_in(patch: pytest.MonkeyPatch = patch, raising: Raising = raising) -> None:
                for owner, attribute in boundary.places:
                    patch.setattr(owner, attribute, raising)

            world, envoy = await play(case, failure_mode, put_in)
        assert envoy.answered, name
        assert world.enforcer.open_reservations == 0, name
        # A hold that could not be ended is charged when it expires.
        world.clock.ms += 200_000
        await world.enforcer.sweep()
        spent = await world.spent()
        if not envoy.upstream.ended:
            assert envoy.client.status >= 400, name
        else:
            assert spent > 0, name
            if failure_mode is not FailureMode.OPEN:
                assert all(record.outcome is not Outcome.UNMETERED for record in world.seen.records), name
        if raising.calls and failure_mode is not FailureMode.OPEN and not envoy.upstream.ended:
            assert envoy.client.status in (400, 402, 500, 503), name
    assert "what somebody asked" not in caplog.text


async def test_the_functions_are_the_ones_that_exchanges_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above cannot come to try nothing."""
    reached = 0
    for boundary in ALL:
        calls = 0

        for case in CASES.values():
            raising = Raising(ValueError)
            with monkeypatch.context() as patch:

                def put_in(patch: pytest.MonkeyPatch = patch, raising: Raising = raising) -> None:
                    for owner, attribute in boundary.places:  # noqa: B023 - called before the next turn
                        patch.setattr(owner, attribute, raising)

                await play(case, FailureMode.CLOSED, put_in)
            calls += raising.calls
        reached += calls > 0
    assert reached > 80
