"""A worker's process, watched as its supervisor watches it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from policyd.workers.worker import Worker


async def test_a_worker_hangs_while_it_takes_connections_and_answers_nothing(tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "POLICYD_STORE": f"sqlite:///{tmp_path}/policyd.db",
        "POLICYD_GRPC": "127.0.0.1:0",
        "POLICYD_EXT_PROC": f"unix:{tmp_path}/policyd.sock",
        "POLICYD_HTTP": "127.0.0.1:0",
    }
    worker = Worker(0, environ, token="made-up", log_line=lambda _: None)
    assert not await worker.hangs()  # it is not there
    await worker.start()
    try:
        assert not await worker.hangs()
        worker.send_signal(signal.SIGSTOP)
        assert await worker.hangs()
        worker.send_signal(signal.SIGCONT)
        assert not await worker.hangs()
    finally:
        worker.send_signal(signal.SIGKILL)
        assert await worker.ended() == -signal.SIGKILL
    assert not await worker.hangs()  # it is gone
