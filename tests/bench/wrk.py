"""A load of HTTP requests by wrk (https://github.com/wg/wrk), which takes less of the machine than the client here.

wrk ends when the time is up, with its last requests under way. They are not counted, though their work is: a few dozen
among thousands.
"""

from __future__ import annotations

import asyncio
import json
from itertools import chain
from pathlib import Path
from typing import Final

from policyd.config import HostPort
from tests.bench.load import Load, UnexpectedReply
from tests.bench.traffic import REQUEST_PATH, request_body, request_headers

SCRIPT: Final = Path(__file__).with_name("wrk.lua")

END_SECONDS_MAX: Final = 10


async def wrk_load(program: str, address: HostPort, *, connections: int, seconds: int) -> Load:
    """Raises `UnexpectedReply` if a reply is not a 200."""
    headers = chain.from_iterable(("-H", f"{name}: {value}") for name, value in request_headers().items())
    process = await asyncio.create_subprocess_exec(
        program,
        *("--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--script", str(SCRIPT)),
        *headers,
        f"http://{address}{REQUEST_PATH}",
        "--",
        request_body().decode(),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds + END_SECONDS_MAX):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise UnexpectedReply(f"wrk ended with status {process.returncode}")
    told = json.loads(output.splitlines()[-1])
    if told["failed"]:
        raise UnexpectedReply(f"{told['failed']} of {told['requests']} requests failed")
    return Load(
        requests=told["requests"],
        seconds=told["microseconds"] / 1e6,
        p50_ms=told["p50_us"] / 1000,
        p99_ms=told["p99_us"] / 1000,
    )
