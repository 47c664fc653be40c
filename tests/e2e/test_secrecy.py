"""No prompt, no reply and no credential is in anything that policyd writes, whatever becomes of the request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import IncompleteRead
from pathlib import Path

import grpc
import pytest

from policyd.v1.model_request_pb2 import ModelRequest, RequestBody
from policyd.v1.policy_service_pb2 import CheckBudgetRequest, ReserveRequest
from policyd.v1.policy_service_pb2_grpc import PolicyServiceStub
from tests.e2e.mesh import Mesh, policyd_up
from tests.e2e.raw import chat, post
from tests.e2e.upstream import Upstream, kept_open, upstream
from tests.stores import redis_server

CANARY = "canary-9f27c1"
"""In every text and every credential of these requests, so that one search finds them all."""

PASSWORD = f"{CANARY}-of-redis"
TOKEN = f"{CANARY}-bearer-token"
KEY = f"sk-{CANARY}-of-the-client"

POLICY = """
version: 1
api_keys: optional
default_max_output_tokens: 50
identity:
  project: [{header: x-policyd-project}, {default: someone}]
limits:
  - {name: project-spend, per: [project], cost_usd: 1.00, window: lifetime}
  - {name: nothing-left, match: {project: spent}, per: [project], cost_usd: 0, window: lifetime}
  - {name: small, match: {project: cut}, per: [project], cost_usd: 0.002, window: lifetime}
"""

PROMPT = [{"role": "system", "content": f"{CANARY} in German"}, {"role": "user", "content": f"Say {CANARY}."}]
USAGE = {"prompt_tokens": 30, "completion_tokens": 8, "total_tokens": 38}


@dataclass(frozen=True)
class Site:
    """A policyd with Envoy, and every place that it writes to."""

    mesh: Mesh
    provider: Upstream
    pd_key: str
    folder: Path

    def written(self) -> Mapping[str, bytes]:
        """What is in each place once it has ended, by the place's name."""
        files = {str(file): file.read_bytes() for file in self.folder.rglob("*") if file.is_file()}
        return {**files, "standard output": json.dumps(self.mesh.drain_log()).encode()}


def _sqlite(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder}/policyd.db"


def _redis(folder: Path) -> Iterator[str]:
    # What it has stored is in its append-only file, word by word.
    arguments = ("--appendonly", "yes", "--appendfsync", "always", "--requirepass", PASSWORD)
    with redis_server.running(folder / "redis", *arguments) as server:
        yield f"redis://:{PASSWORD}@{server.address}/0"


@contextmanager
def site(store: str, folder: Path) -> Iterator[Site]:
    given = folder / "given"
    given.mkdir()
    policy, tokens, wrote = given / "policyd.yaml", given / "tokens", folder / "wrote"
    policy.write_text(POLICY)
    tokens.write_text(TOKEN)
    with upstream() as provider, (wrote / "stderr").open("wb") as stderr:
        environ = {"POLICYD_ACCESS_TOKENS": str(tokens)}
        with policyd_up(
            upstreams={"openai": provider.url, "google": provider.url},
            store=store,
            policy=policy,
            environ=environ,
            stderr=stderr,
        ) as mesh:
            pd_key = _created_key(store)
            yield Site(mesh, provider, pd_key, wrote)


def _created_key(store: str) -> str:
    created = subprocess.run(
        [sys.executable, "-m", "policyd", "keys", "create", "bot", "project=keyed"],
        env={**os.environ, "POLICYD_STORE": store},
        capture_output=True,
        text=True,
        check=True,
    )
    return next(word for word in created.stdout.split() if word.startswith("pd_"))


def reply(body: bytes, *, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nset-cookie: {CANARY}=1\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answer(**members: object) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": CANARY}, "finish_reason": "stop"}
    return json.dumps({"id": "1", "model": "gpt-4o", "choices": [choice], "usage": USAGE, **members}).encode()


def stream(*, chunks: int) -> bytes:
    chunk = {"id": "1", "model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": f"{CANARY} "}}]}
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for _ in range(chunks)) + b"data: [DONE]\n\n"


REPLIES = (
    reply(answer()),
    reply(answer(usage=None)),
    reply(f'{{"choices": "{CANARY}'.encode()),
    reply(json.dumps({"error": {"message": CANARY}}).encode(), status="400 Bad Request"),
    reply(CANARY.encode(), status="500 Internal Server Error", kind=CANARY),
    reply(stream(chunks=5), kind="text/event-stream"),
    reply(f"data: {{{CANARY}\n\n".encode(), kind="text/event-stream"),
)


