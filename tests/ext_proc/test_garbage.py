"""An exchange that has ended is gone at once: what it held waits for no garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.envoy_messages import reply_messages, request_messages, stream_messages
from tests.bench.hot_path import Envoy, serving


@pytest.fixture
def saved() -> Iterator[list[object]]:
    """What the garbage collector finds from here on."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.enable()
    gc.garbage.clear()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_exchange_leaves_no_garbage(saved: list[object], tmp_path: Path, *, stream: bool) -> None:
    request, reply = request_messages(stream=stream), stream_messages() if stream else reply_messages()
    async with serving("memory", tmp_path) as service:
        envoy = Envoy(service)
        gc.collect()
        saved.clear()

        for _ in range(2):
            await envoy.exchange(request, reply, in_turn=not stream)

        gc.collect()
        assert [type(found) for found in saved if type(found).__module__.startswith("policyd.")] == []
        envoy.close()
