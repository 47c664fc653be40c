"""LiteLLM's proxy from PyPI, in a virtual environment of its own under `.bench/`, in front of the benchmark's provider.

Its budgets of keys, users and teams need Postgres by way of Prisma, whose engines come from no package registry. What
it enforces without a database is a budget for a provider, kept in memory; that is what is compared.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from policyd.config import HostPort
from tests.bench.processes import ROOT, ChildFailed, process
from tests.bench.traffic import MODEL

VERSION: Final = "1.106.2"
HOME: Final = ROOT / ".bench" / "litellm"

START_SECONDS_MAX: Final = 120
INSTALL_SECONDS_MAX: Final = 900

_POLL_SECONDS = 0.2
_KEY = "sk-bench"
_ENVIRON = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}


@dataclass(frozen=True, slots=True)
class LiteLlm:
    pid: int
    address: HostPort


async def install() -> None:
    """Once; some minutes. Raises `ChildFailed` if PyPI cannot be reached."""
    installed = HOME / f"installed-{VERSION}"
    if installed.exists():
        return
    HOME.parent.mkdir(exist_ok=True)
    async with asyncio.timeout(INSTALL_SECONDS_MAX):
        await _run(sys.executable, "-m", "venv", str(HOME))
        await _run(str(HOME / "bin" / "pip"), "install", "--quiet", f"litellm[proxy]=={VERSION}")
    installed.touch()


async def _run(*command: str) -> None:
    async with process(*command) as running:
        if await running.wait() != 0:
            raise ChildFailed(f"{' '.join(command)} failed; its own words are above")


@asynccontextmanager
async def litellm(provider: HostPort, folder: Path, *, budget: bool) -> AsyncIterator[LiteLlm]:
    """The proxy, with one worker, once it answers. Raises `ChildFailed`."""
    name = "litellm-budget" if budget else "litellm"
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(_config(provider, budget=budget)))
    address = HostPort("127.0.0.1", _free_port())
    command = (str(HOME / "bin" / "litellm"), f"--config={config}", f"--host={address.host}", f"--port={address.port}")
    with (folder / f"{name}.log").open("wb") as log:
        async with process(
            *command, "--num_workers=1", stdout=log.fileno(), stderr=log.fileno(), environ=_ENVIRON
        ) as it:
            await _answers(address, it, name)
            yield LiteLlm(it.pid, address)


def _config(provider: HostPort, *, budget: bool) -> dict[str, Any]:
    model = {"model": f"openai/{MODEL}", "api_base": f"http://{provider}/v1", "api_key": _KEY}
    config: dict[str, Any] = {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "general_settings": {"master_key": _KEY},
    }
    if budget:
        budgets = {"openai": {"budget_limit": 1_000_000, "time_period": "30d"}}
        config["router_settings"] = {"provider_budget_config": budgets}
    return config


async def _answers(address: HostPort, running: asyncio.subprocess.Process, name: str) -> None:
    try:
        async with asyncio.timeout(START_SECONDS_MAX):
            while running.returncode is None:
                if await _is_alive(address):
                    return
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        pass
    raise ChildFailed(f"{name} was not ready (exit status {running.returncode})")


async def _is_alive(address: HostPort) -> bool:
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    with closing(writer):
        writer.write(b"GET /health/liveliness HTTP/1.1\r\nhost: litellm\r\nconnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()


def _free_port() -> int:
    """It takes a port, and does not tell the one that it found itself."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