def endless_reply() -> bytes:
    """The beginning of a stream that is worth more than is left."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    return head + stream(chunks=200).removesuffix(b"data: [DONE]\n\n")


BODIES = {
    "whole": chat(messages=PROMPT, max_tokens=20),
    "no JSON": chat(messages=PROMPT)[:-2],
    "unknown model": chat(messages=PROMPT, model="gpt-of-nobody"),
    "wrong types": chat(messages=PROMPT, max_tokens=CANARY),
    "strange parts": chat(messages=[{"role": CANARY, "content": [{"type": CANARY, CANARY: CANARY}]}]),
}

UNBOUNDED = chat(messages=PROMPT)

CREDENTIALS = (
    ("authorization", f"Bearer {KEY}"),
    ("x-api-key", KEY),
    ("api-key", KEY),
    ("x-goog-api-key", KEY),
    ("cookie", f"session={CANARY}"),
    ("proxy-authorization", f"Basic {CANARY}"),
)


def ask(it: Site, body: bytes, *, project: str = "acme", streams: bool = False) -> None:
    """One request with every credential there is; how it ends is not looked at."""
    if streams:
        body = body[:-1] + b', "stream": true}'
    try:
        post(it.mesh.listen, body=body, headers=[*CREDENTIALS, ("x-policyd-project", project)])
    except IncompleteRead:
        assert project == "cut"


def ask_google(it: Site) -> None:
    path = f"/v1beta/models/gemini-2.0-flash:generateContent?key={KEY}&alt={CANARY}"
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": CANARY}]}]}).encode()
    it.provider.reply = reply(json.dumps({"candidates": [{"content": {"parts": [{"text": CANARY}]}}]}).encode())
    post(it.mesh.listen, path, body=body)


def call(it: Site, token: str) -> None:
    """PolicyService, with a prompt in the request's body."""
    body = RequestBody(content=BODIES["whole"])
    request = ModelRequest(provider="openai", endpoint="chat.completions", body=body)
    with grpc.insecure_channel(it.mesh.grpc) as channel:
        stub = PolicyServiceStub(channel)
        metadata = (("authorization", f"Bearer {token}"),)
        try:
            stub.CheckBudget(CheckBudgetRequest(model_request=request), metadata=metadata, timeout=10)
            stub.Reserve(ReserveRequest(request_id="r-1", model_request=request), metadata=metadata, timeout=10)
        except grpc.RpcError:
            assert token != TOKEN


@pytest.mark.parametrize("store", [_sqlite, _redis], ids=["sqlite", "redis"])
def test_nothing_secret_is_written_anywhere(store: object, tmp_path: Path) -> None:
    (tmp_path / "wrote").mkdir()
    assert callable(store)
    urls: Iterator[str] = store(tmp_path / "wrote")
    with site(next(urls), tmp_path) as it:
        for raw in REPLIES:
            it.provider.reply = raw
            ask(it, BODIES["whole"], streams=b"event-stream" in raw)
        it.provider.reply = endless_reply()
        with kept_open(it.provider):
            ask(it, UNBOUNDED, project="cut", streams=True)
        it.provider.reply = REPLIES[0]
        for body in BODIES.values():
            ask(it, body)
        ask(it, BODIES["whole"], project="spent")
        post(it.mesh.listen, body=BODIES["whole"], headers=[("authorization", f"Bearer {it.pd_key}")])
        post(it.mesh.listen, body=BODIES["whole"], headers=[("authorization", f"Bearer {it.pd_key}x")])
        ask_google(it)
        call(it, TOKEN)
        call(it, f"{TOKEN}-not")
        it.mesh.records_of("acme", count=len(REPLIES))
        page = it.mesh.get("/metrics", authorization=f"Bearer {TOKEN}")[1]
        processes = _own_words(it.mesh.process.pid)
    places = {**it.written(), "metrics": page.encode(), **processes}
    outcomes = {str(line.get("outcome")) for line in it.mesh.lines}
    assert outcomes >= {"served", "provider_error", "denied", "rejected", "cut"}, outcomes
    assert b"policyd_exchanges_total" in places["metrics"]
    for place, content in places.items():
        assert CANARY.encode() not in content, place
        assert it.pd_key.encode() not in content, place
    next(urls, None)


def _own_words(pid: int) -> Mapping[str, bytes]:
    """What everybody on the machine can read of the process and of those it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pids = [str(pid), *children]
    return {f"/proc/{each}/cmdline": Path(f"/proc/{each}/cmdline").read_bytes() for each in pids}


def test_a_server_leaves_no_core_dump_and_cannot_be_looked_into() -> None:
    program = """
import ctypes, resource
from policyd.secrecy import forbid_core_dumps
forbid_core_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert run.stdout.split("\n")[0] == "(0, 0) 0"
