"""`policyd demo`: sets everything up, tells the story, and puts everything away again.

    story.py        this: what runs, from when to when
    scenes/         what is shown, one module a scene
    stage.py        what a scene has at hand
    screen.py       how it looks
    apis.py         what applications ask, and http_client.py, how they send it
    json_text.py    JSON for people to read
    folder.py       the files of one demo
    next_steps.py   what to try while it runs on
    provider.py     the simulated provider
    policy.yaml     the policy of the story

Envoy, policyd and its store are the real ones. The provider is simulated, so that no key is needed and nothing is paid.
"""

import asyncio
import logging
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from policyd.config import Settings
from policyd.core.errors import PolicydError
from policyd.demo.folder import Folder
from policyd.demo.http_client import HttpClient
from policyd.demo.next_steps import show_next_steps
from policyd.demo.provider import SimulatedProvider
from policyd.demo.scenes import SCENES
from policyd.demo.screen import Screen
from policyd.demo.stage import Stage
from policyd.envoy_config import EnvoySettings, parse_upstreams
from policyd.prices.table import load_price_book
from policyd.server import Server
from policyd.tokens import TokenCounter
from policyd.up import Mesh, running
from policyd.v1.policy_service_pb2_grpc import PolicyServiceStub

POLICY: Final = Path(__file__).with_name("policy.yaml")
PICTURE: Final = """
applications --> Envoy --> OpenAI, Anthropic (simulated in this demo)
                   |
                policyd <-- other services"""

STOP_SECONDS: Final = 1
"""How long requests that are open at the end may take."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StoryFailed(PolicydError):
    """A scene could not be played, or what it claims does not hold."""


class StoryInterrupted(PolicydError):
    """SIGINT or SIGTERM came before the end."""


async def run_demo(settings: Settings, envoy: EnvoySettings, *, screen: Screen, keep: bool) -> None:
    """Tells the story; with `keep`, everything then runs on until SIGINT or SIGTERM.

    Only the addresses in `settings` and `envoy` are used. Raises `ConfigError` for an address that is taken,
    `EnvoyFailed`, `StoryFailed`, `StoryInterrupted`.
    """
    loop = asyncio.get_running_loop()
    with _folder() as folder:
        demo = asyncio.create_task(_run(settings, envoy, folder, screen=screen, keep=keep))
        for number in _SIGNALS:
            loop.add_signal_handler(number, demo.cancel)
        try:
            await demo
        except asyncio.CancelledError:
            raise StoryInterrupted("the demo was interrupted") from None
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


async def _run(settings: Settings, envoy: EnvoySettings, folder: Folder, *, screen: Screen, keep: bool) -> None:
    began = time.monotonic()
    screen.title("policyd keeps LLM spending inside its budget", PICTURE)
    with folder.exchanges.open("wb") as exchanges:
        server = Server(
            Settings(
                policy_path=folder.policy,
                store_url=f"sqlite:///{folder.store}",
                grpc_address=settings.grpc_address,
                ext_proc_address=settings.ext_proc_address,
                transport=settings.transport,
                http_address=settings.http_address,
                shutdown_grace_seconds=STOP_SECONDS,
            ),
            log_stream=exchanges,
        )
        async with SimulatedProvider(count_text=_count_text) as provider:
            upstreams = parse_upstreams([f"openai={provider.url}", f"anthropic={provider.url}"])
            in_front = EnvoySettings(
                listen_address=envoy.listen_address, admin_address=envoy.admin_address, upstreams=upstreams
            )
            async with running(server, in_front) as mesh:
                await _tell(mesh, provider, screen)
                seconds = round(time.monotonic() - began)
                screen.title(f"{screen.claims} claims, each checked while it was told, in {seconds} seconds.")
                if keep:
                    server.handle_signals()
                    show_next_steps(screen, mesh, folder)
                    await mesh.wait(drain_seconds=STOP_SECONDS)
                else:
                    screen.say(f"To try it yourself: {shlex.quote(sys.argv[0])} demo --keep")


async def _tell(mesh: Mesh, provider: SimulatedProvider, screen: Screen) -> None:
    async with grpc.aio.insecure_channel(mesh.grpc_address) as channel:
        stage = Stage(
            screen=screen,
            proxy=HttpClient(mesh.listen_address),
            http=HttpClient(mesh.http_address),
            policyd=PolicyServiceStub(channel),
            provider=provider,
            prices=load_price_book(),
        )
        for number, scene in enumerate(SCENES, start=1):
            screen.scene(number, scene.title, scene.sentence)
            try:
                await scene.play(stage)
            except (PolicydError, OSError, EOFError, grpc.RpcError) as error:
                raise StoryFailed(f"scene {number}, {scene.title}: {str(error) or type(error).__name__}") from error


def _count_text(text: str) -> int:
    """How the provider counts: as OpenAI does for its current models."""
    return TokenCounter().count_text(text, provider="openai", model="gpt-4o")


@contextmanager
def _folder() -> Iterator[Folder]:
    """A folder with the policy in it. It is removed at the end, unless the story fails: its logs may say why."""
    folder = Folder(Path(tempfile.mkdtemp(prefix="policyd-demo-")))
    shutil.copyfile(POLICY, folder.policy)
    # The story has the terminal for itself.
    logging.basicConfig(
        filename=folder.messages, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", force=True
    )
    try:
        yield folder
    except StoryFailed as error:
        raise StoryFailed(f"{error}\nThe logs are in {folder.path}") from error
    except BaseException:
        shutil.rmtree(folder.path)
        raise
    shutil.rmtree(folder.path)
