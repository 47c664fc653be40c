"""JSON replies too large to be held back, or of a length that nobody tells, pass as they come and are metered."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from policyd.core.usage import Usage
from policyd.demo.provider import SimulatedProvider
from policyd.demo.simulated.text import padding, text
from tests.e2e import raw
from tests.e2e.books import assert_charged, wait_until_idle
from tests.e2e.conftest import BOTH_TRANSPORTS
from tests.e2e.mesh import Mesh
from tests.e2e.sdks import Anthropic, OpenAI, Sdk

pytestmark = BOTH_TRANSPORTS

KB, MB = 1_000, 1_000_000

BUFFERED_BYTES_MAX = 512 * 1024

PATHS = {"openai": raw.CHAT, "anthropic": "/v1/messages"}


@pytest.mark.parametrize("unknown_length", [False, True], ids=["length", "no-length"])
@pytest.mark.parametrize("size", [400 * KB, 600 * KB, 3 * MB, 30 * MB], ids=["400k", "600k", "3M", "30M"])
@pytest.mark.parametrize("api", [OpenAI(), Anthropic()], ids=["openai", "anthropic"])
def test_a_large_reply_arrives_whole_and_is_charged_by_its_usage(
    mesh: Mesh, provider: SimulatedProvider, project: str, api: Sdk, size: int, unknown_length: bool
) -> None:
    wait_until_idle(provider)
    provider.reset()
    headers = {
        "x-policyd-project": project,
        "x-sim-pad-bytes": str(size),
        "x-sim-unknown-length": "1" if unknown_length else "0",
    }
    reply = raw.post(mesh.listen, PATHS[api.provider], body=raw.chat(model=api.model, max_tokens=100), headers=headers)

    assert len(reply.body) == provider.served.bytes_sent
    assert said(reply.body) == text(tokens=40) + padding(about_bytes=size)
    assert ("x-policyd-cost-usd" in reply.headers) == (len(reply.body) <= BUFFERED_BYTES_MAX and not unknown_length)
    line = mesh.record(reply.headers["x-policyd-request-id"])
    assert line["usage_source"] == "reported"
    usage = Usage(input=line["usage"]["input"], output=40)
    assert_charged(mesh, project, usage, sdk=api, request_id=line["request_id"])


def test_to_an_sdk_a_large_reply_is_like_any_other(mesh: Mesh, sdk: Sdk, project: str) -> None:
    reply = sdk.ask(mesh, project=project, script={"pad-bytes": 3 * MB})

    assert reply.text == text(tokens=40) + padding(about_bytes=3 * MB)
    assert reply.usage is not None
    assert_charged(mesh, project, reply.usage, sdk=sdk, request_id=reply.request_id)


@pytest.mark.parametrize("size", [0, 3 * MB], ids=["small", "3M"])
def test_a_reply_that_was_compressed_all_the_same_stays_so_and_is_read(mesh: Mesh, project: str, size: int) -> None:
    headers = {"x-policyd-project": project, "x-sim-pad-bytes": str(size), "x-sim-encoding": "gzip"}
    reply = raw.post(mesh.listen, body=raw.chat(max_tokens=100), headers=headers)

    assert reply.headers["content-encoding"] == "gzip"
    assert said(gzip.decompress(reply.body)) == text(tokens=40) + padding(about_bytes=size)
    line = mesh.record(reply.headers["x-policyd-request-id"])
    usage = Usage(input=line["usage"]["input"], output=40)
    assert_charged(mesh, project, usage, sdk=OpenAI(), request_id=line["request_id"])


def said(body: bytes) -> Any:
    """The text of a reply."""
    document = json.loads(body)
    return document["choices"][0]["message"]["content"] if "choices" in document else document["content"][0]["text"]
